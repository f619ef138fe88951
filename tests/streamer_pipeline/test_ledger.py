"""The ledger of latency: spans, percentiles and the picture of them. Durations are written in, never measured."""

import cv2
import numpy as np
import pytest
from streamer_pipeline import LatencyLedger

STAGES = ("encode", "think", "solve", "commit", "decode")


def filled(num_units: int) -> LatencyLedger:
    """Unit i takes i + 1 ms in each of the five stages; the first, a warm-up, a second."""
    ledger = LatencyLedger()
    for i in range(num_units):
        spans = dict.fromkeys(STAGES, 1.0 + i if i else 200.0)
        ledger.units.append(spans | {"total": sum(spans.values())})
    return ledger


def test_spans_belong_to_their_unit():
    ledger = LatencyLedger()
    for _ in range(2):
        with ledger.unit() as spans:
            for name in STAGES:
                with ledger.span(spans, name):
                    pass
    assert [list(unit) for unit in ledger.units] == [[*STAGES, "total"]] * 2
    for unit in ledger.units:
        assert all(ms >= 0 for ms in unit.values())
        assert sum(unit[name] for name in STAGES) <= unit["total"]


def test_spans_of_one_name_add_up():
    ledger = LatencyLedger()
    spans = {"solve": 1000.0}
    with ledger.span(spans, "solve"):
        pass
    assert list(spans) == ["solve"] and spans["solve"] >= 1000


def test_a_unit_that_fails_is_not_in_the_books():
    ledger = LatencyLedger()
    with pytest.raises(RuntimeError), ledger.unit():
        raise RuntimeError
    assert ledger.units == []


def test_percentiles_leave_the_warm_up_out():
    ledger = filled(102)  # totals of 1000 ms, then 10, 15, ... 510 ms
    assert ledger.percentiles() == {"p50": 260.0, "p95": pytest.approx(485.0), "p99": pytest.approx(505.0)}
    assert ledger.percentiles("think")["p50"] == 52.0
    assert ledger.percentiles("think", skip=0)["p99"] > 101.0
    assert ledger.percentiles("sleep") == {"p50": 0.0, "p95": 0.0, "p99": 0.0}
    assert filled(1).percentiles()["p50"] == 1000.0  # there is nothing but the warm-up
    assert LatencyLedger().percentiles() == {}


@pytest.mark.parametrize("num_units", [0, 1, 50])
def test_the_plot_is_a_picture(tmp_path, num_units):
    filled(num_units).plot(tmp_path / "latency.png")
    assert (tmp_path / "latency.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert cv2.imread(str(tmp_path / "latency.png")).shape == (480, 1440, 3)


def test_the_plot_shows_every_stage_that_any_unit_has(tmp_path):
    """Also one that the first unit did not have: here it is most of the picture."""
    with_late_stage = filled(50)
    with_late_stage.plot(tmp_path / "before.png")
    for unit in with_late_stage.units[1:]:
        unit["transfer"] = unit["total"]
    with_late_stage.plot(tmp_path / "after.png")
    before, after = (cv2.imread(str(tmp_path / f"{name}.png")) for name in ("before", "after"))
    assert np.any(before[:, :1000] != after[:, :1000], axis=2).mean() > 0.05
