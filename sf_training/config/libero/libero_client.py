"""Success of a policy in LIBERO, asked over openpi's websocket protocol.

Runs in LIBERO's own environment (``requirements.txt`` beside it) and needs this one file: it
imports nothing of this package. The policy runs elsewhere: ``sf_training libero-serve``, or
openpi's ``scripts/serve_policy.py``.

Protocol of openvla-oft's ``run_libero_eval.py``: 10 tasks x 50 initial states, seed 7, images of
256 x 256 turned by 180 degrees, 10 steps in which the objects settle, 8 actions of a chunk
executed before the next is asked for. The environment's seed is 0 there and 7 in openpi's
(``--env-seed``).

$ python libero_client.py --suite libero_spatial --server ws://127.0.0.1:8000 --out spatial.jsonl
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
import time
from collections import deque
from pathlib import Path

import msgpack
import numpy as np
from websockets.exceptions import WebSocketException
from websockets.sync.client import connect

MAX_STEPS = {
    "libero_spatial": 220,
    "libero_object": 280,
    "libero_goal": 300,
    "libero_10": 520,
    "libero_90": 400,
}
_IDLE = [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -1.0]
_SIDE = 256  # pixels, as the demonstrations were rendered
_TOLD_S = 10.0


class ServerGone(RuntimeError):
    """The policy's server cannot be asked; the message says what to do."""


class Server:
    """A policy behind openpi's websocket protocol.

    Args:
        address: ``ws://host:port``.
        timeout_s: for the connection, and for each answer.
        token: sent as ``Authorization: Api-Key TOKEN``; empty sends none.

    Raises:
        ServerGone: nothing answers there, or it serves a policy for a robot contract.
    """

    def __init__(self, address, timeout_s=60.0, token=""):
        self.address, self._timeout = address, timeout_s
        headers = {"Authorization": f"Api-Key {token}"} if token else {}
        try:
            self._socket = connect(
                address,
                compression=None,
                max_size=None,
                open_timeout=timeout_s,
                additional_headers=headers,
            )
            self.metadata = _unpack(self._socket.recv(timeout=timeout_s))
        except (OSError, ValueError, TimeoutError, WebSocketException) as error:
            raise ServerGone(
                f"{address}: no answer ({error}); start `sf_training libero-serve`, or check"
                " --server"
            ) from None
        if self.metadata.get("server") == "sf_policy_node":
            raise ServerGone(
                f"{address}: serves a policy for a robot contract; serve a LIBERO policy with"
                " `sf_training libero-serve`"
            )

    def actions(self, observation):
        """Return the chunk (H, 7) for an observation in openpi's keys.

        Raises:
            ServerGone: the server is gone, refuses the observation, or sends no such chunk.
        """
        try:
            self._socket.send(_pack(observation))
            reply = self._socket.recv(timeout=self._timeout)
        except (OSError, TimeoutError, WebSocketException) as error:
            raise ServerGone(
                f"{self.address}: the connection is gone ({error}); start the server again and"
                " repeat the command: finished episodes are kept"
            ) from None
        if isinstance(reply, str):
            raise ServerGone(f"{self.address}: {reply.strip().splitlines()[-1]}")
        chunk = np.asarray(_unpack(reply).get("actions"), float)
        if chunk.ndim != 2 or chunk.shape[1] != 7 or not np.isfinite(chunk).all():
            raise ServerGone(
                f"{self.address}: sent actions of shape {chunk.shape}; LIBERO takes finite (steps,"
                " 7)"
            )
        return chunk

    def close(self):
        """Close the connection."""
        self._socket.close()


def observation(seen, instruction):
    """Return what the server is sent: both images turned by 180 degrees, state (8,), text.

    The state is the tool's position [m], its rotation vector [rad] and both finger joints [m].
    """
    return {
        "observation/image": _turned(seen["agentview_image"]),
        "observation/wrist_image": _turned(seen["robot0_eye_in_hand_image"]),
        "observation/state": np.concatenate(
            [
                seen["robot0_eef_pos"],
                rotation_vector(seen["robot0_eef_quat"]),
                seen["robot0_gripper_qpos"],
            ]
        ),
        "prompt": instruction,
    }


def rotation_vector(quaternion):
    """Rotation vector (3,) of a quaternion x y z w, as robosuite's ``quat2axisangle``."""
    w = min(1.0, max(-1.0, float(quaternion[3])))
    sine = math.sqrt(1.0 - w * w)
    if math.isclose(sine, 0.0):
        return np.zeros(3)
    return np.asarray(quaternion[:3], float) * 2.0 * math.acos(w) / sine


def run_episode(env, state, instruction, server, limit, settle=10, open_loop=8):
    """Run one episode; return whether it succeeded, and after how many steps of the policy."""
    env.reset()
    seen = env.set_init_state(state)
    for _ in range(settle):
        seen = env.step(_IDLE)[0]
    actions = deque()
    for step in range(limit):
        if not actions:
            chunk = server.actions(observation(seen, instruction))
            if len(chunk) < open_loop:
                raise ServerGone(
                    f"{server.address}: sent {len(chunk)} actions, --open-loop is {open_loop};"
                    " lower it"
                )
            actions.extend(chunk[:open_loop])
        seen, _, done, _ = env.step(actions.popleft().tolist())
        if done:
            return True, step + 1
    return False, limit


