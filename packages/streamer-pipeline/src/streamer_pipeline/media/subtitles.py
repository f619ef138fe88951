"""The words of a conversation as subtitles (SubRip, .srt)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import regex

from ..units import UNIT_MS, AgentUnit, UserUnit

PAUSE_UNITS = 4  # units without a word that end a caption
MAX_WORDS = 10
MAX_UNITS = 4000 // UNIT_MS  # 4 s
_SPACELESS = regex.compile(
    r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\u3000-\u303f\uff00-\uffef]"
)


@dataclass
class _Words:
    """A word, or a caption of several: its text and the units [start, end) it spans."""

    start: int
    end: int
    text: str
    num_words: int = 1
    is_glued: bool = False  # no space stands before it


def captions(texts: Sequence[str | None]) -> list[tuple[float, float, str]]:
    """The text of every unit -> captions (start, end, text) in seconds that never overlap.

    A caption ends at a pause of 4 units, after 10 words or after 4 s. It stays for the length of that pause, so that a
    single word can be read, but not into the next caption and not past the last unit. A unit is never split.
    Pieces of words are joined as they are if any text begins or ends with a space (subwords), else by spaces; pieces in
    a script without spaces (Chinese, Japanese, Thai ...) are words of their own, joined as they are.
    """
    found: list[_Words] = []
    for word in _words(texts):
        last = found[-1] if found else None
        if last is not None and (
            word.start == last.start
            or (
                word.start - last.end < PAUSE_UNITS
                and last.num_words < MAX_WORDS
                and word.end - last.start <= MAX_UNITS
            )
        ):
            space = "" if word.is_glued else " "
            last.end, last.text, last.num_words = word.end, f"{last.text}{space}{word.text}", last.num_words + 1
        else:
            found.append(word)
    limits = [following.start for following in found[1:]] + [len(texts)]
    result = []
    for caption, limit in zip(found, limits[: len(found)], strict=True):
        held = min(caption.end + PAUSE_UNITS, max(caption.end, caption.start + MAX_UNITS))
        result.append((caption.start * UNIT_MS / 1000, min(held, limit) * UNIT_MS / 1000, caption.text))
    return result


def write_srt(path: str | Path, units: Iterable[AgentUnit | UserUnit], heard: Sequence[str] = ()) -> None:
    """Write the text of the units as a subtitle file; a player shows it beside the video of the same name.

    Args:
        heard: the other side's words, unit by unit on the same clock: captions of their own, behind "user:".
    """
    cues = captions([unit.text for unit in units])
    cues += [(start, end, f"user: {text}") for start, end, text in captions(heard)]
    blocks = [
        f"{number}\n{_timecode(start)} --> {_timecode(end)}\n{text}\n"
        for number, (start, end, text) in enumerate(sorted(cues), 1)
    ]
    Path(path).write_text("\n".join(blocks), encoding="utf-8")


def _words(texts: Sequence[str | None]) -> list[_Words]:
    """Every word with the units it came in; a subword piece without a space before it continues its word."""
    subwords = any(text and (text[0].isspace() or text[-1].isspace()) for text in texts)
    words: list[_Words] = []
    is_open = False  # may the next piece continue the last word?
    is_glued = False  # does it stand right behind it, if its script allows?
    for unit, text in enumerate(texts):
        for piece in regex.findall(r"\s+|\S+", text or ""):
            if piece.isspace():
                is_open = is_glued = False
                continue
            is_glued &= bool(words) and _meet_without_space(words[-1].text, piece)
            if is_open and not is_glued and unit - words[-1].end < PAUSE_UNITS:
                words[-1].text, words[-1].end = words[-1].text + piece, unit + 1
            else:
                words.append(_Words(unit, unit + 1, piece, is_glued=is_glued))
            is_open = is_glued = True
        is_open &= subwords
    return words


def _meet_without_space(before: str, after: str) -> bool:
    """Whether one of two neighbours is written in a script that puts no space between words."""
    return any(_SPACELESS.match(character) for character in (before[-1], after[0]))


def _timecode(seconds: float) -> str:
    """SubRip's hh:mm:ss,mmm."""
    minutes, ms = divmod(round(seconds * 1000), 60_000)
    return f"{minutes // 60:02}:{minutes % 60:02}:{ms // 1000:02},{ms % 1000:03}"
