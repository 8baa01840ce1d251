"""The graph as one child process (``up``), for programs that need a running arm: demo, evaluation,
tests.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from sf_bringup.arm_client import ArmClientError
from sf_bringup.guardian import STARTER

_STOP_S = 25.0  # longer than `up` takes to end its nodes by force
_TAIL = 12


class GraphProcess:
    """``python3 -m sf_bringup.up`` with arguments; a context manager that leaves no process behind.

    Args:
        words: arguments such as ``policy:=none``.
        log: file for the output of all nodes.
        module: the starter.
    """

    def __init__(self, words: Sequence[str], log: Path, module: str = "sf_bringup.up") -> None:
        self._words, self.log, self._module = list(words), log, module
        self._process: subprocess.Popen | None = None

    def __enter__(self) -> GraphProcess:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with open(self.log, "wb") as output:
            # A session of its own: Ctrl-C reaches this program, which then stops the graph in
            # order.
            command = [sys.executable, "-m", self._module, *self._words]
            environment = {
                **os.environ,
                STARTER: str(os.getpid()),
            }  # a killed program leaves no graph behind
            self._process = subprocess.Popen(
                command,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env=environment,
            )
        return self

    def __exit__(self, *_) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """Process id of ``up``."""
        return self._process.pid

    def check(self) -> None:
        """Nothing while the graph runs.

        Raises:
            ArmClientError: it has ended; with its last lines.
        """
        code = self._process.poll()
        if code is not None:
            lines = self.log.read_text(errors="replace").splitlines()[-_TAIL:]
            raise ArmClientError(
                f"the graph ended with exit code {code}; the end of {self.log}:\n  "
                + "\n  ".join(lines)
            )

    def wait(self, timeout_s: float) -> int:
        """Exit code of ``up`` once it has ended."""
        return self._process.wait(timeout_s)

    def stop(self) -> int:
        """Stop all nodes and return the exit code of ``up``."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
        try:
            return self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()
