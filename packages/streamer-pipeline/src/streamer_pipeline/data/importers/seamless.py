"""Seamless Interaction: items of one participant, `V<vendor>_S<session>_I<interaction>_P<participant>`, .mp4, .wav and
.json; the two participants of one interaction are a pair.

Facts of the layout: facebookresearch/seamless_interaction, README. Its tars have to be unpacked.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..words import Word
from .conversation import Conversation, Side, Skipped
from .transcripts import clean, read_lines, read_words

LOOKED_FOR = "files V00_S0001_I00000001_P0001.mp4, .wav and .json of each participant, in any folders"
_NAME = re.compile(r"(V\d+_S\d+_I\d+)_P(\w+)$")
_SPLITS = {"train": "train", "dev": "val", "test": "test"}
_SHARE_IN_SPEECH = 0.5  # of the words, in what the voice activity says is speech


def matches(source: Path) -> bool:
    return bool(_items(source))


def read(source: Path) -> Iterator[Conversation | Skipped]:
    """Of each interaction the participant whose number comes first is the user: `--both-directions` takes both."""
    for key, participants in sorted(_items(source).items()):
        names = sorted(participants)
        if len(names) != 2:
            yield Skipped(key, f"there are files of {len(names)} participant{'s' * (len(names) > 1)} and not of two")
            continue
        try:
            user, agent = (_side(name, participants[name]) for name in names)
        except (ValueError, OSError) as error:
            yield Skipped(key, str(error))
            continue
        folders = participants[names[0]][0].relative_to(source).parts
        split = next((_SPLITS[folder] for folder in folders if folder in _SPLITS), None)
        yield Conversation(key, user, agent, split)


def _items(source: Path) -> dict[str, dict[str, list[Path]]]:
    """Files by interaction and participant."""
    found: defaultdict[str, dict[str, list[Path]]] = defaultdict(dict)
    for path in sorted(source.rglob("V*_S*_I*_P*.*")) if source.is_dir() else ():
        if match := _NAME.match(path.stem):
            found[match[1]].setdefault(match[2], []).append(path)
    return found


def _side(participant: str, paths: list[Path]) -> Side:
    media = tuple(path for path in paths if path.suffix in (".wav", ".mp4"))
    if not media:
        raise ValueError(f"{paths[0]} has no .wav and no .mp4 beside it")
    metadata = _metadata(paths)
    transcript, speech = metadata.get("transcript"), metadata.get("vad")
    words = None if transcript is None else clean(read_words(transcript))
    if words and speech is not None:
        spans = [(float(span["start"]), float(span["end"])) for span in speech]
        share = sum(_is_inside(word, spans) for word in words) / len(words)
        if share < _SHARE_IN_SPEECH:
            raise ValueError(f"{media[0]} is mis-timed: only {share:.0%} of its words lie where its vad says speech")
    return Side(media, words=words, speaker=f"P{participant}")


def _metadata(paths: list[Path]) -> dict[str, Any]:
    """What is under "metadata:..." in the item's JSON, or in files of lines in folders of these names."""
    found: dict[str, Any] = {}
    for path in paths:
        try:
            if path.suffix == ".json":
                content = json.loads(path.read_text(encoding="utf-8"))
                named = content.items() if isinstance(content, dict) else ()
                found |= {key.partition(":")[2]: value for key, value in named if key.startswith("metadata:")}
            elif path.suffix == ".jsonl":
                found[path.parent.name] = list(read_lines(path, lambda item: isinstance(item, dict)))
        except json.JSONDecodeError as error:
            raise ValueError(f"{path} is damaged ({error})") from error
    return found


def _is_inside(word: Word, spans: list[tuple[float, float]]) -> bool:
    return any(start < word.end and word.start < end for start, end in spans)
