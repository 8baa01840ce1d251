"""Run a policy host and a robot host over DDS on a network that delays, loses and is cut.

Usage as root: ``PYTHONPATH=tests:$PYTHONPATH python3 -m bench.two_hosts``. The simulated arm and
its executor run in one network namespace, the policy in another; images are compressed. The link
between them is :mod:`bench.network_link`. An observer beside the executor counts chunks and holds.
Everything runs on one machine, so the clocks of both hosts agree.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import tyro
import yaml
from bench.network_link import Condition, Link, two_hosts
from patient import patient_robot

from sf_bringup.graph import find_policy, find_robot

ROBOT, POLICY = f"sf_robot_{os.getpid()}", f"sf_policy_{os.getpid()}"
CASES = {
    "direct": Condition(),
    "20 ms, jitter 10 ms": Condition(0.020, 0.010),
    "50 ms, jitter 20 ms": Condition(0.050, 0.020),
    "20 ms, loss 5 %": Condition(0.020, loss=0.05),
}
_READY_S = 240.0  # reading the checkpoint on a busy machine
_OBSERVER = "bench.two_hosts_observer"


@dataclass(frozen=True)
class Arguments:
    """Measure rate, latency, holds and recovery of the run journey on two hosts."""

    seconds: float = 20.0
    """Of each condition, simulated."""
    cut_s: float = 5.0
    """How long the link is cut at the end, simulated."""
    real_time_factor: float = 1.0
    """Of the simulated arm; a busy machine needs less. The network is slowed by the same factor, so
    that all times are simulated ones."""
    patient: bool = False
    """Wide budgets, for a machine that does other work as well."""
    out: Path = Path("out/two_hosts.json")
    """Where the figures go."""


def _contract(folder: Path, patient: bool) -> Path:
    """Write the simulated arm's contract with compressed cameras."""
    if patient:
        path = patient_robot(folder)
    else:
        path = folder / "sim_arm.yaml"
        path.write_text(find_robot("sim_arm").read_text())
        urdf = find_robot("sim_arm").with_name("sim_arm.urdf")
        (folder / urdf.name).write_text(urdf.read_text())
    data = yaml.safe_load(path.read_text())
    for camera in data["cameras"]:
        camera["transport"] = "compressed"
        camera["topic"] += "/compressed"
    path.write_text(yaml.safe_dump(data))
    return path


@contextlib.contextmanager
def _process(host: str, words: list[str], log: Path) -> Iterator[subprocess.Popen]:
    """Run a program on one of the hosts; SIGINT at the end, SIGKILL after 20 s."""
    with log.open("w") as file:
        process = subprocess.Popen(
            ["ip", "netns", "exec", host, *words],
            stdout=file,
            stderr=subprocess.STDOUT,
            env={**os.environ, "ROS_AUTOMATIC_DISCOVERY_RANGE": "SUBNET"},
            start_new_session=True,
        )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGINT)
        try:
            process.wait(20.0)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _events(path: Path) -> list[dict]:
    """Return the events that the observer has written, without an unfinished last line."""
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def _wait_for(condition, what: str, log: Path, seconds: float) -> None:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise SystemExit(f"{what} within {seconds:g} s; see {log.parent}")
        time.sleep(0.2)


def figures(events: list[dict], begin: float, end: float) -> dict[str, float]:
    """Return the figures of one condition from the observer's events between two wall times [s].

    Rates and ages are in simulated time.
    """
    chosen = [event for event in events if begin <= event["at"] < end]
    chunks = [event for event in chosen if event["kind"] == "chunk"]
    states = [event for event in chosen if event["kind"] == "status"]
    ages = [event["age_s"] for event in chunks]
    holds, was = 0, None
    for event in states:
        holds += event["state"] == "HOLDING" and was == "EXECUTING"
        was = event["state"]
    executing = [event["state"] == "EXECUTING" for event in states]
    times = [event["simulated_s"] for event in chosen]
    simulated_s = max(times) - min(times) if times else 0.0
    return {
        "chunks_per_simulated_s": len(chunks) / max(simulated_s, 1e-9),
        "real_time_factor": simulated_s / (end - begin),
        "age_p50_ms": 1e3 * float(np.median(ages)) if ages else float("nan"),
        "age_p95_ms": 1e3 * float(np.quantile(ages, 0.95)) if ages else float("nan"),
        "executing_share": float(np.mean(executing)) if executing else 0.0,
        "holds": holds,
        "refused": states[-1]["refused"] - states[0]["refused"] if states else 0,
    }


def _cut(link: Link, seconds: float, path: Path) -> dict[str, float]:
    """Cut the link for ``seconds`` of wall time and restore it.

    Returns:
        Simulated time [s] from the cut to a hold, and from the restored link to motion;
        NaN if none.
    """
    at = _events(path)[-1]["simulated_s"]
    link.condition = Condition(is_cut=True)
    time.sleep(seconds)
    link.condition, joined = Condition(), _events(path)[-1]["simulated_s"]
    time.sleep(3.0 * seconds)
    states = [
        (event["simulated_s"], event["state"])
        for event in _events(path)
        if event["kind"] == "status"
    ]
    held = [when - at for when, state in states if when > at and state == "HOLDING"]
    moved = [when - joined for when, state in states if when > joined and state == "EXECUTING"]
    return {
        "cut_s": joined - at,
        "hold_after_s": (held or [math.nan])[0],
        "recovered_after_s": (moved or [math.nan])[0],
    }


def main(arguments: Arguments) -> int:
    """Run all conditions; return the exit code."""
    folder = Path(tempfile.mkdtemp(prefix="two_hosts_"))
    contract = _contract(folder, arguments.patient)
    python, events = [sys.executable, "-m"], folder / "events.jsonl"
    factor = arguments.real_time_factor
    robot = ["sf_bringup.up", f"robot:={contract}", "policy:=none", f"real_time_factor:={factor}"]
    policy = ["sf_policy_node.nodes.policy_node", "--ros-args", "-p", "autostart:=true"]
    policy += ["-p", "use_sim_time:=true", "-p", f"contract:={contract}"]
    policy += ["-p", f"checkpoint:={find_policy('nano')}"]
    table: dict[str, dict] = {}
    with contextlib.ExitStack() as stack:
        link = stack.enter_context(two_hosts(ROBOT, POLICY))
        for host, words, name in (
            (ROBOT, robot, "robot"),
            (ROBOT, [_OBSERVER, str(contract), str(events)], "observer"),
            (POLICY, policy, "policy"),
        ):
            stack.enter_context(_process(host, [*python, *words], folder / f"{name}.log"))
        moving = lambda: any(event.get("state") == "EXECUTING" for event in _events(events))  # noqa: E731
        _wait_for(moving, "the arm did not move", events, _READY_S)
        for name, condition in CASES.items():
            link.condition = replace(
                condition, delay_s=condition.delay_s / factor, jitter_s=condition.jitter_s / factor
            )
            time.sleep(2.0)
            begin = time.time()
            time.sleep(arguments.seconds / factor)
            end = time.time()
            load = os.getloadavg()[0]
            table[name] = figures(_events(events), begin, end) | {
                "load": load,
                "mbit_per_s": 8e-6 * link.bytes / (end - begin + 2.0) / factor,
            }
            link.bytes = 0
            print(name, json.dumps(table[name]), flush=True)
        link.condition = Condition()
        table["cut"] = _cut(link, arguments.cut_s / factor, events)
        print("cut", json.dumps(table["cut"]), flush=True)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps({"settings": asdict(arguments), **table}, default=str))
    return 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Arguments, description=__doc__)))
