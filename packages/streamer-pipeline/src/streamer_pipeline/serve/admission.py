"""Who may come in: the number of conversations that memory and speed allow, known before the first one."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from typing import Any

import torch

from ..pipeline import StreamerPipeline
from ..units import FRAMES_PER_UNIT, SAMPLES_PER_UNIT, UNIT_MS, UserUnit
from .options import ServeOptions

# The share of a unit's 160 ms that computing may take: the rest is for codecs, the network and other programs.
SPEED_MARGIN = 0.85
_WARM_UP, _MEASURED = 2, 5


@dataclass(frozen=True)
class Capacity:
    """How many conversations fit, and why.

    session_nbytes: predicted bytes of one session. unit_ms: measured milliseconds of one unit for a batch of 1, 2, ...
    """

    num_sessions: int
    session_nbytes: int
    unit_ms: tuple[float, ...]
    reason: str

    @property
    def is_real_time(self) -> bool:
        """Whether even one conversation keeps up."""
        return self.unit_ms[0] <= UNIT_MS * SPEED_MARGIN


def measure_capacity(pipeline: StreamerPipeline, options: ServeOptions) -> Capacity:
    """Predict the bytes and measure the time of 1, 2, ... sessions, up to `options.max_sessions` or the first misfit.

    One conversation is always admitted, even where it will not keep up: `is_real_time` says so.

    Raises:
        ValueError: not even one session fits into `options.memory_gib`.
    """
    # A full history grows for as long as a conversation may last, and that is what is counted.
    num_units = int(options.max_seconds * 1000 / UNIT_MS)
    nbytes = pipeline.session_nbytes(height=options.height, width=options.width, num_units=num_units)
    by_memory = int(options.memory_gib * 2**30 // nbytes)
    if by_memory < 1:
        raise ValueError(f"a session takes {nbytes / 2**30:.2f} GiB, memory_gib={options.memory_gib} is less")
    timings: list[float] = []
    for num_sessions in range(1, min(options.max_sessions, by_memory) + 1):
        timings.append(unit_ms(pipeline, options, num_sessions))
        if timings[-1] > UNIT_MS * SPEED_MARGIN:
            break
    by_speed = sum(ms <= UNIT_MS * SPEED_MARGIN for ms in timings)
    num_sessions = max(1, min(options.max_sessions, by_memory, by_speed))
    if num_sessions == options.max_sessions:
        reason = f"max_sessions is {num_sessions}"
    elif num_sessions == by_memory:
        reason = f"{options.memory_gib:g} GiB hold {num_sessions} sessions of {nbytes / 2**20:.1f} MiB"
    else:
        reason = f"{num_sessions + 1} at once would take {timings[-1]:.0f} of a unit's {UNIT_MS} ms"
    return Capacity(num_sessions, nbytes, tuple(timings), reason)


def unit_ms(pipeline: StreamerPipeline, options: ServeOptions, num_sessions: int) -> float:
    """Median milliseconds of one unit for `num_sessions` fresh sessions stepped as one batch."""
    shared: dict[str, Any] = {
        "num_inference_steps": options.num_inference_steps,
        "height": options.height,
        "width": options.width,
    }
    batch = pipeline.open_batch(num_sessions, **shared)
    for seed in range(num_sessions):
        batch.join(pipeline.open_session(seed=seed, **shared))
    unit = UserUnit(torch.zeros(1, SAMPLES_PER_UNIT), torch.zeros(3, FRAMES_PER_UNIT, options.height, options.width))
    taken = []
    for _ in range(_WARM_UP + _MEASURED):
        start = time.perf_counter()
        batch.step(dict.fromkeys(batch.sessions, unit))
        taken.append(1000 * (time.perf_counter() - start))
    return statistics.median(taken[_WARM_UP:])
