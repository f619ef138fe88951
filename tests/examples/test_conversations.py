"""What training reads: targets never come before their cause, and every window obeys the response delay."""

import numpy as np
import pytest
import torch
from duplex_world.agent_voice import AgentVoice
from duplex_world.augment import other_camera, other_room, own_echo, photograph
from duplex_world.clock import unit_at
from duplex_world.conversations import PROMPTS, Dyads, WorldConversations
from duplex_world.dyad import build_dyad
from duplex_world.render import render_frames
from duplex_world.scenarios import SCENARIOS
from duplex_world.stages import common_tokenizer
from duplex_world.training_tensors import (
    LOOK_SIZE,
    LOOKS,
    build_tokenizer,
    encode_dyad,
    heard_words,
    seen_words,
    spread,
)
from safetensors.torch import save_file
from streamer_core import StreamerTokenizer
from streamer_pipeline.data.augment import suppress_noise
from streamer_pipeline.data.tasks import Mixture

NUM_UNITS, DELAY = 40, 1


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


@pytest.fixture(scope="module")
def dyads():
    voice = AgentVoice()
    return [build_dyad(seed, name, voice) for seed, name in enumerate(SCENARIOS)]


@pytest.fixture(scope="module")
def folder(dyads, tokenizer, tmp_path_factory):
    """Stored dyads with latents that count the units of the wall clock, so that shifts can be read off."""
    folder, tensors = tmp_path_factory.mktemp("dyads"), {}
    for dyad in dyads:
        encoded = encode_dyad(dyad, tokenizer)
        units = torch.arange(dyad.num_units, dtype=torch.float32)
        encoded["audio_latents"] = units.repeat_interleave(4).expand(16, -1).contiguous()
        encoded["video_latents"] = units[None, :, None, None].expand(32, -1, 4, 7).contiguous()
        tensors |= {f"{dyad.seed}.{name}": tensor for name, tensor in encoded.items()}
    save_file(tensors, folder / "dyads-0000000.safetensors")
    return folder


def conversations_in(folder, tokenizer, num_processes=1, **weights):
    data = Dyads([folder], with_latents=True)
    shape = {"num_units": NUM_UNITS, "batch_size": 2, "response_delay": DELAY, "user_text_slots": 1}
    return WorldConversations(data, data, tokenizer, Mixture(weights), num_processes=num_processes, **shape)


def batches(folder, tokenizer, **weights):
    conversations = conversations_in(folder, tokenizer, **weights)
    return [conversations[step, 0] for step in range(4)]


def test_words_of_the_user_are_due_after_they_ended_and_soon(dyads):
    for dyad in dyads:
        due = [(unit, word) for unit, words in enumerate(heard_words(dyad)) for word in words]
        ended = [(unit_at(word.end), word.text) for word in dyad.user_words]
        assert [word for _, word in due] == [word for _, word in ended]
        assert [word for _, word in ended] == " ".join(s.text for s in dyad.user_segments).split()
        assert all(0 < unit - end <= 1 for (unit, _), (end, _) in zip(due, ended, strict=True))


def test_what_is_seen_is_named_only_while_it_is_shown(dyads):
    for dyad in dyads:
        named = {word for words in seen_words(dyad) for word in words}
        shown = set()
        for event in dyad.visual_events:
            shown |= {event.color, event.object} - {""} or {"waved", "smiling", "finger", "fingers"}
        assert bool(named) == bool(dyad.visual_events)
        assert all(word in shown or event.kind == "fingers" for word in named for event in dyad.visual_events)


def test_words_that_do_not_fit_wait_and_none_is_lost(tokenizer):
    words = [["one", "two", "three"], [], ["four"]]
    ids = spread(words, tokenizer, num_slots=2)
    assert tokenizer.decode_slots(ids[ids != tokenizer.pad_token_id].tolist()).split() == [
        "one",
        "two",
        "three",
        "four",
    ]
    assert (ids[0] != tokenizer.pad_token_id).all()


@pytest.mark.parametrize("task", ["duplex", "speaking"])
def test_the_agent_is_shifted_by_the_response_delay(folder, tokenizer, task):
    conversations = conversations_in(folder, tokenizer, **{task: 1.0})
    for step in range(4):
        batch = conversations[step, 0]
        assert batch.video_latents.shape == (2, 32, NUM_UNITS, 4, 7)
        assert batch.user_audio.shape == (2, 1, NUM_UNITS * 3840)
        assert torch.equal(batch.video_latents[:, 0, :, 0, 0], batch.audio_latents[:, 0, ::4])
        for row, latents in zip(conversations.rows(step), batch.video_latents, strict=True):
            units = [unit for piece in row.pieces for unit in range(piece.first, piece.end)]
            assert latents[0, :, 0, 0].tolist() == units[DELAY : DELAY + NUM_UNITS]


