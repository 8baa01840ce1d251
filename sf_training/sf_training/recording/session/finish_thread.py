"""Finish an episode in a separate thread, so that the callbacks of the recorder continue while the
disk is busy.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from rclpy.task import Future

from sf_training.recording.session.recording_session import Finished
from sf_training.recording.session.stream_monitor import Verdict


class FinishThread:
    """Call ``complete`` in a thread.

    Attributes:
        finished: result of ``complete``; None while the thread runs.
        done: the node's thread resolves it with ``finished`` when it finds the thread ended.
    """

    def __init__(self, complete: Callable[[], Finished]) -> None:
        self.done: Future = Future()
        self.finished: Finished | None = None
        self._complete = complete
        self.thread = threading.Thread(target=self._work, name="episode end")
        self.thread.start()

    def _work(self) -> None:
        try:
            self.finished = self._complete()
        except Exception as error:  # a bug must not leave the recorder in FINISHING for ever
            sentence = (
                f"the episode could not be completed ({type(error).__name__}: {error}); please"
                " report this"
            )
            self.finished = Finished(False, None, "discarded", Verdict.FAIL, (sentence,), sentence)
            raise
