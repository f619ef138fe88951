"""Thinker and performer side by side against one after the other: throughput and latency."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import numpy as np
from conversation import random_checkpoint
from harness import Row, Setting
from streamer_pipeline import (
    SplitSession,
    StreamerPipeline,
    StreamerSession,
    split_over_processes,
    split_over_threads,
)

WARM_UP = 10  # units
Opener = Callable[[StreamerSession], SplitSession]


def split_throughput(setting: Setting) -> list[Row]:
    """Units per second of two threads and of two processes, one core each, against one process on one core.

    In blocks that alternate, so that what else runs meets all of them alike. With commit delay 1 the two sides overlap
    as in the report; 0 overlaps only decoding and encoding.
    """
    bundled = setting.pipeline()
    openers: dict[str, Opener] = {"threads": split_over_threads, "processes": split_over_processes}
    rows = []
    for delay in (0, 1):
        pipeline = bundled if delay == 0 else random_checkpoint(bundled, commit_delay=1)
        for name, opener in openers.items():
            seconds, latencies = _alternate_blocks(pipeline, opener, setting)
            value = float(np.median(seconds["one"] / seconds["two"]))
            details = {f"{side}_ms_per_unit": round(1000 * float(np.median(s)), 2) for side, s in seconds.items()}
            details |= {f"model_side_p{q}_ms": round(float(np.percentile(latencies, q)), 1) for q in (50, 99)}
            label = f"two {name} / one, throughput, d = {delay}"
            rows.append(Row(label, value, "x", ">= 1.6" if name == "processes" else "", details))
    return rows


def _alternate_blocks(
    pipeline: StreamerPipeline, opener: Opener, setting: Setting
) -> tuple[dict[str, np.ndarray], list[float]]:
    """Seconds per unit of each block by side ("one", "two"), and the split side's model-side latencies in ms."""
    block, num_blocks = setting.count(60, 8), setting.count(8, 1)
    alone = setting.session(pipeline)
    seconds: dict[str, list[float]] = {"one": [], "two": []}
    with opener(setting.session(pipeline)) as split:
        for unit, _ in zip(setting.user_units(WARM_UP), split.run(setting.user_units(WARM_UP)), strict=True):
            alone.step(unit)
        for _ in range(num_blocks):
            seconds["one"].append(_seconds_per_unit(map(alone.step, setting.user_units(block)), block))
            seconds["two"].append(_seconds_per_unit(split.run(setting.user_units(block)), block))
        latencies = split.ledger.milliseconds("model_side", skip=WARM_UP)
    return {side: np.array(values) for side, values in seconds.items()}, latencies


def _seconds_per_unit(answers: Iterator, num_units: int) -> float:
    start = time.perf_counter()
    for _ in answers:
        pass
    return (time.perf_counter() - start) / num_units
