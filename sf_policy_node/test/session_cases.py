"""A policy session with a scripted policy and a manual clock."""

import threading
import time

import numpy as np
from motion_cases import HOME, sim_arm
from node_cases import ScriptedPolicy

from sf_policy_node.session.policy_session import PolicySession


class Stage:
    """A session whose clock, images and joint states the test controls."""

    def __init__(self, policy=None, **options):
        self.now, self.policy = 100.0, policy or ScriptedPolicy()
        self.chunks, self.notified = [], threading.Event()
        self.decode = lambda camera, image: image
        self.session = PolicySession(
            sim_arm(),
            self.policy,
            decode=lambda camera, image: self.decode(camera, image),
            publish=self.chunks.append,
            notify=self.notified.set,
            clock=lambda: self.now,
            replan_s=0.3,
            observation_timeout_s=5.0,
            **options,
        )

    def see(self, stamp=None, cameras=("scene", "wrist")):
        """Give the session a joint state and an image of each camera."""
        stamp = self.now if stamp is None else stamp
        self.session.add_joint_state(stamp, sim_arm().command_joints, HOME)
        for camera in cameras:
            self.session.add_image(camera, stamp, np.zeros((240, 320, 3), np.uint8))

    def until(self, condition, what):
        end = time.monotonic() + 120.0
        while not condition():
            assert time.monotonic() < end, what
            time.sleep(0.002)

    def advance(self, seconds, step=0.05):
        """Advance the time, with images."""
        for _ in range(round(seconds / step)):
            self.now += step
            self.see()
            self.settle()

    def settle(self):
        """Wait until the worker has processed everything."""
        for _ in range(2):
            self.until(lambda: not self.session._wake.is_set(), "the worker")
            with self.session._lock:
                pass
            time.sleep(0.001)
