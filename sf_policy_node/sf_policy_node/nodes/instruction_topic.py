"""Receives instructions on their topic.

A repeated text is not a new instruction, unless the executor asks for one.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from std_msgs.msg import String

from sf_msgs.msg import ExecutorStatus
from sf_policy_node.nodes.any_qos import UNKNOWN
from sf_policy_node.nodes.diagnostics import NEEDS_INSTRUCTION
from sf_policy_node.nodes.lifecycle import ManagedNode
from sf_policy_node.session.instruction_repeats import InstructionRepeats, Repetition
from sf_policy_node.session.instruction_run import InstructionRun

_FOLLOWING = (ExecutorStatus.EXECUTING, ExecutorStatus.SHADOW)
_OF_RUN_BEFORE = 1  # chunks of the instruction before that may be on their way at a start


class InstructionTopic:
    """Decides which messages start an instruction.

    Args:
        run: returns the current instruction; None when there is none.
        follow: called with the text of a new instruction.
        refuse: called with a sentence for the status when a text is refused.
        repeats: texts that were received and stopped; outlives this object.
    """

    def __init__(
        self,
        node: ManagedNode,
        topic: str,
        run: Callable[[], InstructionRun | None],
        follow: Callable[[str], None],
        refuse: Callable[[str], None],
        repeats: InstructionRepeats,
    ) -> None:
        self._node, self._run, self._follow, self._refuse = node, run, follow, refuse
        self._repeats = repeats
        self._refused = ""
        self._executor: ExecutorStatus | None = None
        self._seen: InstructionRun | None = None
        self._refused_before = 0  # chunks that the executor had refused before this instruction
        self._subscription = node.subscribe_any_qos(String, topic, self._receive)

    def stop(self) -> None:
        """Record that the instruction was stopped: repeating its text does not start it again."""
        self._repeats.stop(self._subscription.publishers())
        self._refused = ""

    def ask_for(self, text: str) -> None:
        """Record that the executor ended the instruction and asks for it again."""
        self._repeats.ask_for(text)

    def note_executor(self, status: ExecutorStatus) -> None:
        """Take the executor's status."""
        if (run := self._run()) is not self._seen:
            self._seen, self._refused_before = run, status.chunks_refused
        self._executor = status

    def is_asked_for(self, run: InstructionRun) -> bool:
        """Return whether the executor stopped this instruction, or refuses its chunks, and needs
        an instruction.
        """
        status = self._executor
        if status is None or run is not self._seen or NEEDS_INSTRUCTION not in status.reason:
            return False
        refused = status.chunks_refused - self._refused_before
        return status.epoch == run.epoch or refused > _OF_RUN_BEFORE

    @property
    def executor_reason(self) -> str:
        """Why the executor does not execute chunks; empty when it does, or has sent no status."""
        status = self._executor
        return "" if status is None or status.state in _FOLLOWING else status.reason

    def _receive(self, message: String, publisher: str) -> None:
        if not self._node.running:
            return
        text, current = message.data.strip(), self._run()
        present = self._subscription.publishers() if publisher == UNKNOWN else ()
        repetition = self._repeats.receive(publisher, text, time.monotonic(), present)
        if repetition is Repetition.STOPPED and current is None and text != self._refused:
            self._refused = text
            self._refuse(
                f"{text!r} was stopped; send another instruction, send it from another publisher,"
                " or call ~/start"
            )
        if repetition in (Repetition.STOPPED, Repetition.REPEATED):
            return
        if current is None or current.instruction != text or self.is_asked_for(current):
            self._follow(text)
