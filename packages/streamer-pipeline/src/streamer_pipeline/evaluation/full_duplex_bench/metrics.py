"""The measures of Full-Duplex-Bench, each of one sample. Times are seconds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ...data.words import Word

Span = tuple[float, float]
_SHORT_SECONDS, _FEW_WORDS = 1.0, 3  # what is shorter and has no more words takes no turn
_LONG_SEGMENT = 3.0  # what sounds longer takes a turn, whatever it says
_BACKCHANNEL_SECONDS, _BACKCHANNEL_WORDS = 1.0, 2
WINDOW_SECONDS = 0.2


def takes_over(words: Sequence[Word]) -> bool:
    """Whether these words take the turn: not if there are none, nor if they are at most three within a second."""
    if not words:
        return False
    lasts = max(word.end for word in words) - min(word.start for word in words)
    return not (lasts < _SHORT_SECONDS and len(words) <= _FEW_WORDS)


def words_after(words: Sequence[Word], moment: float) -> list[Word]:
    """Those that begin then or later."""
    return [word for word in words if word.start >= moment]


def latency(words: Sequence[Word], moment: float) -> float:
    """From a moment to the first word; 0 where that comes before it."""
    return max(0.0, min(word.start for word in words) - moment)


class Backchannels(NamedTuple):
    """What an agent does while somebody talks on. times: the middle of each of its back-channels."""

    takes_over: bool
    times: list[float]


def backchannels(segments: Sequence[Span], words: Sequence[Word]) -> Backchannels:
    """Of the stretches in which the agent's sound is heard, and its words.

    A stretch of more than 3 s takes the turn. A shorter one is a back-channel if it lasts less than a second and holds
    at most two words; of the shorter ones the last decides.
    """
    times, last_takes_over, is_long = [], False, False
    for start, end in segments:
        num_words = sum(start <= (word.start + word.end) / 2 < end for word in words)
        is_long |= end - start > _LONG_SEGMENT
        last_takes_over = not (end - start < _BACKCHANNEL_SECONDS and num_words <= _BACKCHANNEL_WORDS)
        if not last_takes_over:
            times.append((start + end) / 2)
    return Backchannels(is_long or last_takes_over, times)


def divergence(times: Sequence[float], truth: Sequence[float]) -> float:
    """Jensen-Shannon divergence, in bits (0 to 1), of back-channels in windows of 0.2 s from those of people.

    1 where one of the two has none. `truth` weighs every window, and is as long as the sample.
    """
    from scipy.spatial.distance import jensenshannon

    bins = np.arange(len(truth) + 1) * WINDOW_SECONDS
    counts = np.histogram(times, bins)[0]
    if not counts.any() or not np.any(truth):
        return 1.0
    return float(jensenshannon(counts, truth, base=2)) ** 2


def stop_latency(segments: Sequence[Span], happening: Span) -> float | None:
    """How long the agent and what happens are heard at once; None where the agent was not speaking when it began."""
    start, end = happening
    if not any(first <= start < last for first, last in segments):
        return None
    return sum(max(0.0, min(last, end) - max(first, start)) for first, last in segments)


def response_latency(segments: Sequence[Span], moment: float) -> float | None:
    """From a moment to the agent's next onset; None where there is none."""
    return next((first - moment for first, _ in segments if first >= moment), None)
