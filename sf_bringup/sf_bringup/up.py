"""Start the graph of a journey as processes:
``python3 -m sf_bringup.up robot:=sim_arm policy:=nano``.

It does the same as ``launch/arm.launch.py``, with the same arguments, on machines without
``launch``. Ctrl-C stops all nodes. If a node ends by itself, the others are stopped and the exit
code is not 0.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import sys
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TextIO

from ament_index_python.packages import PackageNotFoundError, get_package_prefix
from honcho.manager import Manager
from honcho.printer import Message, Printer

from sf_bringup.arguments import ARM_ARGUMENTS, Argument, GraphError, parse_arguments
from sf_bringup.graph import NodeSpec, arm_graph
from sf_bringup.guardian import MARK, STOPPING, start_guardian, when_starter_ends
from sf_bringup.one_graph import only_graph
from sf_bringup.second_start import refuse_second_start

FINISH_S = 25.0  # longer than the executor takes to move the arm to its rest pose
LAST_LINES = 8  # of the output of a node that has ended, printed again at the end


class UpError(RuntimeError):
    """Raised when the graph cannot be started."""


def command_line(spec: NodeSpec) -> list[str]:
    """Return the command that ``ros2 run`` would execute for this node.

    Raises:
        UpError: the package or the executable is not installed.
    """
    try:
        executable = Path(get_package_prefix(spec.package)) / "lib" / spec.package / spec.executable
    except PackageNotFoundError:
        raise UpError(
            f"package {spec.package} is not on AMENT_PREFIX_PATH; source install/setup.bash"
        ) from None
    if not executable.is_file():
        raise UpError(
            f"{spec.package} has no executable {spec.executable}; build the workspace with colcon"
        )
    words = [str(executable), *spec.arguments, "--ros-args", "-r", f"__node:={spec.name}"]
    words += place_in(spec.namespace)
    for name, value in spec.parameters.items():
        words += ["-p", f"{name}:={json.dumps(value)}"]  # JSON is YAML, and keeps strings strings
    words += remap(spec.remappings)
    # Last, so that a params_file of the user overrides the parameters above.
    return [*words, *spec.ros_arguments]


def place_in(namespace: str) -> list[str]:
    """Return the ROS arguments that put a node into a namespace; none for an empty one."""
    return ["-r", f"__ns:=/{namespace.strip('/')}"] if namespace else []


def remap(remappings: Iterable[tuple[str, str]]) -> list[str]:
    """Return the ROS arguments that give topics other names."""
    return [word for old, new in remappings for word in ("-r", f"{old}:={new}")]


class NodeManager(Manager):
    """Extend the process manager of honcho: stop nodes with the signals of :data:`STOPPING`, and
    store which node ended first.

    Args:
        output: stream for the nodes' output, each line with its node's name.
    """

    _terminating: bool  # of honcho's Manager

    def __init__(self, output: TextIO = sys.stdout) -> None:
        self._printer_with_tails = _TailPrinter(_Unbuffered(output))
        super().__init__(self._printer_with_tails)
        self._essential: list[str] = []
        self._finishing: list[str] = []
        self._hurry = threading.Event()
        self._is_attended = True
        self.ended: str | None = None  # the node that ended by itself
        self.killed: list[str] = []  # nodes that had to be killed

    def add_node(self, spec: NodeSpec, environment: Mapping[str, str]) -> None:
        """Register a node; :meth:`loop` starts it."""
        # With exec the node replaces the shell, so that the process id is that of the node.
        if spec.essential:
            self._essential.append(spec.name)
        if spec.finishes:
            self._finishing.append(spec.name)
        self.add_process(spec.name, f"exec {shlex.join(command_line(spec))}", env=dict(environment))

    def run(self) -> int:
        """Start all nodes and wait until all have ended; return 0 if SIGINT, SIGTERM or SIGHUP
        stopped them, else 1.
        """
        # SIGHUP: a closed terminal also stops the nodes.
        signal.signal(signal.SIGHUP, lambda *_: self._end_unattended())
        when_starter_ends(self._end_unattended)
        self.loop()
        if self.ended is not None:
            code = self._processes[self.ended]["returncode"]
            self._system_print(
                f"{self.ended} {_describe_end(code)}, so everything was stopped; its last lines:\n"
            )
            for line in self._printer_with_tails.tails[self.ended]:
                self._system_print(f"  {line}\n")
            return 1
        if self.killed:
            self._system_print(
                f"{', '.join(self.killed)} did not stop when asked and had to be killed\n"
            )
            return 1
        return 0

    def _end_unattended(self) -> None:
        """Stop all nodes when nobody may be watching the arm: it only stops."""
        self._is_attended = False
        os.kill(os.getpid(), signal.SIGTERM)

    def _any_stopped(self) -> bool:
        """Return whether to stop all processes, for honcho, whose own version also counts nodes
        that are not essential, such as RViz.
        """
        return any(
            "returncode" in process
            for name, process in self._processes.items()
            if name in self._essential
        )

    def terminate(self) -> None:
        """Stop all nodes, in a thread: with SIGINT, then SIGTERM, then SIGKILL if still needed.

        On request, an executor that moves the arm to its rest pose ends before the other nodes. A
        second request ends that motion.
        """
        if self._terminating:
            self._hurry.set()
            return
        self._terminating = True
        self.ended = next(
            (name for name in self._essential if "returncode" in self._processes[name]), None
        )
        threading.Thread(target=self._stop_all, daemon=True).start()

    def kill(self) -> None:
        """Do nothing. honcho calls this five seconds after the first node ended; :meth:`terminate`
        waits longer.
        """

    def _stop_all(self) -> None:
        if self.ended is None and self._is_attended:
            self._stop(self._finishing, signal.SIGINT, FINISH_S, self._hurry)
        else:  # the executor stops the arm where it is
            self._stop(self._finishing, signal.SIGHUP, STOPPING[0][1], self._hurry)
        for number, patience in STOPPING:
            self._stop(list(self._processes), number, patience, threading.Event())

    def _stop(
        self, names: Sequence[str], number: int, patience: float, hurry: threading.Event
    ) -> None:
        """Signal nodes and wait until they have ended, ``patience`` [s] is over or ``hurry`` is
        set.
        """
        waited = 0.0
        signalled: set[str] = set()
        while waited < patience and not hurry.is_set():
            left = [
                (name, self._processes[name].get("pid"))
                for name in names
                if "returncode" not in self._processes[name]
            ]
            if not left:
                return
            for name, pid in left:
                # A process without an id is still being started.
                if pid is not None and name not in signalled:
                    signalled.add(name)
                    if number == signal.SIGKILL:
                        self.killed.append(name)
                    _signal_group(pid, number)
            hurry.wait(0.05)
            waited += 0.05


class _Unbuffered:
    """Writes to a stream past its buffer.

    A signal handler may write while the program does, which a buffer refuses. What a closed
    terminal refuses is dropped: the nodes must still be stopped.
    """

    def __init__(self, stream: TextIO) -> None:
        stream.flush()
        self._descriptor, self.isatty = stream.fileno(), stream.isatty

    def write(self, text: str) -> None:
        left = text.encode()
        with contextlib.suppress(OSError):
            while left:
                left = left[os.write(self._descriptor, left) :]

    def flush(self) -> None:
        """Do nothing: nothing is buffered."""


class _TailPrinter(Printer):
    """Extend the printer of honcho: store the last lines of each node."""

    def __init__(self, output: _Unbuffered) -> None:
        super().__init__(output)
        self.tails: dict[str, deque[str]] = defaultdict(lambda: deque(maxlen=LAST_LINES))

    def write(self, message: Message) -> None:
        text = (
            message.data.decode("utf-8", "replace")
            if isinstance(message.data, bytes)
            else message.data
        )
        self.tails[message.name].extend(text.splitlines())
        super().write(message)


def start_environment() -> dict[str, str]:
    """Return the environment for the nodes: that of this process, with unbuffered output."""
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    if sys.stdout.isatty():
        environment.setdefault("RCUTILS_COLORIZED_OUTPUT", "1")
    return environment


def usage(program: str, arguments: Sequence[Argument]) -> str:
    """Return the help text with all arguments."""
    lines = [f"usage: {program} [name:=value ...]", "", "arguments:"]
    for argument in arguments:
        lines.append(
            f"  {argument.name:<18}{argument.description} (default"
            f" {argument.default_text or 'empty'})"
        )
    return "\n".join(lines)


def main(words: Sequence[str] | None = None) -> int:
    """Start the graph of the run journey; return the exit code."""
    return start(words, "up", ARM_ARGUMENTS, arm_graph)


def start(
    words: Sequence[str] | None,
    name: str,
    arguments: Sequence[Argument],
    graph: Callable[..., list[NodeSpec]],
) -> int:
    """Start the graph of a journey as processes; return the exit code.

    Args:
        words: ``name:=value`` arguments; None takes those of the command line.
        name: of the program, for messages.
        graph: returns the nodes for the values of the arguments.
    """
    words = sys.argv[1:] if words is None else list(words)
    help_text = usage(f"python3 -m sf_bringup.{name}", arguments)
    if {"--help", "-h"} & set(words):
        print(help_text)
        return 0
    manager = NodeManager()
    mark = f"{os.getpid()}-{time.monotonic_ns()}"
    environment = start_environment() | {MARK: mark}
    try:
        nodes = graph(**parse_arguments(words, arguments))
        for spec in nodes:
            manager.add_node(spec, environment)
        namespace = nodes[0].namespace
        with only_graph([name, *words], namespace):
            refuse_second_start([spec.full_name for spec in nodes if spec.essential])
            start_guardian(mark)
            return manager.run()
    except (GraphError, UpError) as error:
        print(f"{name}: {error}", file=sys.stderr)
        if isinstance(error, GraphError) and "is not an argument" in str(error):
            print(help_text, file=sys.stderr)
        return 2


def _signal_group(pid: int, number: int) -> None:
    # Each node leads its own session, so that its children also receive the signal.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, number)


def _describe_end(code: int) -> str:
    return (
        f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    )


if __name__ == "__main__":
    sys.exit(main())
