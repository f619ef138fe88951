"""The layout of moshi-finetune: stereo files with the agent on the left, listed in JSONL, words in `NAME.json` beside.

Facts of the layout: kyutai-labs/moshi-finetune, README and `interleaver.py`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from ..words import Word
from .conversation import Conversation, Side, Skipped
from .transcripts import clean, read_lines, read_words

LOOKED_FOR = 'a .jsonl with lines {"path": "NAME.wav", "duration": 12.3} of stereo files, the agent on the left'
_MAIN_SPEAKER = "SPEAKER_MAIN"  # of the left channel


def matches(source: Path) -> bool:
    return any(_lines(source))


def read(source: Path) -> Iterator[Conversation | Skipped]:
    """The conversations that the lists name; relative paths count from the list's folder."""
    root = source if source.is_dir() else source.parent
    for path in _lines(source):
        key = str((path.relative_to(root) if path.is_relative_to(root) else path).with_suffix(""))
        try:
            yield _conversation(key, path)
        except (ValueError, OSError) as error:
            yield Skipped(key, str(error))


def _lines(source: Path) -> Iterator[Path]:
    lists = sorted(source.glob("*.jsonl")) if source.is_dir() else [source] if source.suffix == ".jsonl" else []
    for file in lists:
        for line in read_lines(file, lambda item: isinstance(item, dict) and isinstance(item.get("path"), str)):
            yield file.parent / line["path"]


def _conversation(key: str, path: Path) -> Conversation:
    words = _read_alignments(path.with_suffix(".json"))
    # The format transcribes the main speaker alone: of the others nothing is known unless they are there.
    others = tuple(word for speaker, found in (words or {}).items() if speaker != _MAIN_SPEAKER for word in found)
    return Conversation(
        key,
        user=Side((path,), channel=1, words=clean(others) if others else None),
        agent=Side((path,), channel=0, words=None if words is None else words.get(_MAIN_SPEAKER, ())),
    )


def _read_alignments(path: Path) -> dict[str, tuple[Word, ...]] | None:
    """Words by speaker; None where there is no such file."""
    if not path.exists():
        return None
    try:
        alignments = json.loads(path.read_text(encoding="utf-8"))["alignments"]
        speakers = dict.fromkeys(item[2] for item in alignments)
        return {speaker: clean(read_words([item for item in alignments if item[2] == speaker])) for speaker in speakers}
    except (json.JSONDecodeError, KeyError, IndexError, TypeError, ValueError) as error:
        raise ValueError(f'{path} holds no "alignments": [[word, [start, end], speaker], ...] ({error})') from error
