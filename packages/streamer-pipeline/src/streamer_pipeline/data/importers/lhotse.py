"""Lhotse cuts as NeMo's duplex models train on them: `recording` is the user, `custom.target_audio` the agent.

Facts of the layout: Lhotse's manifests (JSONL, perhaps gzipped) and `cut.load_custom`, which cuts the target as the
recording; NeMo's `DuplexS2SDataset`. Only cuts that name files are read.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ..words import Word, spread_phrase
from .conversation import Conversation, Side, Skipped
from .transcripts import clean, read_lines

LOOKED_FOR = "Lhotse cuts in .jsonl or .jsonl.gz, with custom.target_audio for the agent"
_USERS = {"user", "human", "customer", "speaker"}
_AGENTS = {"agent", "assistant", "system", "bot", "model"}


def matches(source: Path) -> bool:
    return any(_cuts(source))


def read(source: Path) -> Iterator[Conversation | Skipped]:
    for file, cut in _cuts(source):
        key = str(cut["id"])
        try:
            yield _conversation(key, cut, file.parent)
        except (ValueError, KeyError, IndexError, TypeError) as error:
            reason = error if isinstance(error, ValueError) else f"no {error} in it"
            yield Skipped(key, f"the cut {key} of {file} cannot be used: {reason}")


def _cuts(source: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    files = [source] if source.is_file() else sorted(source.glob("*.jsonl*")) if source.is_dir() else []
    for file in files:
        if file.name.endswith((".jsonl", ".jsonl.gz")):
            yield from ((file, cut) for cut in read_lines(file, _is_cut))


def _is_cut(item: Any) -> bool:
    return isinstance(item, dict) and "id" in item and str(item.get("type", "")).endswith("Cut")


def _conversation(key: str, cut: dict[str, Any], folder: Path) -> Conversation:
    supervisions = cut.get("supervisions") or []
    speakers = {str(item.get("speaker")).lower() for item in supervisions}
    target = (cut.get("custom") or {}).get("target_audio")
    if cut["type"] == "MixedCut":
        raise ValueError("it is mixed of several cuts: store the mix as a recording first")
    if target is None:
        raise ValueError(
            f"it has no custom.target_audio{f', but {len(speakers)} speakers' * (len(speakers) > 1)}: from a track in "
            "which both speakers are mixed neither voice can be learned; separate the speakers first"
        )
    if unknown := speakers - _USERS - _AGENTS:
        raise ValueError(f"its speakers are called {', '.join(sorted(unknown))}; wanted are user and agent")
    start, duration = float(cut["start"]), float(cut["duration"])
    selector = cut["custom"].get("target_audio_channel_selector")
    tracks = {"user": (cut["recording"], cut.get("channel")), "agent": (target, selector)}
    sides = {}
    for role, names in (("user", _USERS), ("agent", _AGENTS)):
        path, channel = _track(*tracks[role], folder)
        own = [item for item in supervisions if str(item.get("speaker")).lower() in names]
        words = clean(_words(own, start)) if supervisions else None
        sides[role] = Side((path,), channel, words, start=start, duration=duration)
    return Conversation(key, sides["user"], sides["agent"])


def _track(recording: dict[str, Any], selector: int | list[int] | None, folder: Path) -> tuple[Path, int | None]:
    """The file of a recording that has this channel, and which of the file's channels it is."""
    if recording.get("transforms"):
        raise ValueError("a recording has transforms: store what they make of it first")
    channels = [selector] if isinstance(selector, int) else selector or []
    if len(channels) > 1:
        raise ValueError(f"it takes the channels {channels} of one recording: give one with user or agent alone")
    sources = [s for s in recording["sources"] if not channels or channels[0] in s["channels"]]
    if len(sources) != 1 or sources[0]["type"] != "file":
        raise ValueError("a recording is not one file that holds its channel")
    path = Path(sources[0]["source"])
    beside = folder / path
    channel = sources[0]["channels"].index(channels[0]) if channels and len(sources[0]["channels"]) > 1 else None
    return beside if beside.exists() else path, channel


def _words(supervisions: Iterable[dict[str, Any]], cut_start: float) -> Iterator[Word]:
    """Aligned words where the cut has them, else its texts spread over their time; seconds of the recording."""
    for item in supervisions:
        aligned = (item.get("alignment") or {}).get("word")
        start = cut_start + float(item["start"])
        if aligned:
            for text, first, duration, *_ in aligned:
                yield Word(text, cut_start + first, cut_start + first + duration)
        else:
            yield from spread_phrase(item.get("text") or "", start, start + float(item["duration"]))
