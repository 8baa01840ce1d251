"""Run the graph as a child process (``up``), for programs that need a running arm: demo, evaluation
and tests.
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

_STOP_S = 45.0  # longer than `up` takes to end its nodes by force
_TAIL = 12  # lines of the log in an error message


class GraphProcess:
    """Run ``python3 -m sf_bringup.up`` as long as this context manager is open.

    Args:
        words: arguments such as ``policy:=none``.
        log: file for the output of all nodes.
        module: started instead of ``sf_bringup.up``, such as ``sf_bringup.record``.
    """

    def __init__(self, words: Sequence[str], log: Path, module: str = "sf_bringup.up") -> None:
        self._words, self.log, self._module = list(words), log, module
        self._process: subprocess.Popen | None = None

    def __enter__(self) -> GraphProcess:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with open(self.log, "wb") as output:
            # In its own session, Ctrl-C does not reach the graph but only this program, which then
            # stops it in order.
            command = [sys.executable, "-m", self._module, *self._words]
            # STARTER: the graph also ends when this program is killed.
            environment = {**os.environ, STARTER: str(os.getpid())}
            self._process = subprocess.Popen(
                command,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env=environment,
            )
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def _started(self) -> subprocess.Popen:
        """Return the process, inside the context."""
        assert self._process is not None
        return self._process

    @property
    def pid(self) -> int:
        """Return the process id of ``up``."""
        return self._started.pid

    def check(self) -> None:
        """Check that the graph runs.

        Raises:
            ArmClientError: it has ended; the message has the last lines of its log.
        """
        code = self._started.poll()
        if code is not None:
            lines = self.log.read_text(errors="replace").splitlines()[-_TAIL:]
            raise ArmClientError(
                f"the graph ended with exit code {code}; the end of {self.log}:\n  "
                + "\n  ".join(lines)
            )

    def wait(self, timeout_s: float) -> int:
        """Wait for the end of ``up`` and return its exit code.

        Raises:
            subprocess.TimeoutExpired: it still runs after ``timeout_s``.
        """
        return self._started.wait(timeout_s)

    def stop(self) -> int:
        """Stop all nodes and return the exit code of ``up``."""
        if self._started.poll() is None:
            self._started.send_signal(signal.SIGINT)
        try:
            return self._started.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self._started.kill()
            return self._started.wait()
