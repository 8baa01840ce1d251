"""The topic on which instructions come: a repeated text is not a new instruction, unless the executor asked for one."""

from __future__ import annotations

import time
from collections.abc import Callable

from std_msgs.msg import String

from sf_msgs.msg import ExecutorStatus
from sf_policy_node.instruction_repeats import InstructionRepeats, Kind
from sf_policy_node.instruction_run import InstructionRun
from sf_policy_node.nodes.diagnostics import NEEDS_INSTRUCTION

_FOLLOWING = (ExecutorStatus.EXECUTING, ExecutorStatus.SHADOW)


class InstructionTopic:
    """Decides which messages begin an instruction.

    Args:
        run: returns the instruction in force, or ``None``.
        follow: called with the text of a new instruction.
        refuse: called with a sentence for the status when a text does not count.
    """

    def __init__(
        self,
        node,
        topic: str,
        run: Callable[[], InstructionRun | None],
        follow: Callable[[str], None],
        refuse: Callable[[str], None],
    ) -> None:
        self._node, self._run, self._follow, self._refuse = node, run, follow, refuse
        self._repeats = InstructionRepeats()
        self._refused = ""
        self.executor: ExecutorStatus | None = None
        """What the executor reported last."""
        node.subscribe_any_qos(String, topic, self._receive)

    def stop(self) -> None:
        """The instruction was stopped: whoever repeats it must send another text."""
        self._repeats.stop()
        self._refused = ""

    def is_asked_for(self, run: InstructionRun) -> bool:
        """The executor stopped this instruction and asks for one."""
        executor = self.executor
        return executor is not None and executor.epoch == run.epoch and NEEDS_INSTRUCTION in executor.reason

    @property
    def executor_reason(self) -> str:
        """Why the executor does not follow chunks; empty when it does, or was never received."""
        executor = self.executor
        return "" if executor is None or executor.state in _FOLLOWING else executor.reason

    def _receive(self, message: String, publisher: str) -> None:
        if not self._node.running:
            return
        text, current = message.data.strip(), self._run()
        kind = self._repeats.receive(publisher, text, time.monotonic())
        if kind is Kind.STOPPED and current is None and text != self._refused:
            self._refused = text
            self._refuse(f"{text!r} was stopped; send another instruction, or call ~/start")
        if kind in (Kind.STOPPED, Kind.PERIODIC):
            return
        if current is None or current.instruction != text or self.is_asked_for(current):
            self._follow(text)
