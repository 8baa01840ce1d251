"""The wall clock of the executor's host is set while the arm moves; the arm's host keeps its time.

The executor is a process of its own on real time. A library that is loaded before libc shifts its
clock (CLOCK_REALTIME), the machine's stays. The controller is the model of the real one.
"""

import dataclasses
import os
import shutil
import struct
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
from executor_cases import COMMANDS, TOPICS
from motion_cases import CONTRACT_PATH, HOME, make_chunk, sim_arm, straight
from rclpy.qos import QoSProfile
from sensor_msgs.msg import JointState
from std_msgs.msg import Header
from trajectory_msgs.msg import JointTrajectory

from sf_msgs.msg import ActionChunk, ExecutorStatus
from sf_policy_node.controller.control_loop import ControlLoop
from sf_policy_node.motion.arm.limits import JointLimits
from sf_policy_node.nodes.conversions import chunk_to_message, to_seconds, to_stamp

pytestmark = [
    pytest.mark.ros,
    pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc"),
]
LIMITS = JointLimits.of(sim_arm())
SHIFTED_CLOCK = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>

static int (*original)(clockid_t, struct timespec *);
static volatile int64_t *shift;  /* ns */

__attribute__((constructor)) static void load(void) {
    original = dlsym(RTLD_NEXT, "clock_gettime");
    void *page = mmap(0, 8, PROT_READ, MAP_SHARED, open(getenv("SHIFT_FILE"), O_RDONLY), 0);
    shift = page == MAP_FAILED ? 0 : page;
}

int clock_gettime(clockid_t clock, struct timespec *time) {
    int result = original(clock, time);
    if (result == 0 && clock == CLOCK_REALTIME && shift) {
        int64_t sum = time->tv_sec * INT64_C(1000000000) + time->tv_nsec + *shift;
        time->tv_sec = sum / INT64_C(1000000000);
        time->tv_nsec = sum % INT64_C(1000000000);
    }
    return result;
}
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clock")
    source, library = folder / "shifted_clock.c", folder / "shifted_clock.so"
    source.write_text(SHIFTED_CLOCK)
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    return library


class TwoHosts:
    """An executor whose clock is shifted, and an arm that moves on the machine's clock."""

    def __init__(self, graph, library, folder):
        self.graph, self._file = graph, folder / "shift"
        self._file.write_bytes(bytes(8))
        self.shift = 0.0
        self.loop = ControlLoop(LIMITS.names, HOME, time.time(), update_rate_hz=100.0)
        self.statuses, self.reasons = graph.listen(ExecutorStatus, TOPICS.executor_status), set()
        graph.peer.create_subscription(JointTrajectory, COMMANDS, self._receive, 10)
        self._joint_states = graph.peer.create_publisher(JointState, TOPICS.joint_states, 10)
        self._published, self.sequence, self.epoch = 0.0, 0, 1
        command = [sys.executable, "-m", "sf_policy_node.nodes.chunk_executor", "--ros-args"]
        self.process = subprocess.Popen(
            [*command, "-p", f"contract:={CONTRACT_PATH}"],
            env={**os.environ, "LD_PRELOAD": str(library), "SHIFT_FILE": str(self._file)},
        )
        self._chunks = graph.publisher(ActionChunk, TOPICS.action_chunk, QoSProfile(depth=5))

    def set_clock(self, shift):
        """Set the clock of the executor's host ``shift`` [s] ahead of the arm's."""
        with open(self._file, "r+b") as file:  # in place: the process has mapped it
            file.write(struct.pack("q", round(shift * 1e9)))
        self.shift = shift

    def until(self, condition, what):
        return self.graph.until(condition, what, each=self._turn)

    def _turn(self):
        assert self.process.poll() is None, "the executor has ended"
        now = time.time()
        self.loop.advance(now)
        self.reasons |= {each.reason for each in self.statuses[-3:]}
        if now - self._published >= 0.01:
            self._published = now
            self._joint_states.publish(
                JointState(
                    header=Header(stamp=to_stamp(now)),
                    name=list(LIMITS.names),
                    position=self.loop.position.tolist(),
                    velocity=self.loop.velocity.tolist(),
                )
            )

    def _receive(self, message):
        points = message.points
        trajectory = SimpleNamespace(
            stamp=to_seconds(message.header.stamp),
            joint_names=message.joint_names,
            times=np.array([to_seconds(point.time_from_start) for point in points]),
            positions=np.array([point.positions for point in points]),
            velocities=np.array([point.velocities for point in points]),
        )
        self.loop.receive(trajectory, time.time())

    def send(self, per_step):
        self.sequence += 1
        chunk = make_chunk(sim_arm(), straight(sim_arm(), per_step), epoch=self.epoch)
        chunk = dataclasses.replace(
            chunk,
            stamp=time.time() + self.shift,
            sequence=self.sequence,
            reference=self.loop.position.copy(),
        )
        self._chunks.publish(chunk_to_message(chunk))

    def follow(self, condition, what, per_step=(0.01, 0.0, 0.0)):
        """Send a chunk every 0.3 s until a condition is true."""
        sent = 0.0

        def sends():
            nonlocal sent
            if not condition() and time.monotonic() - sent > 0.3:
                sent = time.monotonic()
                self.send(per_step)
            return condition()

        return self.until(sends, what)

    @property
    def moves(self):
        return np.abs(self.loop.velocity).max() > 0.05

    @property
    def state(self):
        return self.statuses[-1].state if self.statuses else None


@pytest.fixture
def hosts(processes_graph, library, tmp_path):
    hosts = TwoHosts(processes_graph, library, tmp_path)
    yield hosts
    hosts.process.kill()
    hosts.process.wait()


@pytest.mark.parametrize("step", [5.0, -2.0, 0.3])
def test_a_set_clock_stops_the_arm_without_a_leap_and_it_moves_again_later(hosts, step):
    hosts.until(lambda: hosts.state == ExecutorStatus.HOLDING, "the executor")
    hosts.follow(lambda: hosts.moves, "a motion")
    hosts.set_clock(step)
    hosts.follow(lambda: any("clock" in reason for reason in hosts.reasons), "the reason")
    hosts.follow(lambda: not hosts.moves, "the end of the motion")
    hosts.set_clock(0.0)
    hosts.until(lambda: hosts.state == ExecutorStatus.HOLDING, "a settled arm")
    hosts.epoch += 1
    hosts.follow(lambda: hosts.moves, "a motion after the clock was right again", (-0.01, 0, 0))
    steps = np.abs(np.diff(hosts.loop.take().positions, axis=0))
    # A message that a busy machine delivers late makes small steps; a wrong time makes large ones.
    assert (steps <= 0.01 * LIMITS.velocity + 0.03).all()
    assert all(any(word in each for each in hosts.reasons) for word in ("forward by", "back by"))
