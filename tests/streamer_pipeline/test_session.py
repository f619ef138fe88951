"""Sessions: bitwise streaming, saving, forking, batching, both commit delays and every cache policy."""

import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from causal_vae import state_nbytes
from streamer_pipeline import StreamerSession, Thinker, UnitBuffer, step_sessions
from tiny_parts import SIZE, open_session, random_units, tiny_pipeline

POLICIES = {
    "windows": {"context_window": 6, "response_window": 3},
    "full": {"context_window": None, "response_window": None},
    "long context": {"context_window": None, "response_window": 2},
}


@pytest.fixture(scope="module")
def pipeline():
    return tiny_pipeline()


def assert_units_equal(found, expected, tolerance=0.0):
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours.text, ours.state, ours.index) == (theirs.text, theirs.state, theirs.index)
        for name in ("audio", "video"):
            difference = (getattr(ours, name) - getattr(theirs, name)).abs().max().item()
            assert difference <= tolerance, f"unit {ours.index}, {name}: {difference:.1e}"


def run(session, units):
    return [session.step(unit) for unit in units]


def test_ragged_input_gives_bitwise_the_one_shot_result(pipeline):
    units = random_units(10)
    audio = torch.cat([unit.audio for unit in units], dim=1)
    video = torch.cat([unit.video for unit in units], dim=1)
    expected = pipeline(audio=audio, video=video, seed=5).units
    assert len({unit.audio.sum().item() for unit in expected}) == 10  # something happens in every unit
    generator = random.Random(0)
    for _ in range(20):
        buffer, session, found = UnitBuffer(*SIZE), open_session(pipeline, seed=5), []
        sounds, frames = list(_pieces(audio, generator, 9000)), list(_pieces(video, generator, 9))
        while sounds or frames:
            if sounds and (not frames or generator.random() < 0.5):
                buffer.push_audio(sounds.pop(0))
            else:
                buffer.push_video(frames.pop(0))
            while (unit := buffer.pop()) is not None:
                found.append(session.step(unit))
        assert_units_equal(found, expected)


def test_a_part_without_memory_survives_saving(tmp_path, monkeypatch):
    pipeline, units = tiny_pipeline(), random_units(4)
    render = pipeline.thinker.video_renderer
    monkeypatch.setattr(pipeline.thinker, "video_renderer", lambda latents, state: (render(latents, None)[0], {}))
    session = open_session(pipeline, seed=4)
    run(session, units[:2])
    session.save(tmp_path / "session.safetensors")
    continued = StreamerSession.load(tmp_path / "session.safetensors", pipeline)
    assert_units_equal(run(continued, units[2:]), run(session, units[2:]))


@pytest.mark.parametrize("temperature", [0.0, 1.0, 30.0])
def test_language_is_that_of_one_pass_for_each_slot(pipeline, temperature):
    """However much of the draft holds: nearly always, sometimes, nearly never."""
    thinker, sessions = pipeline.thinker, [open_session(pipeline, seed=2, temperature=temperature) for _ in range(2)]
    layout, num_revisions = pipeline.streamer.layout, 0

    def slot_by_slot(chosen, state, kv_layout, gumbel=None):
        for slot in range(layout.num_language_slots):
            later = Thinker.revise(thinker, chosen, slot, state, kv_layout, gumbel)
            chosen = torch.cat([chosen[:, : slot + 1], later], dim=1)
        return chosen

    def counted(*args):
        nonlocal num_revisions
        num_revisions += 1
        return Thinker.revise(thinker, *args)

    units = random_units(12)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(thinker, "revise", counted)
        found = run(sessions[0], units)
        patch.setattr(thinker, "speak", slot_by_slot)
        expected = run(sessions[1], units)
    assert_units_equal(found, expected, tolerance=1e-5)
    assert num_revisions <= layout.num_language_slots * len(units)


def _pieces(media, generator, longest):
    start = 0
    while start < media.shape[1]:
        length = generator.randint(1, longest)
        yield media[:, start : start + length]
        start += length


