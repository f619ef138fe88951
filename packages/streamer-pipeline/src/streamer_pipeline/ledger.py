"""Where the milliseconds of each unit go."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .units import UNIT_MS

SPANS = ("form", "encode", "context", "slots", "send", "solve", "commit", "receive", "decode", "emit")
_PERFORMER_SPANS = ("solve", "commit")


class Span(NamedTuple):
    """A stretch of time on the machine's monotonic clock, which all its processes share."""

    name: str
    lane: str  # "thinker" or "performer"
    start_ms: float
    end_ms: float


@dataclass
class UnitTiming:
    """One unit's way through the pipeline: its number in the session, and its spans as they ended."""

    index: int
    spans: list[Span] = field(default_factory=list)

    @property
    def start_ms(self) -> float:
        return min(span.start_ms for span in self.spans)

    @property
    def end_ms(self) -> float:
        return max(span.end_ms for span in self.spans)

    @property
    def durations(self) -> dict[str, float]:
        """Milliseconds by name. They add up to "total", the wall time from the first start to the last end.

        "other" is what no span of this unit covers: the way from one process to another, and, where units overlap, the
        time in which the thinker was busy with another unit.
        """
        found: dict[str, float] = {}
        for span in self.spans:
            found[span.name] = found.get(span.name, 0.0) + span.end_ms - span.start_ms
        total = self.end_ms - self.start_ms
        return found | {"other": total - sum(found.values()), "total": total}

    @property
    def model_side_ms(self) -> float:
        """The report's latency (section 2.4): from a complete user unit at the thinker to the decoded response."""
        return max((span.end_ms for span in self.spans if span.name == "decode"), default=self.end_ms) - self.start_ms

    @property
    def event_to_output_ms(self) -> float:
        """From an event at the beginning of a unit to the answer's leaving: 160 ms to fill the unit, then all work."""
        return UNIT_MS + self.end_ms - self.start_ms


