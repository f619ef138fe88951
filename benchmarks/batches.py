"""Conversations side by side: four in a batch against each alone, in time and in memory."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
from conversation import variant
from harness import Row, Setting, median, memory_growth
from kinds import WARM_UP, Lived, by_kind, count_passes, live, speaks
from streamer_pipeline import AgentUnit, StreamerPipeline, StreamerSession, UserUnit

NUM_SESSIONS = 4
BatchStep = Callable[[list[UserUnit]], list[AgentUnit]]


def batch_of(pipeline: StreamerPipeline, sessions: list[StreamerSession]) -> BatchStep:
    """One batch of sessions just opened: what steps them all by a unit each."""
    o = sessions[0].options
    batch = pipeline.open_batch(
        len(sessions),
        num_inference_steps=o.num_inference_steps,
        height=o.height,
        width=o.width,
        capacity_units=o.capacity_units,
    )
    for session in sessions:
        batch.join(session)

    def step(units: list[UserUnit]) -> list[AgentUnit]:
        answers = batch.step(dict(zip(sessions, units, strict=True)))
        return [answers[session] for session in sessions]

    return step


def batched_sessions(setting: Setting) -> list[Row]:
    """Four conversations as one batch against each of them alone, in turn: the same words on both sides.

    The four users are in different places of their minute, so that they do not all speak at once.
    """
    pipeline, num_units = setting.pipeline(), setting.count(200, 30)
    users = [setting.user_units(num_units, place / NUM_SESSIONS) for place in range(NUM_SESSIONS)]
    alone, joined = ([setting.session(pipeline, seed) for seed in range(NUM_SESSIONS)] for _ in range(2))
    step = batch_of(pipeline, joined)
    single: list[list[Lived]] = []
    together: list[Lived] = []
    for units in zip(*users, strict=True):
        single.append([live(session, [unit])[0] for session, unit in zip(alone, units, strict=True)])
        together.append(live_batch(pipeline, step, list(units)))
    single, together = single[WARM_UP:], together[WARM_UP:]
    one = np.array([[each.latency["total"] for each in units] for units in single])
    four = np.array([unit.latency["total"] for unit in together])
    ratios = four / one.mean(axis=1)
    spoken = np.array([sum(each.speaks for each in units) for units in single])
    details = {
        "one_ms": median(one),
        "four_ms": median(four),
        "ratio_by_speakers": {int(n): round(float(np.median(ratios[spoken == n])), 3) for n in np.unique(spoken)},
    }
    name = f"{NUM_SESSIONS} sessions batched / 1 session, time per unit"
    kinds = by_kind(one.ravel(), [each for units in single for each in units])
    return [
        Row(name, float(np.median(ratios)), "x", "<= 1.5", details, by_kind(four, together)),
        Row(f"1 of these {NUM_SESSIONS} sessions alone, p50 of a unit", median(one), "ms", kinds=kinds),
    ]


def live_batch(pipeline: StreamerPipeline, step: BatchStep, units: list[UserUnit]) -> Lived:
    """Step a batch. Its unit speaks where one of its sessions does; the revisions of all are counted together."""
    with count_passes(pipeline.streamer) as count:
        start = time.perf_counter()
        answers = step(units)
        total = 1000 * (time.perf_counter() - start)
    passes = count[0] - pipeline.config.num_inference_steps - 1
    return Lived({"total": total}, any(map(speaks, answers)), passes > 1, passes)


def batch_memory(setting: Setting) -> list[Row]:
    """What four sessions of one batch hold at the most while they are stepped / four times what `session_nbytes` says.

    Histories are full and have room for eleven minutes, so that they, and not what a pass needs besides, are most of
    it. Language is sampled at a temperature at which every session begins words in every unit.
    """
    pipeline = variant(setting.pipeline(), context_window=None, response_window=None)
    size = {"height": setting.height, "width": setting.width, "capacity_units": setting.count(4096, 64)}
    predicted = NUM_SESSIONS * pipeline.session_nbytes(**size)
    units = list(setting.user_units(NUM_SESSIONS))
    setting.session(pipeline).step(units[0])  # whatever a first step leaves behind is no session's
    found = {}

    def open_batch() -> None:
        sessions = [pipeline.open_session(seed=seed, temperature=10.0, **size) for seed in range(NUM_SESSIONS)]
        found["step"] = batch_of(pipeline, sessions)

    _, held = memory_growth(open_batch)
    with count_passes(pipeline.streamer) as count:
        most, _ = memory_growth(lambda: [found["step"](units) for _ in range(2)])
    if count[0] <= 2 * (1 + pipeline.config.num_inference_steps + 1):
        raise RuntimeError("no session began a word in two steps: this would be the memory of silence")
    details = {
        "predicted_mib": round(predicted / 2**20, 1),
        "held_mib": round(held / 2**20, 1),
        "more_in_a_step_mib": round(most / 2**20, 1),
    }
    name = f"{NUM_SESSIONS} sessions batched, most memory / predicted"
    return [Row(name, (held + most) / predicted, "x", "<= 1.05", details)]
