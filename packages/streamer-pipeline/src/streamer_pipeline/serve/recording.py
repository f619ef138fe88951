"""A conversation on disk, when the server was started to record and the user consented; never otherwise."""

from __future__ import annotations

import json
import logging
import queue
import threading
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import torch

from ..media import RecordingWriter
from ..subtitles import write_srt
from ..units import UNIT_MS, AgentUnit, UserUnit

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
        waiting: list[AgentUnit] = []
        played: list[AgentUnit] = []
        writers: dict[str, RecordingWriter] = {}
        with open(self.path / "units.jsonl", "w", encoding="utf-8") as lines, ExitStack() as files:
            while (pair := self._queue.get()) is not None:
                user, agent = pair
                lines.write(json.dumps(self._line(user, agent)) + "\n")
                if not waiting:  # before the first answer: its first picture, held in silence
                    still = agent.video[:, :1].expand_as(agent.video)
                    waiting = [replace(agent, video=still, audio=torch.zeros_like(agent.audio), text="")] * self._delay
                waiting.append(agent)
                now = waiting.pop(0)
                for name, unit in (("user.mp4", user), ("agent.mp4", now)):
                    if name not in writers:
                        writer = RecordingWriter(self.path / name, *unit.video.shape[2:])
                        writers[name] = files.enter_context(writer)
                    writers[name].write(unit)
                played.append(replace(now, video=torch.empty(0), audio=torch.empty(0)))
        write_srt(self.path / "transcript.srt", played)

    def _line(self, user: UserUnit, agent: AgentUnit) -> dict[str, object]:
        latency = {stage: round(ms, 3) for stage, ms in agent.latency.items()}
        plays_at = UNIT_MS * (agent.index + self._delay)
        return {
            "index": agent.index,
            "plays_at_ms": plays_at,
            "state": agent.state,
            "typed": user.text,
            "text": agent.text,
            "latency_ms": latency,
        }
