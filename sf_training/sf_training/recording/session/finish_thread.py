"""The end of an episode in a thread of its own, so that the recorder's callbacks go on while the
disk works.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from rclpy.task import Future

from sf_training.recording.session.recording_session import Finished
from sf_training.recording.session.stream_monitor import Verdict


class FinishThread:
    """An episode on its way to the disk, in a thread of its own. ``done`` is set in the node's
    thread.
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
        except Exception as error:  # a mistake of ours must not leave the recorder busy for ever
            sentence = (
                f"the episode could not be completed ({type(error).__name__}: {error}); please"
                " report this"
            )
            self.finished = Finished(False, None, "discarded", Verdict.FAIL, (sentence,), sentence)
            raise
