"""Every benchmark runs and gives rows that can be judged. What it measures is nobody's business here."""

import json
import math
from dataclasses import replace

import conversation
import cost_model
import numpy as np
import pytest
import run
from harness import Row, Setting, count_flops
from plots import draw
from streamer_core import UnitLayout, preset
from tiny_parts import SIZE, tiny_pipeline

pytestmark = pytest.mark.alone
SLOW = {"wan_video_vae"}  # has tests of its own


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bench")
    tiny_pipeline().save_pretrained(folder / "checkpoint")
    return Setting(True, 1, folder, str(folder / "checkpoint"), *SIZE)


@pytest.mark.parametrize("name", [name for name in run.BENCHMARKS if name not in SLOW])
def test_every_benchmark_gives_rows_that_can_be_judged(name, setting):
    rows = run.BENCHMARKS[name](setting)
    assert rows
    for row in rows:
        assert math.isfinite(row.value)
        assert row.reached in ((True, False) if row.aim else (None,))
        json.dumps(row.as_json())


def test_a_number_that_is_none_reaches_nothing():
    row = Row("x", 1.0, "ms", "<= 1")
    assert row.reached and not replace(row, value=1.1).reached and not replace(row, value=math.nan).reached
    assert replace(row, aim=">= 1.5").reached is False


def test_the_book_keeps_what_was_not_measured_again_and_is_drawn(tmp_path):
    path = tmp_path / "bench.json"
    run.store({"first": [Row("a", 1.0, "x", ">= 2")]}, {"torch": "1"}, path)
    run.store({"second": [Row("b", 3.0, "x", ">= 2")]}, {"torch": "2"}, path)
    book = json.loads(path.read_text())
    assert [entry["rows"][0]["reached"] for entry in book.values()] == [False, True]
    assert book["first"]["machine"] == {"torch": "1"}
    draw(book, tmp_path)
    assert (tmp_path / "aims.png").exists()


def test_a_late_unit_delays_the_next():
    assert conversation.late_units(np.array([100.0, 160.0, 100.0])) == 0
    assert conversation.late_units(np.array([300.0, 100.0, 50.0])) == 2  # 300 > 160; 400 > 320; 450 <= 480


def test_work_of_a_pass_is_what_torch_counts():
    """The cost model's FLOPs against those of the operators that run."""
    point = cost_model.Point("", "", preset("tiny", context_window=10), num_steps=2)
    counted = count_flops(cost_model.unit_of_passes(point))
    assert point.work.linear_flops + point.work.attention_flops == pytest.approx(counted, rel=1e-3)


def test_history_costs_what_the_layout_says():
    config = preset("base")
    assert cost_model.bytes_per_token(config, 2) * UnitLayout(config).num_tokens * 375 == pytest.approx(
        14.2e9, rel=0.01
    )


def test_prices_are_found_again():
    """Times made of known prices: the fit finds them, and predicts the points that it has not seen."""
    features = np.random.default_rng(0).uniform(1, 10, (12, 4)) * [1, 1e9, 1e8, 1e5]
    times = features @ np.array([0.5, 1e-9, 2e-9, 1e-6])
    estimates, used = cost_model.predicted(features, times)
    assert used.sum() == 6
    np.testing.assert_allclose(estimates, times, rtol=1e-6)


def test_tables_are_written_between_markers(tmp_path, monkeypatch):
    page = tmp_path / "COST.md"
    page.write_text("before\n<!-- computed: begin -->\nstale\n<!-- computed: end -->\nafter")
    monkeypatch.setattr(cost_model, "PAGE", page)
    cost_model.write_section("computed", cost_model.base_tables())
    assert page.read_text().startswith("before\n<!-- computed: begin -->\n| base")
    assert "stale" not in page.read_text() and page.read_text().endswith("after")
    with pytest.raises(ValueError, match="no section"):
        cost_model.write_section("measured", "")
