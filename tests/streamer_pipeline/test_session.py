"""Sessions: bitwise streaming, saving, forking, options, both commit delays and every cache policy."""

import inspect
import json
import random
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
import torch
from causal_codec import CausalVideoDecoder
from causal_vae import state_nbytes
from safetensors import safe_open
from safetensors.torch import save_file
from streamer_core import FlowMatchScheduler
from streamer_pipeline import StreamerPipeline, StreamerSession, UnitBuffer, UserUnit
from streamer_pipeline.noise import response_noise
from streamer_pipeline.session import MAX_PENDING_TEXT
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
        assert ours.heard == theirs.heard
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


class Forgetful(CausalVideoDecoder):
    """A decoder that keeps nothing of a stream."""

    def forward(self, x, state=None):
        return super().forward(x)[0], {}


def test_a_part_without_memory_survives_saving(tmp_path):
    pipeline, units = tiny_pipeline(), random_units(4)
    pipeline.video_decoder = Forgetful.from_config(pipeline.video_decoder.config)
    session = open_session(pipeline, seed=4)
    run(session, units[:2])
    assert session.state["thinker"]["video_decoder"] == {}
    session.save(tmp_path / "session.safetensors")
    continued = StreamerSession.load(tmp_path / "session.safetensors", pipeline)
    assert_units_equal(run(continued, units[2:]), run(session, units[2:]))


def num_language_passes(pipeline, session, units):
    """Passes over a context or a part of it, unit by unit."""
    passes, counts = [], []
    handle = pipeline.streamer.model.register_forward_hook(lambda *_: passes.append(1))
    try:
        for unit in units:
            passes.clear()
            session.step(unit)
            counts.append(len(passes) - session.options.num_inference_steps - 1)
    finally:
        handle.remove()
    return counts


def test_language_takes_one_pass_where_nothing_new_is_said_and_never_more_than_one_for_each_slot(pipeline):
    bundled = StreamerPipeline.from_pretrained()
    silence = [UserUnit(torch.zeros(1, 3840), torch.zeros(3, 4, *SIZE))] * 4
    assert num_language_passes(bundled, open_session(bundled), silence) == [1, 1, 1, 1]
    counts = num_language_passes(pipeline, open_session(pipeline, temperature=30.0), random_units(12))
    assert 1 < max(counts) <= 1 + pipeline.streamer.layout.num_language_slots


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


def step_with_copies(session, unit, folder):
    """One step, which a fork and the saved session, loaded again, answer with the same words."""
    session.save(folder / "session.safetensors")
    others = [session.fork(), StreamerSession.load(folder / "session.safetensors", session.pipeline)]
    answer = session.step(unit)
    assert all(
        (copy.text, copy.heard) == (answer.text, answer.heard) for copy in (other.step(unit) for other in others)
    )
    return answer


def test_an_unfinished_character_waits_in_the_session(pipeline, tmp_path):
    """Words are drawn at random here, single bytes of characters among them: nothing is lost or doubled."""
    tokenizer, pad = pipeline.tokenizer, pipeline.streamer.config.pad_token_id
    session, said, text, has_waited = open_session(pipeline, temperature=1000.0), [], "", 0
    for unit in random_units(12):
        answer = step_with_copies(session, unit, tmp_path)
        text += answer.text
        said += [token for token in answer.language[1:] if token != pad]
        has_waited += bool(session.partial_text)
    assert has_waited > 2
    assert text + tokenizer.decode(session.partial_text) == tokenizer.decode_slots(said)


def test_what_is_heard_is_written_down_and_its_unfinished_characters_wait_too(pipeline, tmp_path):
    """The head gives some word in every unit here; a voice that changes changes it, and characters stay whole."""
    session, text, has_waited = open_session(pipeline), "", 0
    for unit in random_units(12):
        text += step_with_copies(session, unit, tmp_path).heard
        has_waited += bool(session.partial_heard)
    assert text and has_waited
    silence = UserUnit(torch.zeros(1, 3840), torch.zeros(3, 4, *SIZE))
    deaf = "".join(unit.heard for unit in run(open_session(pipeline), [silence] * 12))
    assert deaf != text


