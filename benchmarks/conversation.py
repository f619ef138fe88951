"""The whole loop of a checkpoint: unit times, deadlines, latency, endurance, batches, cold start."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable

import numpy as np
import torch
from harness import Row, Setting, alternate, median, ratio, resident_bytes
from streamer_core import StreamerModel
from streamer_pipeline import (
    UNIT_MS,
    AgentUnit,
    StreamerPipeline,
    StreamerSession,
    UserUnit,
)

WARM_UP = 10  # units
UNITS_PER_MINUTE = 60_000 // UNIT_MS


def random_checkpoint(pipeline: StreamerPipeline, **config_fields) -> StreamerPipeline:
    """The same parts around a Transformer of random weights whose configuration differs in `config_fields`."""
    fields = pipeline.streamer.config.to_dict() | config_fields
    torch.manual_seed(0)
    streamer = StreamerModel(type(pipeline.streamer.config)(**fields))
    parts = {name: part for name, part in pipeline.components.items() if name != "streamer"}
    config = pipeline.config
    return StreamerPipeline(
        streamer=streamer, **parts, prompt=config.prompt, num_inference_steps=config.num_inference_steps
    )


def late_units(times_ms: np.ndarray) -> int:
    """Units that would be late in real time: unit k comes at 160 k, waits for unit k - 1, and has 160 ms."""
    late, free_at = 0, 0.0
    for index, time_ms in enumerate(times_ms):
        arrived_at = index * UNIT_MS
        free_at = max(free_at, arrived_at) + time_ms
        late += int(free_at > arrived_at + UNIT_MS)
    return late


def unit_times(answers: list[AgentUnit]) -> np.ndarray:
    return np.array([answer.latency["total"] for answer in answers[WARM_UP:]])


def whole_loop(setting: Setting) -> list[Row]:
    """Ten minutes of the bundled checkpoint, unit after unit without a pause."""
    session = setting.session()
    num_units = setting.count(3750, 40)
    answers = [session.step(unit) for unit in setting.user_units(num_units)]
    setting.folder.mkdir(parents=True, exist_ok=True)
    session.ledger.plot(setting.folder / "whole_loop.png")
    times = unit_times(answers)
    spans = {name: median([answer.latency[name] for answer in answers[WARM_UP:]]) for name in answers[-1].latency}
    details = {"p50_ms": median(times), "num_units": num_units, "spans_ms": spans}
    return [
        Row("whole loop, p99 of a unit", float(np.percentile(times, 99)), "ms", f"<= {UNIT_MS}", details),
        Row("whole loop, missed deadlines", late_units(times), "units", "<= 0", {"num_units": len(times)}),
        Row("whole loop, real-time factor", float(times.mean() / UNIT_MS), "", "<= 0.6"),
    ]


def model_side_latency(setting: Setting) -> list[Row]:
    """From a complete user unit at the thinker to its decoded response (report, section 2.4)."""
    bundled = setting.pipeline()
    pipelines = {0: bundled, 1: random_checkpoint(bundled, commit_delay=1)}
    rows = []
    for delay, pipeline in pipelines.items():
        session = setting.session(pipeline)
        answers = [session.step(unit) for unit in setting.user_units(setting.count(1000, 30))]
        times = unit_times(answers) - [answer.latency.get("emit", 0.0) for answer in answers[WARM_UP:]]
        for quantile, aim in ((50, "<= 100"), (99, "<= 160")):
            value = float(np.percentile(times, quantile))
            rows.append(Row(f"model-side latency, d = {delay}, p{quantile}", value, "ms", aim))
    return rows


def batched_sessions(setting: Setting) -> list[Row]:
    """Four conversations as one batch against one alone: time of a unit."""
    pipeline = setting.pipeline()
    one, *four = (setting.session(pipeline, seed) for seed in range(5))
    unit = next(setting.user_units(1))
    batch = pipeline.open_batch(4, height=one.options.height, width=one.options.width)
    for session in four:
        batch.join(session)
    sides = {"one": lambda: one.step(unit), "four": lambda: batch.step(dict.fromkeys(four, unit))}
    times = alternate(sides, setting.count(60, 4), warm_up=setting.count(10, 1))
    details = {f"{name}_ms": median(values) for name, values in times.items()}
    return [
        Row("4 sessions batched / 1 session, time per unit", ratio(times["four"], times["one"]), "x", "<= 2", details)
    ]


def one_hour(setting: Setting) -> list[Row]:
    """Does an hour change anything? The last minute against the second: unit times and memory."""
    session = setting.session()
    minute = setting.count(UNITS_PER_MINUTE, 15)
    num_minutes = setting.count(60, 3)
    times, resident = np.empty((num_minutes, minute)), []
    for index in range(num_minutes):
        times[index] = _one_minute(session, setting.user_units(minute))
        resident.append(resident_bytes() / 2**20)
    p99 = np.percentile(times, 99, axis=1)
    details = {"p99_ms_by_minute": p99.round(1).tolist(), "resident_mib_by_minute": np.round(resident, 1).tolist()}
    return [
        Row("one hour, p99 of the last minute / of the second", float(p99[-1] / p99[1]), "x", "<= 1.05", details),
        Row("one hour, memory grown since the second minute", resident[-1] - resident[1], "MiB", "<= 1"),
    ]


def _one_minute(session: StreamerSession, units: Iterable[UserUnit]) -> list[float]:
    return [session.step(unit).latency["total"] for unit in units]


COLD_START = """
import time
begin = time.perf_counter()
import torch
from streamer_pipeline import StreamerPipeline, UserUnit
unit = UserUnit(torch.zeros(1, 3840), torch.zeros(3, 4, {height}, {width}))
imported = time.perf_counter()
session = StreamerPipeline.from_pretrained({checkpoint!r}).open_session(height={height}, width={width})
loaded = time.perf_counter()
session.step(unit)
print("seconds", imported - begin, loaded - imported, time.perf_counter() - loaded)
"""


def cold_start(setting: Setting) -> list[Row]:
    """`from_pretrained` to the first emitted unit, in a fresh process; imports are told apart."""
    script = COLD_START.format(checkpoint=setting.checkpoint, height=setting.height, width=setting.width)
    runs = []
    for _ in range(setting.count(5, 1)):
        output = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
        runs.append([float(word) for word in output.splitlines()[-1].split()[1:]])
    imports, loading, first = (median(values) for values in zip(*runs, strict=True))
    details = {"imports_s": imports, "from_pretrained_s": loading, "first_unit_s": first}
    return [Row("cold start, from_pretrained to the first unit", loading + first, "s", "<= 3", details)]
