"""Thinker and performer side by side against one after the other: throughput and latency."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from itertools import islice

import numpy as np
from conversation import variant
from harness import Row, Setting
from kinds import WARM_UP, by_kind, told_by_words
from streamer_pipeline import (
    AgentUnit,
    SplitSession,
    StreamerPipeline,
    StreamerSession,
    split_over_processes,
    split_over_threads,
)

Opener = Callable[[StreamerSession], SplitSession]


def split_throughput(setting: Setting) -> list[Row]:
    """Units per second of two threads and of two processes, one core each, against one process on one core.

    In blocks that alternate, so that what else runs meets all of them alike; both hear the same words in each. With
    commit delay 1 the two sides overlap as in the report; 0 overlaps only decoding and encoding.
    """
    bundled = setting.pipeline()
    openers: dict[str, Opener] = {"threads": split_over_threads, "processes": split_over_processes}
    rows = []
    for delay in (0, 1):
        pipeline = bundled if delay == 0 else variant(bundled, commit_delay=1)
        for name, opener in openers.items():
            seconds, latencies, answers = _alternate_blocks(pipeline, opener, setting)
            value = float(np.median(seconds["one"] / seconds["two"]))
            details = {f"{side}_ms_per_unit": round(1000 * float(np.median(s)), 2) for side, s in seconds.items()}
            kinds = by_kind(latencies, told_by_words(answers, pipeline.streamer.config)[WARM_UP:])
            rows += [
                Row(
                    f"two {name} / one, throughput, d = {delay}",
                    value,
                    "x",
                    ">= 1.6" if name == "processes" else "",
                    details,
                ),
                Row(f"two {name}, d = {delay}, model-side latency, p50", kinds["all"]["p50"], "ms", kinds=kinds),
            ]
    return rows


def _alternate_blocks(
    pipeline: StreamerPipeline, opener: Opener, setting: Setting
) -> tuple[dict[str, np.ndarray], list[float], list[AgentUnit]]:
    """Seconds per unit of each block by side ("one", "two"); of the split side all answers, and the model-side latency
    in ms of those after the warm-up."""
    block, num_blocks = setting.count(60, 13), setting.count(8, 2)
    total = WARM_UP + block * num_blocks
    alone, users = setting.session(pipeline), {side: setting.user_units(total) for side in ("one", "two")}
    seconds: dict[str, list[float]] = {"one": [], "two": []}
    with opener(setting.session(pipeline)) as split:
        for unit in islice(users["one"], WARM_UP):
            alone.step(unit)
        answers = list(split.run(islice(users["two"], WARM_UP)))
        for _ in range(num_blocks):
            units = {side: list(islice(user, block)) for side, user in users.items()}
            seconds["one"].append(_seconds_per_unit(map(alone.step, units["one"]))[0])
            took, answered = _seconds_per_unit(split.run(units["two"]))
            seconds["two"].append(took)
            answers += answered
        latencies = split.ledger.milliseconds("model_side", skip=WARM_UP)
    return {side: np.array(values) for side, values in seconds.items()}, latencies, answers


def _seconds_per_unit(stepping: Iterator[AgentUnit]) -> tuple[float, list[AgentUnit]]:
    start = time.perf_counter()
    answers = list(stepping)
    return (time.perf_counter() - start) / len(answers), answers