def evaluate(arguments, server):
    """Run what is not yet in the file of results; return all results of the suite."""
    from libero.libero import benchmark, get_libero_path
    from libero.libero.envs import OffScreenRenderEnv

    random.seed(arguments.seed)
    np.random.seed(arguments.seed)
    results = _finished(arguments)
    suite = benchmark.get_benchmark_dict()[arguments.suite]()
    told = time.monotonic()
    for number in range(suite.n_tasks):
        if all((number, trial) in results for trial in range(arguments.trials)):
            continue
        task = suite.get_task(number)
        states = suite.get_task_init_states(number)
        bddl = Path(get_libero_path("bddl_files")) / task.problem_folder / task.bddl_file
        env = OffScreenRenderEnv(
            bddl_file_name=str(bddl), camera_heights=_SIDE, camera_widths=_SIDE
        )
        env.seed(arguments.env_seed)  # it moves objects even with a fixed initial state
        try:
            for trial in range(arguments.trials):
                if (number, trial) in results:
                    continue
                success, steps = run_episode(
                    env,
                    states[trial],
                    task.language,
                    server,
                    MAX_STEPS[arguments.suite],
                    arguments.settle,
                    arguments.open_loop,
                )
                results[number, trial] = success
                _keep(arguments, number, trial, task.language, success, steps)
                if time.monotonic() - told > _TOLD_S:
                    told = time.monotonic()
                    print(_summary(results), flush=True)
        finally:
            env.close()
    return results


def main(argv=None):
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--suite", choices=sorted(MAX_STEPS), default="libero_spatial")
    parser.add_argument("--server", default="ws://127.0.0.1:8000", help="address of the policy")
    parser.add_argument("--token-file", type=Path, help="file with the token of the server")
    parser.add_argument("--out", type=Path, required=True, help="results, one line an episode")
    parser.add_argument("--trials", type=int, default=50, help="episodes of each task, 1 to 50")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--env-seed", type=int, default=0, help="0: openvla-oft, 7: openpi")
    parser.add_argument("--settle", type=int, default=10, help="steps before the first question")
    parser.add_argument("--open-loop", type=int, default=8, help="actions executed of a chunk")
    parser.add_argument("--timeout", type=float, default=60.0, help="for an answer [s]")
    arguments = parser.parse_args(argv)
    token = arguments.token_file.read_text().strip() if arguments.token_file else ""
    try:
        server = Server(arguments.server, arguments.timeout, token)
        try:
            results = evaluate(arguments, server)
        finally:
            server.close()
    except (ServerGone, ValueError) as error:
        sys.exit(f"libero_client: {error}")
    except ImportError as error:
        sys.exit(
            f"libero_client: {error}; run this file in LIBERO's environment"
            " (requirements.txt beside it)"
        )
    for number in sorted({task for task, _ in results}):
        part = {key: value for key, value in results.items() if key[0] == number}
        print(f"task {number}: {_summary(part)}")
    print(f"{arguments.suite}: {_summary(results)}")
    return 0


def wilson(successes, count, z=1.96):
    """95 % interval of a share (Wilson)."""
    share, spread = successes / count, z * z / count
    middle = (share + spread / 2) / (1 + spread)
    half = z / (1 + spread) * math.sqrt(share * (1 - share) / count + spread / (4 * count))
    return middle - half, middle + half


def _settings(arguments):
    names = ("suite", "seed", "env_seed", "settle", "open_loop")
    return {name: getattr(arguments, name) for name in names}


def _finished(arguments):
    """Results in the file; refused where they are of other settings."""
    if not arguments.out.is_file():
        return {}
    found = {}
    for line in arguments.out.read_text().splitlines():
        row = json.loads(line)
        if row["settings"] != _settings(arguments):
            raise ValueError(
                f"--out {arguments.out}: holds results with {row['settings']}; choose another file"
            )
        if row["trial"] < arguments.trials:
            found[row["task"], row["trial"]] = row["success"]
    return found


def _keep(arguments, task, trial, instruction, success, steps):
    row = {
        "task": task,
        "trial": trial,
        "instruction": instruction,
        "success": success,
        "steps": steps,
        "settings": _settings(arguments),
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    with arguments.out.open("a") as file:
        file.write(json.dumps(row) + "\n")


def _summary(results):
    count, good = len(results), sum(results.values())
    low, high = wilson(good, count)
    return f"{good} of {count} succeeded, {good / count:.1%} (95 %: {low:.1%} to {high:.1%})"


def _turned(image):
    return np.ascontiguousarray(image[::-1, ::-1])


def _pack(value):
    def plain(item):
        array = np.asarray(item)
        return {
            b"__ndarray__": True,
            b"data": array.tobytes(),
            b"dtype": array.dtype.str,
            b"shape": array.shape,
        }

    return msgpack.packb(value, default=plain)


def _unpack(data):
    def array(item):
        if b"__ndarray__" in item:
            kind = np.dtype(item[b"dtype"])
            if kind.kind not in "biuf":
                raise ValueError(f"an array has the dtype {kind}")
            return np.frombuffer(item[b"data"], kind).reshape(item[b"shape"])
        if b"__npgeneric__" in item:
            return item[b"data"]
        return item

    return msgpack.unpackb(data, object_hook=array)


if __name__ == "__main__":
    sys.exit(main())
