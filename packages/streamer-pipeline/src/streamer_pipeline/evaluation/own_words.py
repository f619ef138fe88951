"""When the agent's own words sound: its text stream, moved to its sound. For want of a recogniser."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import numpy as np

from ..clock import UNIT_MS
from ..data.words import LEAD_UNITS, Word, spread_phrase
from .sound import bursts, seconds

_UNIT_SECONDS = UNIT_MS / 1000
_LONGEST_LEAD = (LEAD_UNITS + 1) * _UNIT_SECONDS  # text comes up to so long before its sound


def own_words(texts: Sequence[str], wave: np.ndarray) -> list[Word]:
    """The words of the text stream, in order, with times in seconds; words that never sound are left out.

    A word has the time of the units that it was written in. Where it is still silent then, it moves to the next sound
    within half a second: text comes before its sound.

    Args:
        texts: of each unit, a word may go on in the next. wave: `(N,)` at 24 kHz, on the same clock.
    """
    sounds = [(seconds(first), seconds(end)) for first, end in bursts(wave)]
    found, moved_until = [], 0.0
    for word in written_words(texts):
        sound = next((span for span in sounds if span[1] > word.start), None)
        if sound is None or sound[0] - word.start > _LONGEST_LEAD:
            continue
        start = max(word.start, sound[0], moved_until)
        end = max(word.end, start + (word.end - word.start))
        moved_until = start
        found.append(Word(word.text, start, end))
    return found


def written_words(texts: Sequence[str]) -> list[Word]:
    """Words with the times of the units that they were written in; several of one unit share it by their letters."""
    words: list[tuple[str, int, int]] = []
    is_inside = False
    for unit, text in enumerate(texts):
        for letter in text:
            if not letter.isspace():
                before, first = words.pop()[:2] if is_inside else ("", unit)
                words.append((before + letter, first, unit))
            is_inside = not letter.isspace()
    found: list[Word] = []
    for (first, last), mates in groupby(words, key=lambda word: word[1:]):
        phrase = " ".join(word for word, *_ in mates)
        found += spread_phrase(phrase, first * _UNIT_SECONDS, (last + 1) * _UNIT_SECONDS)
    return found
