"""Every benchmark runs and gives rows that can be judged. What it measures is nobody's business here."""

import functools
import json
import math
import re
from dataclasses import replace

import batches
import conversation
import cost_model
import kinds
import live
import numpy as np
import pytest
import run
import torch
from harness import Row, Setting, memory_growth
from kinds import Lived
from pages import draw, markdown
from streamer_core import CacheSpec, UnitLayout, preset
from streamer_pipeline.training.flops import count_flops
from tiny_parts import SIZE, talking_pipeline
from users import UNITS_PER_MINUTE, make_recording

pytestmark = pytest.mark.alone
SLOW = {"wan_video_vae"}  # has tests of its own
WITH_SESSIONS = {"whole_loop", "model_side_latency", "split_throughput", "batched_sessions", "one_hour"}


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bench")
    talking_pipeline().save_pretrained(folder / "checkpoint")
    return Setting(True, 1, folder, str(folder / "checkpoint"), *SIZE)


@pytest.fixture(scope="module")
def rows_of(setting):
    """Rows of a benchmark by name, measured once."""
    return functools.cache(lambda name: run.BENCHMARKS[name](setting))


@pytest.mark.parametrize("name", [name for name in run.BENCHMARKS if name not in SLOW])
def test_every_benchmark_gives_rows_that_can_be_judged(name, rows_of):
    rows = rows_of(name)
    assert rows
    for row in rows:
        assert math.isfinite(row.value)
        assert row.reached in ((True, False) if row.aim else (None,))
        json.dumps(row.as_json())


@pytest.mark.parametrize("name", sorted(WITH_SESSIONS))
def test_benchmarks_of_sessions_tell_silent_and_speaking_units_apart(name, rows_of):
    """The agent speaks wherever one is measured, and both kinds are all; JSON and tables carry them."""
    found = [row for row in rows_of(name) if row.kinds]
    assert found
    for row in found:
        units = {kind: numbers["units"] for kind, numbers in row.kinds.items()}
        assert units["speaking"] > 0 and units["speaking"] + units.get("silent", 0) == units["all"]
        assert {"p50", "p99", "share"} <= row.kinds["speaking"].keys()
    book = {name: {"machine": {}, "rows": [row.as_json() for row in found]}}
    assert book[name]["rows"][0]["kinds"] == found[0].kinds
    p50, p99 = (f"{found[0].kinds['speaking'][name]:.1f}" for name in ("p50", "p99"))
    assert f"| {p50}, {p99} (" in markdown(book)


def test_kinds_are_told_apart_and_an_agent_that_never_speaks_is_refused():
    units = [Lived({}, False, False, 1), Lived({}, False, True, 2), Lived({}, True, False, 1), Lived({}, True, True, 4)]
    found = kinds.by_kind([1.0, 2.0, 3.0, 5.0], units)
    medians = {kind: numbers["p50"] for kind, numbers in found.items()}
    assert medians == {"all": 2.5, "silent": 1.5, "speaking": 4.0, "revised": 3.5}
    assert found["speaking"]["share"] == 0.5 and found["revised"]["language_passes"] == 3
    with pytest.raises(RuntimeError, match="spoke in none of 2 units"):
        kinds.by_kind([1.0, 2.0], units[:2])


def test_passes_and_words_tell_alike_which_units_were_revised(setting):
    """Counted on one session, read off what another says: the same; and some units are of each kind."""
    pipeline = setting.pipeline()
    counted = kinds.live(setting.session(pipeline), setting.user_units(40))
    session = setting.session(pipeline)
    told = kinds.told_by_words([session.step(unit) for unit in setting.user_units(40)], pipeline.streamer.config)
    assert [unit.revised for unit in counted] == [unit.revised for unit in told]
    assert [unit.speaks for unit in counted] == [unit.speaks for unit in told]
    assert {unit.revised for unit in counted} == {unit.speaks for unit in counted} == {True, False}
    slots = pipeline.streamer.layout.num_language_slots
    assert {unit.language_passes for unit in counted if not unit.revised} == {1}
    assert all(2 <= unit.language_passes <= 1 + slots for unit in counted if unit.revised)


