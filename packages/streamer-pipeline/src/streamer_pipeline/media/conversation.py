"""A conversation on disk, as it is played: films, what was said, and a line for every unit."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

import torch

from ..clock import UNIT_MS
from ..units import AgentUnit, UserUnit
from .recordings import RecordingWriter
from .subtitles import write_srt

# What a film shows of the user, and of the agent as it plays at the same time.
Film = Callable[[UserUnit, AgentUnit], AgentUnit | UserUnit]


class ConversationWriter:
    """Writes units.jsonl, transcript.srt and films of one conversation; a context manager.

    All films have the clock of the conversation: y_k is written `response_delay` units after u_k, as it is played, so
    they can be laid side by side. Before the first answer its first picture is held, in silence.

    Args:
        folder: exists. response_delay: of the checkpoint, in units. films: by file name.
    """

    def __init__(self, folder: Path, response_delay: int, films: dict[str, Film]) -> None:
        self.folder, self.delay, self.films = folder, response_delay, films
        self.played: list[AgentUnit] = []  # without sound and picture
        self.heard: list[str] = []  # the user's words as the agent wrote them down, on the same clock
        self._waiting: list[AgentUnit] = []
        self._writers: dict[str, RecordingWriter] = {}
        self._files = ExitStack()

    def __enter__(self) -> Self:
        self._lines = self._files.enter_context(open(self.folder / "units.jsonl", "w", encoding="utf-8"))
        return self

    def write(self, user: UserUnit, agent: AgentUnit) -> None:
        """Take u_k and y_k; the films get u_k and what plays beside it."""
        self._lines.write(json.dumps(self._line(user, agent)) + "\n")
        if not self.played:
            still = agent.video[:, :1].expand_as(agent.video)
            first = replace(agent, video=still, audio=torch.zeros_like(agent.audio), text="")
            self._waiting = [first] * self.delay
        self._waiting.append(agent)
        self.heard.append(agent.heard)
        now = self._waiting.pop(0)
        for name, film in self.films.items():
            unit = film(user, now)
            if name not in self._writers:
                height, width = unit.video.shape[2:]
                writer = RecordingWriter(self.folder / name, height, width, len(unit.audio))
                self._writers[name] = self._files.enter_context(writer)
            self._writers[name].write(unit)
        self.played.append(replace(now, video=torch.empty(0), audio=torch.empty(0)))  # a view would keep all in memory

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._files.__exit__(kind, error, trace)
        finally:
            write_srt(self.folder / "transcript.srt", self.played, self.heard)

    def _line(self, user: UserUnit, agent: AgentUnit) -> dict[str, object]:
        return {
            "index": agent.index,
            "plays_at_ms": UNIT_MS * (agent.index + self.delay),
            "state": agent.state,
            "typed": user.text,
            "heard": agent.heard,
            "text": agent.text,
            "latency_ms": {stage: round(ms, 3) for stage, ms in agent.latency.items()},
        }
