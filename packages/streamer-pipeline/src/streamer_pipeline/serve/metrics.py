"""What the server tells Prometheus."""

from __future__ import annotations

from typing import Any, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from ..units import UNIT_MS

_Metric = TypeVar("_Metric", Counter, Gauge, Histogram)
_BUCKETS_MS = (20, 40, 60, 80, 100, 120, 140, UNIT_MS, 200, 300, 500, 1000)


class ServeMetrics:
    """Counters of one server in a registry of their own, so that several servers live in one process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()

        def named(kind: type[_Metric], name: str, about: str, **more: Any) -> _Metric:
            return kind(f"wan_streamer_{name}", about, registry=self.registry, **more)

        self.sessions = named(Gauge, "sessions", "conversations now")
        self.capacity = named(Gauge, "capacity", "conversations that are admitted at once")
        self.admitted = named(Counter, "admitted", "conversations that began")
        self.refused = named(Counter, "refused", "offers that were refused", labelnames=["reason"])
        self.ended = named(Counter, "ended", "conversations that ended", labelnames=["reason"])
        self.unit_seconds = named(
            Histogram, "unit_seconds", "computing time of a unit", buckets=[ms / 1000 for ms in _BUCKETS_MS]
        )
        self.late = named(Counter, "missed_deadlines", "units that came later than they should have played")
        self.fillers = named(Counter, "fillers", "filler units played")
        self.dropped = named(Counter, "dropped_inputs", "units of users dropped because computing fell behind")
        self.waiting = named(Gauge, "waiting_units", "units in queues", labelnames=["side"])