def test_a_checkpoint_without_a_head_for_heard_words_hears_none():
    assert [unit.heard for unit in run(open_session(tiny_pipeline(hears_words=False)), random_units(3))] == [""] * 3


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
    predicted = 2 * pipeline.cache_spec().nbytes()
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
    for nothing in (None, "unit"):
        with pytest.raises(TypeError, match="UserUnit"):
            session.step(nothing)


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


def test_a_session_file_of_another_shape_is_refused(tmp_path, pipeline):
    """A header that does not fit its tensors, or says what no session can have."""
    path = tmp_path / "session.safetensors"
    session = open_session(pipeline)
    session.step(random_units(1)[0])
    session.save(path)

    def rewritten(change):
        with safe_open(path, "pt") as file:
            leaves, metadata = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
        header = json.loads(metadata["session"])
        change(header, leaves)
        save_file(leaves, tmp_path / "changed", {**metadata, "session": json.dumps(header)})
        return tmp_path / "changed"

    changes = {
        "windows give": lambda header, _: header["kv"].update(context_units=9),
        "unknown mood": lambda header, _: header["options"].update(mood="good"),
        "no prompt": lambda header, _: header["options"].pop("prompt"),
        "num_inference_steps is at least 1": lambda header, _: header["options"].update(num_inference_steps=0),
        "has no 'parts' that is a list": lambda header, _: header.pop("parts"),
        "has no 'kv' that is a dict": lambda header, _: header.update(kv=None),
        "prompt_capacity is a whole number; got 'x'": lambda header, _: header["kv"].update(prompt_capacity="x"),
        "context_units is a whole number; got None": lambda header, _: header["kv"].pop("context_units"),
        "holds .*, hands; a session here": lambda header, _: header["parts"].append("hands"),
        "typed words have the token -1": lambda header, _: header.update(pending_text=[-1]),
        "unfinished characters have the token 999": lambda header, _: header.update(partial_text=[999]),
        "300 typed tokens wait": lambda header, _: header.update(pending_text=[5] * 300),
        "draft is of shape": lambda _, leaves: leaves.update({"thinker.draft": torch.zeros(1, 9, dtype=torch.int64)}),
        "unit is of shape .* in torch.float64": lambda _, leaves: leaves.update(
            {"thinker.kv.unit": leaves["thinker.kv.unit"].double()}
        ),
        "performer.keys holds NaN": lambda _, leaves: leaves["performer.keys"].view(-1)[-1:].fill_(float("nan")),
        "drafted words have the token 5000": lambda _, leaves: leaves["thinker.draft"].fill_(5000),
        "two sides are in units": lambda _, leaves: leaves["performer.unit"].add_(1),
        "prompts have": lambda _, leaves: leaves["performer.prompt_length"].add_(1),
    }
    for sentence, change in changes.items():
        with pytest.raises(ValueError, match=sentence):
            StreamerSession.load(rewritten(change), pipeline)
    old = rewritten(lambda header, _: header["options"].update(num_steps=header["options"].pop("num_inference_steps")))
    assert StreamerSession.load(old, pipeline).options == session.options  # its name in 0.1


def test_a_session_is_written_whole_or_not_at_all(tmp_path, pipeline):
    session = open_session(pipeline)
    for path in (tmp_path / "missing" / "session", tmp_path):
        with pytest.raises(OSError, match="folder"):
            session.save(path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("option", "kind"),
    [
        *(({"temperature": value}, ValueError) for value in (-1, float("nan"), float("inf"))),
        *(({"capacity_units": value}, ValueError) for value in (0, -5)),
        *(({"height": value}, ValueError) for value in (0, -2)),
        *(({"height": value}, TypeError) for value in (None, 2.5)),
        *(({"seed": value}, TypeError) for value in (None, 1.5, "1", True)),
        *(({"seed": value}, ValueError) for value in (-(2**70), 2**63)),
        *(({"num_inference_steps": value}, TypeError) for value in (2.5, "2")),
        ({"num_inference_steps": 0}, ValueError),
        *(({"prompt": value}, TypeError) for value in (5, b"hello", ["hello"])),
        ({"prompt": "\ud800"}, ValueError),
    ],
)
def test_an_option_that_cannot_be_is_refused_when_the_session_is_opened(pipeline, option, kind):
    for opened in (pipeline.open_session, partial(pipeline.open_batch, 1)):
        if next(iter(option)) in inspect.signature(opened).parameters:
            with pytest.raises(kind, match=next(iter(option))):
                opened(**{"height": SIZE[0], "width": SIZE[1]} | option)


