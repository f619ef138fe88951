"""A conversation on disk, when the server was started to record and the user consented; never otherwise."""

from __future__ import annotations

import logging
import queue
import threading
from datetime import UTC, datetime
from pathlib import Path

from ..media.conversation import ConversationWriter
from ..units import AgentUnit, UserUnit

_log = logging.getLogger(__name__)
_MAX_WAITING = 64  # units; 10 s


class SessionRecorder:
    """Writes user.mp4, agent.mp4, units.jsonl and transcript.srt of one conversation, in a thread of its own.

    Both films have the clock of the conversation: y_k is written `response_delay` units after u_k, as it was played,
    so the two can be laid side by side. A disk that is too slow costs units of the recording, never of the
    conversation; `num_lost` counts them.

    Args:
        folder: a new folder in it is made, named by time and number. Nothing in the name comes from a client.
        number: of the conversation since the server started. response_delay: of the checkpoint, in units.
    """

    def __init__(self, folder: Path, number: int, response_delay: int) -> None:
        self.path = folder / f"{datetime.now(UTC):%Y-%m-%dT%H-%M-%S}-{number:06d}"
        self.path.mkdir(parents=True)
        self.num_lost = 0
        self._delay = response_delay
        self._queue: queue.Queue[tuple[UserUnit, AgentUnit] | None] = queue.Queue(_MAX_WAITING)
        self._thread = threading.Thread(target=self._run, name=f"recorder-{number}", daemon=True)
        self._thread.start()

    def write(self, user: UserUnit, agent: AgentUnit) -> None:
        """Take one unit of both sides; returns at once."""
        try:
            self._queue.put_nowait((user, agent))
        except queue.Full:
            self.num_lost += 1

    def close(self) -> None:
        """Write what waits and finish the files."""
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        try:
            self._write_all()
        except (OSError, ValueError):
            _log.exception("recording into %s stopped", self.path)
            while self._queue.get() is not None:
                self.num_lost += 1

    def _write_all(self) -> None:
        films = {"user.mp4": lambda user, agent: user, "agent.mp4": lambda user, agent: agent}
        with ConversationWriter(self.path, self._delay, films) as writer:
            while (pair := self._queue.get()) is not None:
                writer.write(*pair)