@pytest.mark.parametrize(("policy", "delay"), [("windows", 0), ("full", 1), ("long context", 0)])
def test_a_saved_session_continues_byte_for_byte_in_another_process(tmp_path, policy, delay):
    pipeline = tiny_pipeline(commit_delay=delay, **POLICIES[policy])
    pipeline.save_pretrained(tmp_path / "pipeline")
    units = random_units(24)
    session = open_session(pipeline, seed=3, temperature=1.0, capacity_units=8)
    run(session, units[:20])
    session.save(tmp_path / "session.safetensors")
    expected = run(session, units[20:])
    code = (
        "import sys, torch; sys.path.insert(0, sys.argv[1]);"
        "from tiny_parts import random_units; from streamer_pipeline import StreamerPipeline, StreamerSession;"
        "pipeline = StreamerPipeline.from_pretrained(sys.argv[2] + '/pipeline');"
        "session = StreamerSession.load(sys.argv[2] + '/session.safetensors', pipeline);"
        "units = map(session.step, random_units(24)[20:]);"
        "torch.save([(u.audio, u.video, u.text) for u in units], sys.argv[2] + '/out')"
    )
    here = str(Path(__file__).parent.parent)
    subprocess.run([sys.executable, "-c", code, here, str(tmp_path)], check=True, capture_output=True)
    for unit, (audio, video, text) in zip(expected, torch.load(tmp_path / "out"), strict=True):
        assert torch.equal(unit.audio, audio) and torch.equal(unit.video, video) and unit.text == text


@pytest.mark.parametrize("policy", POLICIES)
def test_sessions_of_different_age_batch_as_if_alone(policy):
    pipeline = tiny_pipeline(**POLICIES[policy])
    ages = (0, 3, 9, 21)
    together = [open_session(pipeline, seed=i, capacity_units=4, temperature=i % 2) for i in range(4)]
    for session, age in zip(together, ages, strict=True):
        run(session, random_units(age, seed=age))
    alone = [session.fork() for session in together]
    for step in range(4):
        units = [random_units(4, seed=100 + i)[step] for i in range(4)]
        batched = step_sessions(together, units)
        single = [session.step(unit) for session, unit in zip(alone, units, strict=True)]
        assert_units_equal(batched, single, tolerance=1e-5)


def test_a_fork_leaves_the_original_alone(pipeline):
    session, units = open_session(pipeline), random_units(8)
    run(session, units[:3])
    fork = session.fork()
    run(fork, random_units(4, seed=9))
    expected = open_session(pipeline)
    run(expected, units[:3])
    assert_units_equal(run(session, units[3:]), run(expected, units[3:]))


def test_the_user_and_the_seed_matter(pipeline):
    """A conversation depends on what the user does, on what was typed and on the seed."""
    units = random_units(6)
    reference = run(open_session(pipeline), units)
    other_user = run(open_session(pipeline), random_units(6, seed=1))
    other_seed = run(open_session(pipeline, seed=1), units)
    for other in (other_user, other_seed):
        assert not torch.equal(other[0].audio, reference[0].audio)
    silent = [type(unit)(unit.audio, unit.video) for unit in units]
    untyped = run(open_session(pipeline), silent)
    assert torch.equal(untyped[2].audio, reference[2].audio) and not torch.equal(untyped[3].audio, reference[3].audio)


def test_bytes_are_known_before_the_session_and_do_not_grow(pipeline):
    session = open_session(pipeline)
    predicted = 2 * pipeline.kv_layout().nbytes()
    held = sum(
        state_nbytes({k: kv[k] for k in ("keys", "values")})
        for kv in (session.state["thinker"]["kv"], session.state["performer"])
    )
    assert held == predicted
    before = session.nbytes()
    run(session, random_units(12))
    assert session.nbytes() == before


def test_wrong_input_changes_nothing(pipeline):
    session, units = open_session(pipeline), random_units(3)
    run(session, units[:2])
    fork = session.fork()
    wrong = type(units[0])(units[0].audio, torch.zeros(3, 4, 32, 32))
    with pytest.raises(ValueError, match="opened for video of shape"):
        session.step(wrong)
    assert_units_equal([session.step(units[2])], [fork.step(units[2])])
    with pytest.raises(ValueError, match="twice"):
        step_sessions([session, session], units[:2])


def test_session_files_that_do_not_fit_are_refused(tmp_path, pipeline):
    path = tmp_path / "session.safetensors"
    open_session(pipeline).save(path)
    with pytest.raises(ValueError, match="another checkpoint"):
        StreamerSession.load(path, tiny_pipeline(context_window=9))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="cannot be read"):
        StreamerSession.load(path, pipeline)
    with pytest.raises(ValueError, match="cannot be read"):
        StreamerSession.load(tmp_path / "missing", pipeline)