class StopWatch:
    """Laps of one thread of work: each lap ends where the next begins, so no time is lost between them."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self.restart()

    def restart(self) -> None:
        """What passed since the last lap belongs to nobody (waiting for the user)."""
        self.last_ms = 1000 * self._clock()

    def lap(self, unit: UnitTiming, name: str, not_before_ms: float = 0.0) -> None:
        """End a lap: it is span `name` of `unit`, from the last lap, or from `not_before_ms` if that is later."""
        now = 1000 * self._clock()
        lane = "performer" if name in _PERFORMER_SPANS else "thinker"
        unit.spans.append(Span(name, lane, min(max(self.last_ms, not_before_ms), now), now))
        self.last_ms = now


class LatencyLedger:
    """The timings of a session's latest units.

    Spans, in the order of the cycle: `form` (the unit becomes a batch), `encode`, `context` (the pass over the user's
    tokens and language as drafted), `slots` (the passes that revise it, if any), `send`, `solve`, `commit`, `receive`,
    `decode`, `emit` (a unit again).

    Args:
        max_units: older ones are forgotten, so that a session of hours does not grow.
    """

    def __init__(self, max_units: int = 750) -> None:
        self.max_units = max_units
        self.units: list[UnitTiming] = []

    def add(self, unit: UnitTiming) -> None:
        self.units.append(unit)
        if len(self.units) > self.max_units:
            del self.units[0]

    def milliseconds(self, name: str = "total", skip: int = 1) -> list[float]:
        """A span of every unit, or "total", "other", "model_side" or "event_to_output", after `skip` to warm up."""
        units = self.units[skip:] or self.units
        if name in ("model_side", "event_to_output"):
            return [getattr(unit, f"{name}_ms") for unit in units]
        return [unit.durations.get(name, 0.0) for unit in units]

    def percentiles(self, name: str = "total", skip: int = 1) -> dict[str, float]:
        """p50, p95 and p99 in ms of what `milliseconds` gives."""
        return _percentiles(self.milliseconds(name, skip))

    def model_side(self, skip: int = 1) -> dict[str, float]:
        """Percentiles of the report's own latency: complete unit at the thinker -> decoded response."""
        return self.percentiles("model_side", skip)

    def event_to_output(self, skip: int = 1) -> dict[str, float]:
        """Percentiles of what a user can notice: also the 160 ms that a unit takes to fill, and handing it over."""
        return self.percentiles("event_to_output", skip)

    def missed(self, budget_ms: float = UNIT_MS, skip: int = 1) -> int:
        """Units that took longer than `budget_ms`. Overlapping units may take longer than 160 ms and yet keep pace."""
        return sum(total > budget_ms for total in self.milliseconds("total", skip))

    def to_json(self, path: str | Path) -> None:
        """Write percentiles, missed deadlines and every span; times count from the first unit's start."""
        origin = min((unit.start_ms for unit in self.units), default=0.0)
        names = (*_names(self.units), "other", "total", "model_side", "event_to_output")
        units = [
            {
                "index": unit.index,
                "spans": [
                    [s.name, s.lane, round(s.start_ms - origin, 4), round(s.end_ms - origin, 4)] for s in unit.spans
                ],
            }
            for unit in self.units
        ]
        summary = {name: self.percentiles(name) for name in names} if units else {}
        missed = self.missed() if units else 0
        book = {"unit_ms": UNIT_MS, "percentiles_ms": summary, "missed_deadlines": missed, "units": units}
        Path(path).write_text(json.dumps(book, indent=1), encoding="utf-8")

    def plot(self, path: str | Path, num_units: int = 4) -> None:
        """A picture: both lanes of the latest `num_units` units over time, as in the report's figure 2, and two views
        of every unit: its spans stacked against the 160 ms that it may take, and a histogram."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        figure = Figure(figsize=(12, 7), layout="constrained")
        FigureCanvasAgg(figure)  # no global state: callers may run in threads
        lanes, stacked, histogram = figure.subplot_mosaic(
            [["lanes", "lanes"], ["stacked", "histogram"]], width_ratios=[3, 1], height_ratios=[2, 3]
        ).values()
        names = _names(self.units)
        colors = {name: f"C{place}" for place, name in enumerate(names)} | {"other": "lightgray"}
        self._plot_lanes(lanes, num_units, colors)
        if names:
            durations = [unit.durations for unit in self.units]
            heights = [[unit.get(name, 0.0) for unit in durations] for name in colors]
            stacked.stackplot(range(len(durations)), heights, labels=list(colors), colors=list(colors.values()))
            figure.legend(loc="outside lower center", ncols=len(colors))
        histogram.hist(self.milliseconds(skip=0), bins=40, orientation="horizontal", color="gray")
        histogram.sharey(stacked)
        for axis in (stacked, histogram):
            axis.axhline(UNIT_MS, color="red", linestyle="--")
        stacked.set(xlabel="unit", ylabel="ms per unit", title="Wall time per 160 ms unit; red is real time")
        histogram.set(xlabel="units", title="\n".join(f"{k} {v:.0f} ms" for k, v in self.percentiles().items()))
        figure.savefig(path, dpi=120)

    def _plot_lanes(self, axis: Any, num_units: int, colors: dict[str, str]) -> None:
        """Spans of the latest units as bars on the thinker's and the performer's lane."""
        latest = self.units[-num_units:]
        origin = min((unit.start_ms for unit in latest), default=0.0)
        for unit in latest:
            for span in unit.spans:
                place = ("performer", "thinker").index(span.lane)
                shade = 1.0 if unit.index % 2 else 0.6  # neighbours differ, so that an overlap shows
                width = span.end_ms - span.start_ms
                axis.barh(place, width, left=span.start_ms - origin, color=colors[span.name], alpha=shade)
            middle = [(s.start_ms + s.end_ms) / 2 - origin for s in unit.spans if s.name in ("encode", "solve")]
            for place, at in zip((1, 0), middle, strict=False):
                axis.annotate(str(unit.index), (at, place + 0.42), ha="center", fontsize="small")
        axis.set_yticks([0, 1], ["performer", "thinker"])
        axis.set_ylim(-0.6, 1.7)
        axis.set(xlabel="ms", title=f"The latest {len(latest)} units, by number")


def _names(units: Sequence[UnitTiming]) -> list[str]:
    """Names of spans that any unit has, in the order of the cycle."""
    found = dict.fromkeys(span.name for unit in units for span in unit.spans)
    return [name for name in SPANS if name in found] + [name for name in found if name not in SPANS]


def _percentiles(values: Sequence[float]) -> dict[str, float]:
    return {f"p{q}": float(np.percentile(values, q)) for q in (50, 95, 99)} if values else {}
