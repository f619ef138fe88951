"""Training forward == serving, through the objects that users call: what a session said and showed is what the training
forward gives for the same history."""

import itertools

import pytest
import torch
from streamer_core import UnitStreams
from streamer_pipeline import UserUnit
from streamer_pipeline.noise import language_noise, response_noise
from tiny_parts import open_session, random_units, tiny_pipeline

POLICIES = {
    "windows": {"context_window": 6, "response_window": 3},
    "full": {"context_window": None, "response_window": None},
    "long context": {"context_window": None, "response_window": 2},
}
SEED, NUM_UNITS = 7, 24


def talkative_units() -> list[UserUnit]:
    """Users who also type: words that wait for their slots, in several units."""
    typed = {2: "how are you", 9: "it is red", 10: "hello", 17: "you"}
    return [UserUnit(unit.audio, unit.video, typed.get(k)) for k, unit in enumerate(random_units(NUM_UNITS))]


def text_slots(pipeline, units):
    """(1, K, slots): typed words as they wait for their slots."""
    config, waiting, rows = pipeline.streamer.config, [], []
    for unit in units:
        waiting += pipeline.tokenizer.encode_words(unit.text) if unit.text else []
        row, waiting = waiting[: config.user_text_slots], waiting[config.user_text_slots :]
        rows.append(row + [config.pad_token_id] * (config.user_text_slots - len(row)))
    return torch.tensor([rows])


def as_streams(pipeline, users, agents) -> UnitStreams:
    """The conversation as training sees it: media encoded in one go, ids and latents as the agent's units have them."""
    audio = torch.cat([unit.audio for unit in users], dim=1)[None]
    video = torch.cat([unit.video for unit in users], dim=1)[None]
    language = torch.tensor([[unit.language for unit in agents]])
    tokens = [
        encoder(media)[0].unflatten(1, (len(users), -1))
        for encoder, media in ((pipeline.audio_encoder, audio), (pipeline.video_encoder, video))
    ]
    latents = [torch.stack([unit.latents[name] for unit in agents])[None] for name in ("audio", "video")]
    return UnitStreams(text_slots(pipeline, users), *tokens, language[..., 0], language[..., 1:], *latents)


def noises(pipeline, temperature):
    config = pipeline.streamer.config
    drawn = [response_noise(config, SEED, k) for k in range(NUM_UNITS)]
    noise = {name: torch.stack([z[name] for z in drawn], dim=1) for name in ("audio", "video")}  # (1, K, tokens, dim)
    gumbel = torch.stack([language_noise(config, SEED, k) for k in range(NUM_UNITS)], dim=1)
    return noise, temperature * gumbel if temperature else None


@pytest.mark.parametrize(
    ("delay", "policy", "temperature"), [*itertools.product((0, 1), POLICIES, (0.0, 30.0)), (1, "windows", 3.0)]
)
@torch.inference_mode()
def test_a_session_says_and_shows_what_the_training_forward_gives(delay, policy, temperature):
    pipeline = tiny_pipeline(commit_delay=delay, **POLICIES[policy])
    streamer, num_steps = pipeline.streamer.eval(), 2
    users = talkative_units()
    session = open_session(
        pipeline, seed=SEED, temperature=temperature, num_inference_steps=num_steps, capacity_units=5
    )
    agents = [session.step(unit) for unit in users]
    streams, (noise, gumbel) = as_streams(pipeline, users, agents), noises(pipeline, temperature)
    prompt = torch.tensor([pipeline.tokenizer.encode_words(pipeline.config.prompt)])

    def forward(latents, sigma):
        noisy = (latents["audio"][:, None], latents["video"][:, None])
        return streamer(streams, *noisy, torch.full((1, 1, NUM_UNITS), sigma), prompt)

    # Sound and picture: Euler's steps over all units at once, on the history that the session made.
    latents = noise
    for step in range(num_steps):
        output = forward(latents, 1 - step / num_steps)
        latents = {name: z - getattr(output, f"{name}_velocity")[:, 0] / num_steps for name, z in latents.items()}
    for name, wanted in (("audio", streams.audio), ("video", streams.video)):
        difference = (latents[name] - wanted).abs().max() / wanted.abs().max()
        assert difference < 1e-5, f"{name}: {difference:.1e}"

    # Words and states: every slot is the choice that follows from the logits given the slots before it.
    states = torch.tensor(streamer.config.state_token_ids)
    logits = output.logits + (gumbel if gumbel is not None else 0)
    words = logits[:, :, 1:].index_fill(3, states, float("-inf")).argmax(dim=-1)
    assert torch.equal(words, streams.agent_text)
    assert torch.equal(states[logits[:, :, 0][..., states].argmax(dim=-1)], streams.state)
    if temperature > 10:
        assert len(streams.state.unique()) == len(states) and len(streams.agent_text.unique()) > 10
