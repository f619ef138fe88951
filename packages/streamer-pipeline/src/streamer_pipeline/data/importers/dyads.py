"""Dyads that are dyads already, to be given other sizes, roles, pieces or splits."""

from __future__ import annotations

import json
import tarfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..words import UNIT_SECONDS, Word, spread_phrase
from .conversation import Conversation, ShardMember, Side, Skipped

LOOKED_FOR = "shards SPLIT-00000.tar with KEY.user.flac, KEY.agent.flac and KEY.json"
_OF_A_DYAD = {"user.flac", "agent.flac", "json"}
_NOT_KEPT = ("conversation", "first_unit", "num_units", "split", "swapped", "timing")


def matches(source: Path) -> bool:
    return any(members.keys() >= _OF_A_DYAD for shard in _shards(source) for members in _members(shard).values())


def read(source: Path) -> Iterator[Conversation | Skipped]:
    for shard in _shards(source):
        for key, members in _members(shard).items():
            if missing := _OF_A_DYAD - members.keys():
                yield Skipped(key, f"{shard} has no {key}.{min(missing)}")
                continue
            with tarfile.open(shard) as tar:
                content = tar.extractfile(members["json"])
                assert content is not None
                labels = json.loads(content.read())
            user, agent = (_side(shard, role, members, labels) for role in ("user", "agent"))
            kept = {name: value for name, value in labels.items() if name not in _NOT_KEPT}
            yield Conversation(key, user, agent, labels.get("split"), kept)


def _shards(source: Path) -> list[Path]:
    return sorted(source.glob("*-*.tar")) if source.is_dir() else []


def _members(shard: Path) -> dict[str, dict[str, str]]:
    """The names of the members by key and extension."""
    found: defaultdict[str, dict[str, str]] = defaultdict(dict)
    with tarfile.open(shard) as tar:
        for name in tar.getnames():
            key, _, extension = name.partition(".")
            found[key][extension] = name
    return found


def _side(shard: Path, role: str, members: dict[str, str], labels: dict[str, Any]) -> Side:
    names = [members[name] for name in (f"{role}.flac", f"{role}.mp4") if name in members]
    return Side(
        tuple(ShardMember(shard, name) for name in names),
        words=_words(role, labels),
        speaker=labels[role].get("speaker"),
        may_be_silent=True,
    )


def _words(role: str, labels: dict[str, Any]) -> tuple[Word, ...] | None:
    """Dyads of the duplex world have no transcripts: there the words of what is said share its time."""
    side = labels[role]
    if "transcript" in side:
        return None if side["transcript"] is None else tuple(Word(*word) for word in side["transcript"])
    found: list[Word] = []
    for segment in side.get("segments", ()):
        if role == "agent":
            units = range(segment["first_unit"], segment["end_unit"])
            said = " ".join(word for unit in units for word in side["words"][unit])
            found += spread_phrase(said, units.start * UNIT_SECONDS, units.stop * UNIT_SECONDS)
        else:
            found += spread_phrase(segment["text"], segment["start"], segment["end"])
    return tuple(found)
