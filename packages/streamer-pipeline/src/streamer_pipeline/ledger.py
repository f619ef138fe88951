"""Where the milliseconds of each unit go."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from .units import UNIT_MS


class LatencyLedger:
    """Wall time of named spans, unit by unit. Spans of one name within a unit add up.

    The clock is the report's (section 2.4): a unit begins when it is complete at the thinker and ends when the response
    is decoded. It does not include the 160 ms in which the unit fills, nor any network.
    """

    def __init__(self) -> None:
        self.units: list[dict[str, float]] = []

    @contextmanager
    def unit(self) -> Iterator[dict[str, float]]:
        """Time one unit; yields its spans in ms, which also hold "total" when it ends."""
        spans: dict[str, float] = {}
        start = time.perf_counter()
        yield spans
        spans["total"] = 1000 * (time.perf_counter() - start)
        self.units.append(spans)

    @staticmethod
    @contextmanager
    def span(spans: dict[str, float], name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        spans[name] = spans.get(name, 0.0) + 1000 * (time.perf_counter() - start)

    def percentiles(self, name: str = "total", skip: int = 1) -> dict[str, float]:
        """p50, p95 and p99 of a span in ms, without the first `skip` units (warm-up)."""
        values = [unit.get(name, 0.0) for unit in self.units[skip:] or self.units]
        return {f"p{q}": float(np.percentile(values, q)) for q in (50, 95, 99)} if values else {}

    def plot(self, path: str | Path) -> None:
        """A picture: stacked spans of every unit against the 160 ms that it may take, and their histogram."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        names = list(dict.fromkeys(name for unit in self.units for name in unit if name != "total"))
        figure = Figure(figsize=(12, 4), layout="constrained")
        FigureCanvasAgg(figure)  # no global state: callers may run in threads
        timeline, histogram = figure.subplots(1, 2, width_ratios=[3, 1], sharey=True)
        if names:
            spans = [[unit.get(name, 0.0) for unit in self.units] for name in names]
            timeline.stackplot(range(len(self.units)), spans, labels=names)
            timeline.legend(loc="upper right", ncols=len(names))
        totals = [unit["total"] for unit in self.units]
        histogram.hist(totals, bins=40, orientation="horizontal", color="gray")
        for axis in (timeline, histogram):
            axis.axhline(UNIT_MS, color="red", linestyle="--")
        timeline.set(xlabel="unit", ylabel="ms per unit", title="Wall time per 160 ms unit; red is real time")
        histogram.set(xlabel="units", title=", ".join(f"{k} {v:.0f}" for k, v in self.percentiles().items()) + " ms")
        figure.savefig(path, dpi=120)
