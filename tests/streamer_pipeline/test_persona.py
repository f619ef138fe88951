"""Worlds: a prompt with the agent's face and voice, prefilled once, for any number of sessions."""

import pytest
import torch
from streamer_core import UnitStreams
from streamer_pipeline import Persona
from streamer_pipeline.persona import encode_reference
from streamer_pipeline.units import SAMPLES_PER_UNIT
from tiny_parts import SIZE, open_session, random_units, tiny_pipeline

AGENT_SIZE = 48, 72  # that of `tiny_pipeline`: a grid of 2x3 latents


def a_persona(seed=0, num_samples=3 * SAMPLES_PER_UNIT - 100):
    generator = torch.Generator().manual_seed(seed)
    picture = torch.rand(3, *AGENT_SIZE, generator=generator) * 2 - 1
    voice = torch.rand(1, num_samples, generator=generator) * 0.4 - 0.2
    return Persona("you are ada", picture, voice)


def talk(pipeline, prompt, num_units=6):
    session = open_session(pipeline, prompt=prompt, seed=1)
    units = [session.step(unit) for unit in random_units(num_units)]
    return torch.cat([unit.audio for unit in units], 1), torch.cat([unit.video for unit in units], 1)


def test_a_prepared_world_serves_many_sessions_like_one_of_their_own():
    pipeline = tiny_pipeline()
    prepared = pipeline.prepare_persona(a_persona())
    before = prepared.kv.clone()
    alone, first, second = talk(pipeline, a_persona()), talk(pipeline, prepared), talk(pipeline, prepared)
    for expected, *others in zip(alone, first, second, strict=True):
        assert all(torch.equal(expected, other) for other in others)
    assert torch.equal(prepared.kv, before)


def test_face_and_voice_each_change_what_the_agent_does():
    pipeline = tiny_pipeline()
    one, other = a_persona(0), a_persona(1)
    personas = [one, Persona(one.text, other.picture, one.voice), Persona(one.text, one.picture, other.voice), one.text]
    streams = [torch.cat([part.flatten() for part in talk(pipeline, persona)]) for persona in personas]
    assert all(not torch.equal(streams[0], stream) for stream in streams[1:])


def test_a_text_is_a_persona_without_a_face():
    pipeline = tiny_pipeline()
    assert torch.equal(pipeline.prepare_persona("hello").kv, pipeline.prepare_persona(Persona("hello")).kv)


@torch.inference_mode()
def test_a_reference_in_training_is_the_one_in_serving():
    """The response of unit 0, given the same noisy latents, by the training forward and against a prefilled persona."""
    pipeline = tiny_pipeline()
    streamer, config = pipeline.streamer, pipeline.streamer.config
    persona = a_persona()
    ids = torch.tensor([pipeline.tokenizer.encode_words(persona.text)])
    reference = encode_reference(pipeline, persona.picture, persona.voice)
    prepared = pipeline.prepare_persona(persona)
    assert prepared.num_tokens == ids.shape[1] + 3 * streamer.layout.num_response_tokens
    streams = UnitStreams(
        user_text=torch.zeros(1, 1, config.user_text_slots, dtype=torch.int64),
        user_audio=torch.randn(1, 1, config.user_audio_tokens, config.perception_dim),
        user_video=torch.randn(1, 1, config.user_video_tokens, config.perception_dim),
        state=torch.full((1, 1), config.state_token_ids[0]),
        agent_text=torch.zeros(1, 1, config.agent_text_slots, dtype=torch.int64),
        audio=torch.randn(1, 1, config.agent_audio_tokens, config.audio_token_dim),
        video=torch.randn(1, 1, config.agent_video_tokens, config.video_token_dim),
    )
    noisy = torch.randn_like(streams.audio)[:, None], torch.randn_like(streams.video)[:, None]
    sigma = torch.full((1, 1, 1), 0.5)
    trained = streamer(streams, *noisy, sigma, prompt_ids=ids, reference=reference)

    cache_spec = pipeline.cache_spec()
    state = pipeline.thinker.start(prepared.kv, cache_spec, SIZE)["kv"]
    layout = streamer.layout
    context = torch.cat(
        [
            streamer.embed_user(streams.user_text, streams.user_audio, streams.user_video),
            streamer.embed_language(torch.cat([streams.state[..., None], streams.agent_text], -1), layout.language),
        ],
        dim=2,
    )[:, 0]
    streamer.step(context, state, streamer.attention_inputs(state, cache_spec, layout.context))
    embedded = streamer.embed_response(noisy[0][:, 0, 0], noisy[1][:, 0, 0], sigma[:, 0, 0])
    hidden = streamer.step(embedded, state, streamer.attention_inputs(state, cache_spec, layout.response))
    served = streamer.velocities(hidden, noisy[0][:, 0, 0], noisy[1][:, 0, 0], sigma[:, 0, 0])
    for found, expected in zip(served, (trained.audio_velocity, trained.video_velocity), strict=True):
        torch.testing.assert_close(found, expected[:, 0, 0], rtol=1e-4, atol=1e-5)


def test_the_bytes_of_a_session_with_a_persona_are_predicted():
    pipeline = tiny_pipeline()
    prepared = pipeline.prepare_persona(a_persona(num_samples=40 * SAMPLES_PER_UNIT))
    assert prepared.num_tokens > 64
    session = open_session(pipeline, prompt=prepared)
    assert session.nbytes() == pipeline.session_nbytes(prompt=prepared, height=SIZE[0], width=SIZE[1])


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"voice": None}, "or neither"),
        ({"picture": torch.zeros(1, 8, 8)}, r"shape \(3, H, W\)"),
        ({"voice": torch.zeros(100)}, r"shape \(1, samples\)"),
    ],
)
def test_half_a_persona_is_refused(changes, complaint):
    fields = {"text": "hello", "picture": torch.zeros(3, 8, 8), "voice": torch.zeros(1, 100)}
    with pytest.raises(ValueError, match=complaint):
        Persona(**fields | changes)


def test_a_picture_of_another_size_is_refused():
    persona = a_persona()
    larger = Persona(persona.text, torch.zeros(3, *SIZE), persona.voice)
    with pytest.raises(ValueError, match="this agent is drawn in"):
        tiny_pipeline().prepare_persona(larger)


def test_a_face_needs_the_vaes():
    pipeline = tiny_pipeline()
    pipeline.audio_vae = None
    with pytest.raises(ValueError, match="needs the pipeline's audio_vae"):
        pipeline.prepare_persona(a_persona())
