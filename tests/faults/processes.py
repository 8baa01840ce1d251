"""Run the suite's processes with the injector between them.

Like ``up``, but each process can be killed, stopped and restarted.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import yaml
from faults import injector

from sf_bringup.arguments import SIM_ROBOT
from sf_bringup.arm_client import ArmClientError
from sf_bringup.graph import arm_graph, find_robot
from sf_bringup.up import command_line, start_environment
from sf_policy_node.contract import Contract

INJECTOR = "fault_injector"
_PATIENCE = ((signal.SIGINT, 12.0), (signal.SIGTERM, 4.0), (signal.SIGKILL, 4.0))
_TAIL = 12


def _environment() -> dict[str, str]:
    """Return the environment of a process, in which this package can be imported."""
    environment = start_environment()
    path = [str(Path(__file__).parents[1]), environment.get("PYTHONPATH", "")]
    return {**environment, "PYTHONPATH": os.pathsep.join(filter(None, path))}


class Processes:
    """A context manager that leaves no process behind.

    Args:
        logs: folder for the output of every process, ``<name>.log``.
        policy: as for ``up``; ``none`` starts the arm and the executor only.
        faulty: start the injector between arm and suite.
    """

    def __init__(
        self, contract: Contract, logs: Path, *, policy: str = "nano", faulty: bool = True
    ) -> None:
        self._logs = logs
        self._contract_path = str(find_robot(SIM_ROBOT))
        self._commands: dict[str, list[str]] = {}
        for spec in arm_graph(robot=SIM_ROBOT, policy=policy):
            changed = injector.remappings(contract, spec.name) if faulty else ()
            self._commands[spec.name] = command_line(
                dataclasses.replace(spec, remappings=spec.remappings + changed)
            )
        if faulty:
            contract_path = f"contract:={self._contract_path}"
            self._commands[INJECTOR] = [
                sys.executable,
                "-m",
                injector.__name__,
                "--ros-args",
                "-p",
                contract_path,
            ]
        self._running: dict[str, subprocess.Popen] = {}
        self.crashes: list[str] = []
        """Processes that ended by themselves, one sentence each."""

    def __enter__(self) -> Processes:
        self._logs.mkdir(parents=True, exist_ok=True)
        for name in self._commands:
            (self._logs / f"{name}.log").unlink(missing_ok=True)
            self.start(name)
        return self

    def __exit__(self, *_) -> None:
        for name in self._running:
            self.signal(name, signal.SIGCONT)
        for number, patience in _PATIENCE:
            for name in self._running:
                self.signal(name, number)
            for process in self._running.values():
                try:
                    process.wait(patience)
                except subprocess.TimeoutExpired:
                    continue

    @property
    def pids(self) -> dict[str, int]:
        """Return process ids by name."""
        return {name: process.pid for name, process in self._running.items()}

    def start(self, name: str) -> None:
        """Start a process, or restart it."""
        with open(self._logs / f"{name}.log", "ab") as output:
            # A separate session: Ctrl-C reaches this program only, which then stops the others in
            # order.
            self._running[name] = subprocess.Popen(
                self._commands[name],
                stdout=output,
                stderr=subprocess.STDOUT,
                env=_environment(),
                start_new_session=True,
            )

    def restart(self, name: str, contract: Path | None = None) -> None:
        """End a process (SIGINT) and start it again.

        Args:
            contract: path of another contract that it gets; None: the shipped one.
        """
        process, shipped = self._running.pop(name), self._commands[name]
        process.send_signal(signal.SIGINT)
        try:
            process.wait(_PATIENCE[0][1])
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if contract is not None:
            other = [word.replace(self._contract_path, str(contract)) for word in shipped]
            self._commands[name] = other
        self.start(name)
        self._commands[name] = shipped

    def changed_contract(self, change: Callable[[dict], None]) -> Path:
        """Write a changed copy of the shipped contract and return its path."""
        shipped = Path(self._contract_path)
        contract = yaml.safe_load(shipped.read_text())
        change(contract)
        shutil.copy(shipped.parent / contract["urdf"], self._logs)
        path = self._logs / "contract.yaml"
        path.write_text(yaml.safe_dump(contract))
        return path.resolve()

    def kill(self, name: str) -> None:
        """Kill a process (SIGKILL) and wait for its end."""
        process = self._running.pop(name)
        process.kill()
        process.wait()

    def signal(self, name: str, number: int) -> None:
        """Send a signal to a process if it runs."""
        if self._running[name].poll() is None:
            os.kill(self._running[name].pid, number)

    def check(self) -> None:
        """Check that all processes run.

        Raises:
            ArmClientError: a process has ended; the message has its last lines.
        """
        for name, process in self._running.items():
            if process.poll() is not None:
                log = self._logs / f"{name}.log"
                lines = log.read_text(errors="replace").splitlines()[-_TAIL:]
                sentence = (
                    f"{name} ended with exit code {process.returncode}; the end of {log}:\n  "
                    + "\n  ".join(lines)
                )
                if sentence not in self.crashes:
                    self.crashes.append(sentence)
                raise ArmClientError(sentence)