def test_the_user_is_recorded_once_talks_and_begins_again(setting):
    path = setting.folder / "user.mp4"
    units = list(setting.user_units(UNITS_PER_MINUTE + 2))
    written = path.stat().st_mtime_ns
    third = list(setting.user_units(2, phase=1 / 3))
    assert path.stat().st_mtime_ns == written
    for unit, again in ((units[0], units[UNITS_PER_MINUTE]), (units[UNITS_PER_MINUTE // 3], third[0])):
        assert torch.equal(unit.audio, again.audio) and torch.equal(unit.video, again.video)
    loud = [float(unit.audio.abs().max()) > 0.1 for unit in units]
    assert 0.2 < np.mean(loud) < 0.9
    assert not torch.equal(units[0].video, units[40].video)
    with pytest.raises(ValueError, match="name more scenes"):
        make_recording(setting.folder / "short.mp4", scenes="greet")


def test_a_batch_is_compared_with_its_own_sessions_alone(setting):
    """Both sides are the same conversations: what was said and shown alone is said and shown in the batch."""
    pipeline = setting.pipeline()
    users = [list(setting.user_units(4, place / 2)) for place in range(2)]
    alone, joined = ([setting.session(pipeline, seed) for seed in range(2)] for _ in range(2))
    step = batches.batch_of(pipeline, joined)
    for units in zip(*users, strict=True):
        answers = step(list(units))
        for answer, session, unit in zip(answers, alone, units, strict=True):
            own = session.step(unit)
            assert answer.language == own.language
            torch.testing.assert_close(answer.latents, own.latents, rtol=1e-5, atol=1e-5)


def test_growth_of_memory_is_what_was_allocated():
    kept = []

    def call():
        torch.zeros(2**20)  # 4 MiB that are given back
        kept.append(torch.zeros(2**18))

    assert memory_growth(call) == (2**22, 2**20)


def test_a_batch_holds_what_was_predicted(rows_of):
    (row,) = rows_of("batch_memory")
    assert row.details["held_mib"] == pytest.approx(row.details["predicted_mib"], rel=0.05)
    grown = (row.details["held_mib"] + row.details["more_in_a_step_mib"]) / row.details["predicted_mib"]
    assert row.value == pytest.approx(grown, rel=0.05)


def test_a_number_that_is_none_reaches_nothing():
    row = Row("x", 1.0, "ms", "<= 1")
    assert row.reached and not replace(row, value=1.1).reached and not replace(row, value=math.nan).reached
    assert replace(row, aim=">= 1.5").reached is False


def test_the_book_keeps_what_was_not_measured_again_and_is_drawn(tmp_path):
    path = tmp_path / "bench.json"
    run.store({"first": [Row("a", 1.0, "x", ">= 2")]}, {"torch": "1"}, path)
    numbers = {"units": 2, "share": 1.0, "p50": 1.0, "p99": 2.0}
    run.store({"second": [Row("b", 3.0, "x", ">= 2", kinds={"all": numbers})]}, {"torch": "2"}, path)
    book = json.loads(path.read_text())
    assert [entry["rows"][0]["reached"] for entry in book.values()] == [False, True]
    assert book["first"]["machine"] == {"torch": "1"}
    draw(book, tmp_path)
    assert (tmp_path / "aims.png").exists() and (tmp_path / "kinds.png").exists()


def test_a_late_unit_delays_the_next():
    assert conversation.late_units(np.array([100.0, 160.0, 100.0])) == 0
    assert conversation.late_units(np.array([300.0, 100.0, 50.0])) == 2  # 300 > 160; 400 > 320; 450 <= 480


@pytest.mark.parametrize("num_language_passes", [1, 3])
def test_work_of_a_pass_is_what_torch_counts(num_language_passes):
    """The cost model's FLOPs against those of the operators that run."""
    config = preset("tiny", context_window=10)
    point = cost_model.Point("", "", config, num_steps=2, num_language_passes=num_language_passes)
    counted = count_flops(cost_model.unit_of_passes(point))
    assert point.work.linear_flops + point.work.attention_flops == pytest.approx(counted, rel=1e-3)


def test_a_gpu_makes_all_language_passes():
    """The computed table's thinker reads its weights and history once for the context and once for each slot."""
    config = preset("base")
    most = 1 + UnitLayout(config).num_language_slots
    passes = cost_model.thinker_passes(config, 1000, most)
    assert len(passes) == most and f"| language passes per unit | {most} |" in cost_model.base_tables()
    assert {work.history_bytes for work in passes} == {1000 * cost_model.bytes_per_token(config, 4)}
    num_keys = CacheSpec.for_policy(config, cost_model.PROMPT_CAPACITY, UNITS_PER_MINUTE).num_slots
    floor = cost_model.H100.floor_ms(cost_model.thinker_passes(config, num_keys, most, 2))
    assert re.search(rf"\| full, 1 min \| 2 \| {num_keys:,} \| [\d.]+ \| {floor:.1f} \|", cost_model.base_tables())


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


# ---- live.py, without a browser ----


def test_questions_and_answers_are_found_in_the_levels():
    """A question of 40 windows, the answer 30 windows after it; a second question over which the agent speaks."""
    levels = np.zeros((3000, 2))
    levels[100:140, 0] = levels[170:260, 1] = levels[900:940, 0] = levels[930:1000, 1] = 1.0
    (found,) = live.find_runs(levels)
    assert found.answer_ms == pytest.approx(30 * live.WINDOW_MS)


def test_parts_are_of_the_units_in_which_answers_begin():
    states = ["listen", "listen", "speak", "speak", "listen", "speak"]
    units = [
        {"index": index, "state": state, "model_ms": 10.0 + index, "reply_ms": 20.0 + index}
        for index, state in enumerate(states)
    ]
    del units[5]["model_ms"]  # a filler
    parts = live.parts_of_answers(units)
    assert parts == {"model": 22.0, "computing": 12.0, "playout": 10.0, "computing_silent": 11.0}
    summary = live.summarise([live.Run(500.0), live.Run(None)], parts | {"network": 1.0, "buffer": 2.0})
    assert (summary["runs"], summary["answered"], summary["p50_ms"]) == (2, 1, 500.0)
    assert summary["rest"] == 500 - 22 - 1 - 2 - live.INTAKE_MS - 80 - 160