def test_language_batches_hold_no_latents_and_name_their_task(folder, tokenizer):
    for task in ("hearing", "seeing", "words"):
        for batch in batches(folder, tokenizer, **{task: 1.0}):
            assert batch.audio_latents is None and batch.video_latents is None
            assert tokenizer.decode_slots(batch.prompt_ids[0].tolist()).split() == PROMPTS[task].split()
            assert batch.agent_text.shape == (4, NUM_UNITS, 2)


def test_processes_have_windows_of_their_own_but_the_same_kind_of_batch(folder, tokenizer):
    conversations = conversations_in(folder, tokenizer, num_processes=2, words=1.0, duplex=1.0)
    kinds = []
    for step in range(8):
        here, there = conversations[step, 0], conversations[step, 1]
        assert (here.audio_latents is None) == (there.audio_latents is None)
        assert not torch.equal(here.user_audio, there.user_audio)
        kinds.append(here.audio_latents is None)
    assert set(kinds) == {True, False}


def test_what_is_typed_is_what_is_then_said(folder, tokenizer):
    pad, speak = tokenizer.pad_token_id, tokenizer.state_ids["speak"]
    for batch in batches(folder, tokenizer, speaking=1.0):
        for typed, state, text in zip(batch.user_text[..., 0], batch.state, batch.agent_text, strict=True):
            starts = [k for k in range(1, NUM_UNITS) if state[k] == speak and state[k - 1] != speak]
            for start in starts:
                said = text[start : start + 20]
                said = said[said != pad][:1]
                before = typed[:start][typed[:start] != pad]
                assert not len(said) or not len(before) or said[0] in before


def test_augmentation_is_deterministic_and_changes_something(dyads):
    dyad = next(dyad for dyad in dyads if dyad.scenario == "color")

    def augmented(seed):
        rng = np.random.default_rng(seed)
        backdrop = photograph(rng, (128, 224))
        looks = render_frames(dyad.user_motion, dyad.user_identity, LOOK_SIZE, LOOKS, backdrop)
        return other_room(dyad.user_audio, rng), other_camera(looks, rng)

    for one, same, other in zip(augmented(1), augmented(1), augmented(2), strict=True):
        assert np.array_equal(one, same) and one.shape == other.shape and not np.array_equal(one, other)


def test_an_echo_is_later_and_fainter_than_what_was_said(dyads):
    said = next(dyad for dyad in dyads if dyad.scenario == "color").agent_audio
    silence = np.zeros_like(said)
    echoes = [own_echo(silence, said, np.random.default_rng(seed)) for seed in range(12)]
    heard = [echo for echo in echoes if echo.any()]
    assert 0 < len(heard) < len(echoes)
    for echo in heard:
        assert np.abs(echo[: np.flatnonzero(said)[0] + 900]).max() < 1e-6
        assert np.square(echo).sum() < 0.5 * np.square(said).sum()


def test_suppressed_noise_leaves_speech_and_presses_pauses():
    noise = 0.003 * torch.randn(24_000, generator=torch.Generator().manual_seed(0))
    speech = torch.zeros(24_000)
    speech[9_600:14_400] = 0.2 * torch.sin(torch.arange(4_800) / 10)
    cleaned = suppress_noise(speech + noise)
    assert torch.allclose(cleaned[10_000:14_000], (speech + noise)[10_000:14_000], atol=0.02)
    assert cleaned[:9_000].square().mean() < 0.1 * noise[:9_000].square().mean()


def test_no_dyads_is_said(tmp_path):
    with pytest.raises(ValueError, match=r"prepare_dyads\.py"):
        Dyads([tmp_path], with_latents=False)


def test_dyads_of_different_tokenizers_are_not_mixed(tokenizer, tmp_path):
    for name, texts in (("one", ["hello there"]), ("two", ["good morning to you"])):
        StreamerTokenizer.train(texts * 4, vocab_size=300).save_pretrained(tmp_path / name / "tokenizer")
    with pytest.raises(ValueError, match=r"different tokenizers.*--tokenizer"):
        common_tokenizer([tmp_path / "one", tmp_path / "two"])
    assert common_tokenizer([tmp_path / "one"] * 2).get_vocab()