@pytest.mark.parametrize(("value", "kind"), [(0, ValueError), (-1, ValueError), (1.5, TypeError), (None, TypeError)])
def test_a_batch_of_no_size_is_refused(pipeline, value, kind):
    with pytest.raises(kind, match="size is"):
        pipeline.open_batch(value)
    with pytest.raises(kind, match="prompt_capacity is"):
        pipeline.open_batch(1, prompt_capacity=value)


def test_every_seed_and_unit_has_noise_of_its_own(pipeline):
    """No two of these streams are equal, nor is one the other shifted in time or in place."""
    config = pipeline.streamer.config
    seeds = [1, 1 + 2**32, 2, -1, 2**62 + 1, 1_000_004]
    drawn = {
        (seed, unit): response_noise(config, seed, unit)["video"].flatten() for seed in seeds for unit in range(20)
    }
    values = torch.stack(list(drawn.values()))
    assert len(values.unique()) > 0.999 * values.numel()  # a few numbers are equal by chance
    assert abs(values.mean()) < 0.1 and abs(values.std() - 1) < 0.1


def test_typed_words_are_bounded_and_what_is_refused_leaves_no_trace(pipeline):
    session, unit = open_session(pipeline), random_units(1)[0]
    with pytest.raises(ValueError, match=f"at most {MAX_PENDING_TEXT}"):
        session.step(UserUnit(unit.audio, unit.video, "hello " * 1000))
    assert session.num_units == 0 and session.pending_text == []
    session.step(UserUnit(unit.audio, unit.video, "hello " * (MAX_PENDING_TEXT - 1)))
    with pytest.raises(ValueError, match="type less"):
        session.step(UserUnit(unit.audio, unit.video, "hello " * 10))
    session.step(unit)


class Fragile:
    """A solver that gives up when it is told to."""

    def __init__(self):
        self.gives_up, self.solver = False, FlowMatchScheduler()

    def solve(self, *args):
        if self.gives_up:
            raise ArithmeticError("the solver diverged")
        return self.solver.solve(*args)


def test_a_step_that_raises_has_consumed_nothing(pipeline):
    fragile = tiny_pipeline()
    fragile.scheduler = solver = Fragile()
    session, untroubled = open_session(fragile), open_session(pipeline)
    found = []
    for unit in random_units(8):
        solver.gives_up = True
        for _ in range(2):
            with pytest.raises(ArithmeticError):
                session.step(unit)
        solver.gives_up = False
        found.append(session.step(unit))
    assert_units_equal(found, run(untroubled, random_units(8)))


def test_two_threads_that_step_one_session_take_turns(pipeline):
    session, units = open_session(pipeline), random_units(12)
    with ThreadPoolExecutor(2) as pool:
        agents = list(pool.map(session.step, units))
    assert sorted(unit.index for unit in agents) == list(range(12)) and session.num_units == 12


def test_modules_that_were_given_stay_in_their_mode():
    pipeline = tiny_pipeline()
    pipeline.streamer.train()
    pipeline.audio_encoder.eval()
    seen = []
    handle = pipeline.streamer.model.register_forward_hook(lambda module, *_: seen.append(module.training))
    open_session(pipeline).step(random_units(1)[0])
    handle.remove()
    assert pipeline.streamer.training and not pipeline.audio_encoder.training and not any(seen)
