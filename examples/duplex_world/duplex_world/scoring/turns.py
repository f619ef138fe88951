"""When the agent speaks and when it does not: replies, latency, pauses, false starts, interruptions, back-channels.

All from the level of its sound and the wall-clock labels of what the user did. A reply is a burst of sound that begins
after the user's last word; one that began before talks over the user and is none.
"""

import math

import numpy as np
from streamer_pipeline.evaluation.recorded_conversation import RecordedConversation
from streamer_pipeline.evaluation.sound import PIECES_PER_UNIT, bursts, seconds, sounding_units
from streamer_pipeline.evaluation.statistics import Score, events_per_minute, quantile, rate
from streamer_pipeline.units import UNIT_MS

STOP_UNITS = 3
_GOES_ON = 0.6  # share of the units during and after a back-channel that must sound
_UNIT_SECONDS = UNIT_MS / 1000


def turn_scores(conversations: list[RecordedConversation]) -> dict[str, Score]:
    """Rates and latencies over dyads."""
    delays = [delay for p in conversations for delay in reply_delays(p)]
    latencies = [1000 * delay for delay in delays if delay is not None]
    starts = [false_starts(p) for p in conversations]
    return {
        "turns.replied": rate([delay is not None for delay in delays]),
        "turns.latency_median": quantile(latencies, 0.5),
        "turns.latency_p90": quantile(latencies, 0.9),
        "turns.pause_taken": rate([taken for p in conversations for taken in pauses_taken(p)]),
        "turns.false_starts": events_per_minute(sum(n for n, _ in starts), sum(minutes for _, minutes in starts)),
        "interruption.stops": rate([stop for p in conversations for stop in stops(p)]),
        "interruption.goes_on": rate([on for p in conversations for on in goes_on(p)]),
        "proactive.quiet": rate([quiet for p in conversations for quiet in stays_quiet(p)]),
    }


def reply_delays(conversation: RecordedConversation) -> list[float | None]:
    """For every finished question: seconds from the end of the user's speech to the first sound; None if none came.

    A reply must begin before the user speaks again.
    """
    segments, delays = conversation.labels["user"]["segments"], []
    onsets = [seconds(first) for first, _ in bursts(conversation.wave)]
    for index, segment in enumerate(segments):
        if segment["kind"] != "question":
            continue
        until = segments[index + 1]["start"] if index + 1 < len(segments) else math.inf
        delays.append(next((t - segment["end"] for t in onsets if segment["end"] <= t < until), None))
    return delays


def pauses_taken(conversation: RecordedConversation) -> list[bool]:
    """For every pause inside a question: whether the agent spoke in it."""
    sounding = sounding_units(conversation.wave)
    return [
        bool(sounding[e["first_unit"] : e["end_unit"]].any()) for e in _expected(conversation, "silence", ["pause"])
    ]


def stays_quiet(conversation: RecordedConversation) -> list[bool]:
    """For every stretch in which nothing happens or something is shown without a word: whether all of it was silent."""
    sounding = sounding_units(conversation.wave)
    idle = [e for e in _expected(conversation, "silence") if e["reason"] != "pause"]
    return [not bool(sounding[e["first_unit"] : e["end_unit"]].any()) for e in idle]


def false_starts(conversation: RecordedConversation) -> tuple[int, float]:
    """Bursts that begin where nobody speaks and nothing is owed, and how many minutes of that there are."""
    free = _free_units(conversation.labels)
    onsets = [first // PIECES_PER_UNIT for first, _ in bursts(conversation.wave)]
    return sum(bool(free[unit]) for unit in onsets if unit < len(free)), float(free.sum()) * UNIT_MS / 60_000


def _free_units(labels: dict) -> np.ndarray:
    """(U,) units in which the user is silent and the agent owes nothing."""
    free = np.ones(labels["num_units"], bool)
    segments = labels["user"]["segments"]
    for index, segment in enumerate(segments):
        end = segment["end"]
        if segment["kind"] == "question" and index + 1 < len(segments):
            end = segments[index + 1]["start"]  # in between lies the reply
        free[int(segment["start"] / _UNIT_SECONDS) : math.ceil(end / _UNIT_SECONDS)] = False
    for expected in labels["expect"]:
        if expected["kind"] != "silence" or expected["reason"] == "pause":  # a pause has a row of its own
            free[expected["first_unit"] : expected["end_unit"]] = False
    for spoken in labels["agent"]["segments"]:
        free[spoken["first_unit"] : spoken["end_unit"]] = False
    return free


def stops(conversation: RecordedConversation) -> list[bool]:
    """For every interruption of a speaking agent: whether it is silent in time.

    The label "stop" says in which unit the user cut in. What is heard there can play `response_delay` units later at
    the soonest; from then on the agent has `STOP_UNITS` units to end the burst of sound that the user interrupted.
    """
    in_time = []
    for expected in _expected(conversation, "stop"):
        onset = expected["first_unit"] * PIECES_PER_UNIT
        limit = onset + (conversation.labels["response_delay"] + STOP_UNITS) * PIECES_PER_UNIT
        in_time += [end <= limit for first, end in bursts(conversation.wave) if first < onset < end]
    return in_time


def goes_on(conversation: RecordedConversation) -> list[bool]:
    """For every back-channel to a speaking agent: whether most of the units after it still sound."""
    sounding, went_on = sounding_units(conversation.wave), []
    for expected in _expected(conversation, "continue"):
        first, end = expected["first_unit"], expected["end_unit"]
        if sounding[max(0, first - 1) : first + 1].any():
            went_on.append(bool(sounding[first:end].mean() >= _GOES_ON))
    return went_on


def _expected(conversation: RecordedConversation, kind: str, reasons: list[str] | None = None) -> list[dict]:
    expected = [e for e in conversation.labels["expect"] if e["kind"] == kind]
    return [e for e in expected if reasons is None or e["reason"] in reasons]
