"""When the agent speaks beside a user whose words are known: turns, latencies, pauses, overlaps, interruptions.

The agent is heard by the level of its sound. What it should do, the recorded agent shows, by its words: where it takes
the turn after words of the user is a turn to take, where it lets the user go on is a pause to wait in.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise, zip_longest
from typing import Any, NamedTuple

from ..clock import UNIT_MS
from ..data.words import Word, utterances
from .recorded_conversation import RecordedConversation
from .scorecard import Scores
from .sound import bursts, seconds
from .statistics import events_per_minute, mean, quantile, rate

_EARLIEST_ANSWER = 1.0  # seconds before the user's last word ends: what begins sooner talks over the user
_SHORT_SECONDS, _FEW_WORDS = 1.0, 2  # a back-channel lasts less, and has no more words
_STOP_SECONDS = 1.0


class Span(NamedTuple):
    """Somebody speaks in [start, end) seconds."""

    start: float
    end: float
    num_words: int = 0


@dataclass(frozen=True)
class Scene:
    """Both sides of a conversation. user, recorded: runs of words of the user, and of the recorded agent, without a
    silence of more than half a second inside; None where nobody wrote them down. agent: where its sound is heard."""

    user: list[Span] | None
    recorded: list[Span] | None
    agent: list[Span]
    seconds: float

    @classmethod
    def of(cls, conversation: RecordedConversation) -> Scene:
        sounds = [Span(seconds(first), seconds(end)) for first, end in bursts(conversation.wave)]
        user, recorded = (spoken_runs(conversation.labels, side) for side in ("user", "agent"))
        return cls(user, recorded, sounds, len(conversation.texts) * UNIT_MS / 1000)

    def gaps(self) -> Iterator[tuple[Span, float]]:
        """Every run of the user, and when the next one begins."""
        runs = self.user or []
        for run, following in zip_longest(runs, runs[1:]):
            yield run, math.inf if following is None else following.start


def spoken_runs(labels: dict[str, Any], side: str) -> list[Span] | None:
    """Runs of words of "user" or "agent", from the transcript of a dyad."""
    transcript = labels.get(side, {}).get("transcript")
    if transcript is None:
        return None
    runs = utterances(Word(*word) for word in transcript)
    return [Span(run[0].start, max(word.end for word in run), len(run)) for run in runs]


def dialogue_scores(conversations: list[RecordedConversation]) -> Scores:
    """Every row of the group "dialogue"; Score(None) where the words that it needs are not known."""
    scenes = [scene for c in conversations if (scene := Scene.of(c)).user is not None]
    compared = [scene for scene in scenes if scene.recorded is not None]
    delays = [delay for scene in compared for delay in turn_delays(scene)]
    latencies = [1000 * delay for delay in delays if delay is not None]
    stopped = [stop for scene in scenes for stop in stop_delays(scene)]
    short = sum(len(backchannels(scene)) for scene in scenes)
    minutes = sum(run.end - run.start for scene in scenes for run in scene.user or []) / 60
    return {
        "dialogue.taken": rate([delay is not None for delay in delays]),
        "dialogue.latency_median": quantile(latencies, 0.5),
        "dialogue.latency_p90": quantile(latencies, 0.9),
        "dialogue.pause_taken": rate([taken for scene in compared for taken in pauses_taken(scene)]),
        "dialogue.overlap": mean([overlap(scene) / scene.seconds for scene in scenes]),
        "dialogue.backchannels": events_per_minute(short, minutes),
        "dialogue.stops": rate([delay <= _STOP_SECONDS for delay in stopped]),
        "dialogue.stop_latency": quantile([1000 * delay for delay in stopped], 0.5),
        "dialogue.speaks_on": rate([on for scene in scenes for on in speaks_on(scene)]),
    }


def answer(spans: Iterable[Span], run: Span, until: float) -> Span | None:
    """What is said in answer to a run of the user's words: it goes on after them, and begins at most a second before
    they end and before the user speaks again."""
    earliest = max(run.start, run.end - _EARLIEST_ANSWER)
    return next((span for span in spans if earliest <= span.start < until and span.end > run.end), None)


def turn_delays(scene: Scene) -> list[float | None]:
    """For every turn that the recorded agent takes: seconds from the user's last word to the agent's onset, below 0
    where they overlap; None where the agent does not take it."""
    delays: list[float | None] = []
    recorded = scene.recorded or []
    for run, until in scene.gaps():
        is_aside = any(span.start < run.start and span.end > run.end for span in recorded)
        if not is_aside and answer(recorded, run, until) is not None:
            mine = answer(scene.agent, run, until)
            delays.append(None if mine is None else mine.start - run.end)
    return delays


def pauses_taken(scene: Scene) -> list[bool]:
    """For every silence between two runs of the user in which the recorded agent says nothing: whether the agent is
    heard in it."""
    recorded = scene.recorded or []
    pauses = [Span(run.end, following.start) for run, following in pairwise(scene.user or [])]
    return [_meets(scene.agent, pause) for pause in pauses if not _meets(recorded, pause)]


def overlap(scene: Scene) -> float:
    """Seconds in which both are heard."""
    both = (min(a.end, u.end) - max(a.start, u.start) for a in scene.agent for u in scene.user or [])
    return sum(max(0.0, length) for length in both)


def backchannels(scene: Scene) -> list[Span]:
    """Sounds of the agent of less than a second that lie within a run of the user's words."""
    short = [span for span in scene.agent if span.end - span.start < _SHORT_SECONDS]
    return [span for span in short if any(run.start <= span.start and span.end <= run.end for run in scene.user or [])]


def stop_delays(scene: Scene) -> list[float]:
    """For every interruption of the agent: seconds from its beginning to the agent's silence."""
    return [mine.end - run.start for run, mine in _broken_into(scene) if not _is_backchannel(scene, run)]


def speaks_on(scene: Scene) -> list[bool]:
    """For every back-channel of the user while the agent speaks: whether the agent is still heard at its end."""
    return [mine.end >= run.end for run, mine in _broken_into(scene) if _is_backchannel(scene, run)]


def _broken_into(scene: Scene) -> list[tuple[Span, Span]]:
    """Runs of the user that begin while the agent is heard, and what they break into."""
    return [(run, mine) for run in scene.user or [] for mine in scene.agent if mine.start < run.start < mine.end]


def _is_backchannel(scene: Scene, run: Span) -> bool:
    """By what the recorded agent does if it is speaking then: it speaks on. Otherwise by length and words."""
    spoken = [span for span in scene.recorded or [] if span.start < run.start < span.end]
    if spoken:
        return spoken[0].end >= run.end
    return run.end - run.start < _SHORT_SECONDS and run.num_words <= _FEW_WORDS


def _meets(spans: Iterable[Span], other: Span) -> bool:
    return any(span.start < other.end and span.end > other.start for span in spans)
