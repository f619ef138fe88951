"""The whole loop of a checkpoint: unit times, deadlines, latency, endurance, cold start."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
from harness import Row, Setting, median, resident_bytes
from kinds import WARM_UP, Lived, by_kind, live
from streamer_core import StreamerModel
from streamer_pipeline import UNIT_MS, StreamerPipeline
from users import UNITS_PER_MINUTE


def variant(pipeline: StreamerPipeline, **config_fields) -> StreamerPipeline:
    """The same parts and weights under a configuration that differs in `config_fields`: commit delay or windows.

    No weight depends on those, so the agent goes on talking, though it was not trained for them.
    """
    streamer = StreamerModel(type(pipeline.streamer.config)(**pipeline.streamer.config.to_dict() | config_fields))
    streamer.load_state_dict(pipeline.streamer.state_dict())
    parts = {name: part for name, part in pipeline.components.items() if name != "streamer"}
    config = pipeline.config
    return StreamerPipeline(
        streamer=streamer.eval(), **parts, prompt=config.prompt, num_inference_steps=config.num_inference_steps
    )


def late_units(times_ms: np.ndarray) -> int:
    """Units that would be late in real time: unit k comes at 160 k, waits for unit k - 1, and has 160 ms."""
    late, free_at = 0, 0.0
    for index, time_ms in enumerate(times_ms):
        arrived_at = index * UNIT_MS
        free_at = max(free_at, arrived_at) + time_ms
        late += int(free_at > arrived_at + UNIT_MS)
    return late


def totals(units: list[Lived]) -> np.ndarray:
    return np.array([unit.latency["total"] for unit in units])


def spans(units: list[Lived]) -> dict[str, float]:
    """Median milliseconds of each stage; {} of no units."""
    return {name: median([unit.latency[name] for unit in units]) for name in (units[-1].latency if units else ())}


def whole_loop(setting: Setting) -> list[Row]:
    """Ten minutes of the bundled checkpoint, unit after unit without a pause."""
    session = setting.session()
    num_units = setting.count(10 * UNITS_PER_MINUTE, 36)
    units = live(session, setting.user_units(num_units))[WARM_UP:]
    session.ledger.plot(setting.folder / "whole_loop.png")
    times = totals(units)
    details = {
        "p50_ms": median(times),
        "num_units": num_units,
        "silent_spans_ms": spans([unit for unit in units if not unit.speaks]),
        "revised_spans_ms": spans([unit for unit in units if unit.revised]),
    }
    kinds = by_kind(times, units)
    return [
        Row("whole loop, p99 of a unit", float(np.percentile(times, 99)), "ms", f"<= {UNIT_MS}", details, kinds),
        Row("whole loop, missed deadlines", late_units(times), "units", "<= 0", {"num_units": len(times)}),
        Row("whole loop, real-time factor", float(times.mean() / UNIT_MS), "", "<= 0.6"),
    ]


def model_side_latency(setting: Setting) -> list[Row]:
    """From a complete user unit at the thinker to its decoded response (report, section 2.4).

    Commit delay 1 with the weights of 0: see `variant`.
    """
    bundled = setting.pipeline()
    pipelines = {0: bundled, 1: variant(bundled, commit_delay=1)}
    rows = []
    for delay, pipeline in pipelines.items():
        session = setting.session(pipeline)
        units = live(session, setting.user_units(setting.count(3 * UNITS_PER_MINUTE, 36)))[WARM_UP:]
        times = totals(units) - [unit.latency.get("emit", 0.0) for unit in units]
        kinds = by_kind(times, units)
        for quantile, aim in ((50, "<= 100"), (99, "<= 160")):
            value = float(np.percentile(times, quantile))
            rows.append(Row(f"model-side latency, d = {delay}, p{quantile}", value, "ms", aim, kinds=kinds))
    return rows


def one_hour(setting: Setting) -> list[Row]:
    """Does an hour change anything? An old session against a young one in its second minute, in turn; and memory.

    Each minute hears the same words, so that minutes can be compared.
    """
    session = setting.session()
    minute, num_minutes = setting.count(UNITS_PER_MINUTE, 36), setting.count(60, 4)
    times, resident = np.empty((num_minutes, minute)), []
    for index in range(num_minutes - 2):
        times[index] = totals(live(session, setting.user_units(minute)))
        resident.append(resident_bytes() / 2**20)
    sessions = {"old": session, "young": setting.session(session.pipeline, seed=1)}
    for index in (num_minutes - 2, num_minutes - 1):  # the young one's first minute, then the one that is compared
        sides: dict[str, list[Lived]] = {name: [] for name in sessions}
        for unit in setting.user_units(minute):
            for name, each in sessions.items():
                sides[name] += live(each, [unit])
        times[index] = totals(sides["old"])
    p99 = {name: float(np.percentile(totals(units), 99)) for name, units in sides.items()}
    details = {f"{name}_p99_ms": round(value, 1) for name, value in p99.items()} | {
        "p50_ms_by_minute": np.median(times, axis=1).round(1).tolist(),
        "p99_ms_by_minute": np.percentile(times, 99, axis=1).round(1).tolist(),
        "resident_mib_by_minute": np.round(resident, 1).tolist(),
    }
    kinds, name = by_kind(times[-1], sides["old"]), "one hour, p99 of its last minute / of a young session's"
    return [
        Row(name, p99["old"] / p99["young"], "x", "<= 1.05", details, kinds),
        Row("one hour, memory grown since the second minute", resident[-1] - resident[1], "MiB", "<= 1"),
    ]


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
    """`from_pretrained` to the first emitted unit, in a fresh process; imports are told apart. Nobody speaks yet."""
    script = COLD_START.format(checkpoint=setting.checkpoint, height=setting.height, width=setting.width)
    runs = []
    for _ in range(setting.count(5, 1)):
        output = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
        runs.append([float(word) for word in output.splitlines()[-1].split()[1:]])
    imports, loading, first = (median(values) for values in zip(*runs, strict=True))
    details = {"imports_s": imports, "from_pretrained_s": loading, "first_unit_s": first}
    return [Row("cold start, from_pretrained to the first unit", loading + first, "s", "<= 3", details)]
