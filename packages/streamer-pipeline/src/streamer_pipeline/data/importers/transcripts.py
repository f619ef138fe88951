"""Files of words: JSON, SubRip, WebVTT, TextGrid. Phrases with one time are spread over their words."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ..words import Word, spread_phrase

SUFFIXES = (".json", ".srt", ".vtt", ".TextGrid", ".textgrid")
_TAG = re.compile(r"<[^>]*>|\{[^}]*\}")
_TIME_TAG = re.compile(r"<(?:(\d+):)?(\d+):(\d+)\.(\d+)>")
_WORD_LISTS = ("alignments", "words", "segments", "chunks")


class Transcript(NamedTuple):
    """The words of one side; who says them, and when its recording begins, where the file tells."""

    words: tuple[Word, ...]
    speaker: str | None = None
    offset: float = 0.0


def read_transcript(path: Path) -> Transcript:
    """The words of one side of a conversation.

    JSON is any of: a list of words, or an object with the list as "alignments", "words" or "segments", and perhaps
    "speaker" and "offset" (seconds after the conversation's beginning at which this side's files begin). A word is
    `[text, [start, end], ...]`, `[text, start, end]` or `{"word", "start", "end"}`; what has "text" for "word" is a
    phrase.

    Raises:
        ValueError: the file is not what its name says, or has words without times.
    """
    try:
        if path.suffix.lower() == ".json":
            content = json.loads(path.read_text(encoding="utf-8"))
            info = content if isinstance(content, dict) else {}
            return Transcript(clean(read_words(content)), info.get("speaker"), float(info.get("offset", 0)))
        read = _read_textgrid if path.suffix.lower() == ".textgrid" else _read_subtitles
        return Transcript(clean(read(path)))
    except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
        raise ValueError(
            f"{path} holds no words with times that can be read ({error or type(error).__name__})"
        ) from error


def read_words(content: Any) -> list[Word]:
    """Words from the JSON shapes that `read_transcript` names.

    Raises:
        ValueError: it is none of them, or no word has a time.
    """
    if isinstance(content, dict):
        name = next((name for name in _WORD_LISTS if name in content), None)
        if name is None:
            raise ValueError(f"wanted is an object with one of {', '.join(_WORD_LISTS)}; it has {', '.join(content)}")
        content = content[name]
    found: list[Word] = []
    untimed = ""  # aligners leave some words without a time: they share that of the next, or of the last
    for item in content:
        if isinstance(item, dict) and any("start" in word for word in item.get("words") or ()):
            found += read_words(item["words"])
            continue
        text, start, end = _fields(item)
        if start is None or end is None:
            untimed += f" {text}"
        else:
            found += spread_phrase(f"{untimed} {text}", float(start), float(end))
            untimed = ""
    if untimed and not found:
        raise ValueError("no word of it has a time")
    if untimed:
        last = found.pop()
        found += spread_phrase(last.text + untimed, last.start, last.end)
    return found


def _fields(item: Any) -> tuple[str, float | None, float | None]:
    """Text, start and end of a word or a phrase."""
    if isinstance(item, dict):
        text = item.get("word", item.get("text", item.get("transcript")))
        start, end = item.get("timestamp") or (item.get("start"), item.get("end"))
    else:
        text, *times = item
        start, end = times[0] if isinstance(times[0], list | tuple) else times[:2]
    if not isinstance(text, str):
        raise ValueError(f"{item} has no word")
    return text, start, end


def read_lines(file: Path, is_wanted: Callable[[Any], bool]) -> Iterator[dict[str, Any]]:
    """The objects of a .jsonl or .jsonl.gz; none if already the first is of another kind.

    Raises:
        ValueError: a later line is of another kind, or damaged.
    """
    with (gzip.open if file.suffix == ".gz" else open)(file, "rt", encoding="utf-8") as lines:
        for number, line in enumerate(filter(str.strip, lines), 1):
            try:
                item = json.loads(line)
            except json.JSONDecodeError:
                item = None
            if is_wanted(item):
                yield item
            elif number == 1:
                return
            else:
                raise ValueError(f"line {number} of {file} is damaged, or of another kind than those before it")


def clean(words: Iterable[Word]) -> tuple[Word, ...]:
    """In order of time, without what has no duration or no text: aligners leave both behind."""
    return tuple(sorted((w for w in words if w.text.strip() and w.end > w.start), key=lambda w: (w.start, w.end)))


def _read_subtitles(path: Path) -> Iterator[Word]:
    import pysubs2

    try:
        events = pysubs2.load(str(path), encoding="utf-8-sig", keep_html_tags=True, format_=path.suffix[1:].lower())
    except pysubs2.exceptions.Pysubs2Error as error:
        raise ValueError(f"no {path.suffix[1:]} subtitles: {error}") from error
    for event in events:
        start, end = event.start / 1000, event.end / 1000
        # WebVTT may say inside a cue when each word begins.
        pieces = _TIME_TAG.split(event.text.replace("\\N", " "))
        moments = [start, *map(_seconds, zip(*(pieces[i::5] for i in range(1, 5)), strict=True)), end]
        for text, first, last in zip(pieces[::5], moments, moments[1:], strict=False):
            yield from spread_phrase(_TAG.sub(" ", text), first, last)


def _seconds(tag: tuple[str, ...]) -> float:
    hours, minutes, seconds, fraction = tag
    return 3600 * int(hours or 0) + 60 * int(minutes) + float(f"{seconds}.{fraction}")


def _read_textgrid(path: Path) -> Iterator[Word]:
    """The tier of words if one is called so, as aligners do, else the first tier of intervals."""
    from praatio import textgrid
    from praatio.data_classes.interval_tier import IntervalTier

    try:
        grid = textgrid.openTextgrid(str(path), includeEmptyIntervals=False)
    except Exception as error:  # the parser raises whatever it stumbles over
        raise ValueError(f"no TextGrid: {error}") from error
    tiers = [tier for tier in grid.tiers if isinstance(tier, IntervalTier)]
    tier = next((tier for tier in tiers if "word" in tier.name.lower()), tiers[0] if tiers else None)
    if tier is None:
        raise ValueError("no tier of intervals")
    for start, end, label in tier.entries:
        yield from spread_phrase(label, start, end)
