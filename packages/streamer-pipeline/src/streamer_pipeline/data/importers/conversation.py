"""What every importer yields: a conversation of two sides, still in the files in which people keep it."""

from __future__ import annotations

import tarfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..words import Word


@dataclass(frozen=True)
class ShardMember:
    """A media file inside a tar."""

    shard: Path
    name: str

    def extract(self, folder: Path) -> Path:
        with tarfile.open(self.shard) as tar:
            tar.extract(self.name, folder, filter="data")
        return folder / self.name


@dataclass(frozen=True)
class Side:
    """One of the two who converse.

    media: the files with the voice and perhaps the face; a file of sound alone is preferred for the sound.
    channel: which channel of the sound, None mixes all.
    words: None if nobody wrote them down. Their times, like `start`, count from the beginning of the files.
    speaker: who it is, by a name that is the same in other conversations; None if unknown.
    start: the second of the files at which the conversation begins; below 0 they begin so much later.
    duration: seconds to take, None takes all. may_be_silent: a silent side is not taken for a fault.
    """

    media: tuple[Path | ShardMember, ...]
    channel: int | None = None
    words: tuple[Word, ...] | None = None
    speaker: str | None = None
    start: float = 0.0
    duration: float | None = None
    may_be_silent: bool = False


@dataclass(frozen=True)
class Conversation:
    """Two sides on one wall clock, once they are read.

    split: where the source puts it, if it says so. labels: of the source's own, kept while they stay true.
    """

    key: str
    user: Side
    agent: Side
    split: str | None = None
    labels: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Skipped:
    """A conversation that cannot be used, and why."""

    key: str
    reason: str
