"""Words with times, and what an agent's words say of its state and its text slots. Numbers alone: no tensors."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from ..clock import UNIT_MS

UNIT_SECONDS = UNIT_MS / 1000
LONGEST_PAUSE = 0.5  # seconds; a shorter silence between two words belongs to the utterance
LEAD_UNITS = 2  # the agent's words come up to so many units before they sound
_EDGE = 1e-6  # seconds; 0.32 / 0.16 may be a little less than 2


class Word(NamedTuple):
    """A word, or a word with its punctuation, that sounds in [start, end) seconds."""

    text: str
    start: float
    end: float


class AgentLanguage(NamedTuple):
    """What the language slots of the agent hold, unit by unit.

    speaking: (U,) whether the state slot says "speak". words: (U,) the words that come in each unit, for `fill_slots`.
    """

    speaking: list[bool]
    words: list[list[str]]


def agent_language(
    words: Iterable[Word], num_units: int, lead_units: int = LEAD_UNITS, longest_pause: float = LONGEST_PAUSE
) -> AgentLanguage:
    """State and words of every unit, from the times of the agent's words.

    The agent speaks from the unit in which an utterance begins to the one in which it ends; pauses of at most
    `longest_pause` seconds are part of it. A word comes `lead_units` before the unit in which it begins to sound, but
    not before its utterance does: what is said may depend on what was heard until then.

    Args:
        words: of the agent, in any order; what begins after the last unit is left out.
    """
    speaking = [False] * num_units
    slots: list[list[str]] = [[] for _ in range(num_units)]
    for utterance in utterances(words, longest_pause):
        first = unit_at(utterance[0].start)
        end = min(num_units, max(first + 1, math.ceil(_last_end(utterance) / UNIT_SECONDS - _EDGE)))
        speaking[first:end] = [True] * max(0, end - first)
        for word in utterance:
            unit = max(first, unit_at(word.start) - lead_units)
            if unit_at(word.start) < num_units:
                slots[unit].append(word.text)
    return AgentLanguage(speaking, slots)


def fill_slots(
    words: Iterable[Iterable[str]], encode: Callable[[str], list[int]], num_slots: int, pad: int
) -> list[list[int]]:
    """Words per unit -> token ids (U, num_slots); what does not fit waits for the next unit, free slots hold `pad`.

    Args:
        encode: of a word, as `StreamerTokenizer.encode_words`.
    """
    slots, waiting = [], []
    for said in words:
        waiting += [token for word in said for token in encode(word)]
        now, waiting = waiting[:num_slots], waiting[num_slots:]
        slots.append(now + [pad] * (num_slots - len(now)))
    return slots


def utterances(words: Iterable[Word], longest_pause: float = LONGEST_PAUSE) -> list[list[Word]]:
    """Words of one speaker in runs with no silence of more than `longest_pause` seconds inside, in order of time."""
    runs: list[list[Word]] = []
    for word in sorted(words, key=lambda word: (word.start, word.end)):
        if runs and word.start - _last_end(runs[-1]) <= longest_pause + _EDGE:
            runs[-1].append(word)
        else:
            runs.append([word])
    return runs


def spread_phrase(text: str, start: float, end: float) -> list[Word]:
    """The words of a phrase that sounds in [start, end): each gets time in proportion to its letters."""
    words = text.split()
    num_letters = sum(map(len, words))
    found, passed = [], 0
    for word in words:
        first, passed = passed, passed + len(word)
        found.append(
            Word(word, start + (end - start) * first / num_letters, start + (end - start) * passed / num_letters)
        )
    return found


def unit_at(seconds: float) -> int:
    """The unit in which this moment lies; what is before the first counts as in it."""
    return max(0, math.floor(seconds / UNIT_SECONDS + _EDGE))


def _last_end(run: Sequence[Word]) -> float:
    return max(word.end for word in run)
