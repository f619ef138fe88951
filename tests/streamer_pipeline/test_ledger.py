"""The ledger of latency: spans, percentiles and the picture of them. Time is the test's own."""

import json

import cv2
import numpy as np
import pytest
from streamer_pipeline import LatencyLedger, Span, StopWatch, UnitTiming
from tiny_parts import open_session, random_units, tiny_pipeline

SPANS = ["form", "encode", "context", "slots", "send", "solve", "commit", "receive", "decode", "emit"]


def timed(index: int, start: float, each: float) -> UnitTiming:
    """A unit that takes `each` ms in every span, in turn."""
    performer = ("solve", "commit")
    return UnitTiming(
        index,
        [
            Span(name, "performer" if name in performer else "thinker", start + i * each, start + (i + 1) * each)
            for i, name in enumerate(SPANS)
        ],
    )


def filled(num_units: int) -> LatencyLedger:
    """Unit i takes i + 1 ms in each of the ten spans; the first, a warm-up, ten seconds."""
    ledger = LatencyLedger()
    for i in range(num_units):
        ledger.add(timed(i, 2000.0 * i, 1.0 + i if i else 1000.0))
    return ledger


def test_spans_of_a_real_session_add_up_to_wall_time():
    session = open_session(tiny_pipeline())
    units = [session.step(unit) for unit in random_units(5)]
    for index, (timing, unit) in enumerate(zip(session.ledger.units, units, strict=True)):
        durations = timing.durations
        assert timing.index == index and unit.latency == durations
        assert list(durations) == [*SPANS, "other", "total"]
        assert all(durations[name] >= 0 for name in SPANS)
        assert sum(durations[name] for name in SPANS) >= 0.98 * durations["total"]
        assert abs(durations["other"]) <= 0.02 * durations["total"]
        assert {span.name for span in timing.spans if span.lane == "performer"} == {"solve", "commit"}
    for before, after in zip(session.ledger.units, session.ledger.units[1:], strict=False):
        assert before.end_ms <= after.start_ms


def test_laps_leave_no_time_between_them_and_add_up():
    seconds = iter([0.0, 0.010, 0.015, 0.030, 1.0, 1.004])
    watch, unit = StopWatch(lambda: next(seconds)), UnitTiming(7)
    watch.lap(unit, "encode")
    watch.lap(unit, "context")
    watch.lap(unit, "encode")
    assert unit.durations == pytest.approx({"encode": 25.0, "context": 5.0, "other": 0.0, "total": 30.0})
    watch.restart()
    watch.lap(unit, "receive", not_before_ms=1003.0)
    assert unit.durations["receive"] == pytest.approx(1.0) and unit.durations["total"] == pytest.approx(1004.0)


def test_percentiles_leave_the_warm_up_out():
    ledger = filled(102)  # totals of 10 s, then 20, 30, ... 1020 ms
    assert ledger.percentiles() == pytest.approx({"p50": 520.0, "p95": 970.0, "p99": 1010.0})
    assert ledger.percentiles("context")["p50"] == pytest.approx(52.0)
    assert ledger.percentiles("context", skip=0)["p99"] > 101.0
    assert ledger.percentiles("sleep") == {"p50": 0.0, "p95": 0.0, "p99": 0.0}
    assert filled(1).percentiles()["p50"] == pytest.approx(10_000.0)  # there is nothing but the warm-up
    assert LatencyLedger().percentiles() == {}
    assert ledger.missed() == 101 - 15 and ledger.missed(budget_ms=2000) == 0


def test_latency_by_the_reports_clock_and_by_the_users():
    """The report's ends when the response is decoded; the user's begins when the unit begins to fill."""
    ledger = filled(2)
    assert ledger.model_side()["p50"] == pytest.approx(18.0)
    assert ledger.event_to_output()["p50"] == pytest.approx(160.0 + 20.0)


def test_a_long_session_does_not_fill_the_memory():
    ledger = LatencyLedger(max_units=10)
    for i in range(100):
        ledger.add(timed(i, 2000.0 * i, 1.0))
    assert [unit.index for unit in ledger.units] == list(range(90, 100))


def test_json_holds_every_span(tmp_path):
    filled(4).to_json(tmp_path / "ledger.json")
    book = json.loads((tmp_path / "ledger.json").read_text())
    assert book["missed_deadlines"] == 0 and len(book["units"]) == 4
    assert book["units"][1]["spans"][0] == ["form", "thinker", 2000.0, 2002.0]
    assert book["percentiles_ms"]["solve"]["p50"] == pytest.approx(3.0)
    LatencyLedger().to_json(tmp_path / "empty.json")
    assert json.loads((tmp_path / "empty.json").read_text())["units"] == []


@pytest.mark.parametrize("num_units", [0, 1, 50])
def test_the_plot_is_a_picture(tmp_path, num_units):
    filled(num_units).plot(tmp_path / "latency.png")
    assert (tmp_path / "latency.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert cv2.imread(str(tmp_path / "latency.png")).shape == (840, 1440, 3)


def test_the_plot_shows_every_span_that_any_unit_has(tmp_path):
    """Also one that the first unit did not have: here it is most of the picture."""
    ledger = filled(50)
    del ledger.units[0]  # the warm-up would make all else small
    ledger.plot(tmp_path / "before.png")
    for unit in ledger.units[1:]:
        unit.spans.append(Span("transfer", "thinker", unit.end_ms, 2 * unit.end_ms - unit.start_ms))
    ledger.plot(tmp_path / "after.png")
    before, after = (cv2.imread(str(tmp_path / f"{name}.png")) for name in ("before", "after"))
    assert np.any(before[340:, :1000] != after[340:, :1000], axis=2).mean() > 0.05
