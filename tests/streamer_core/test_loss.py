"""What counts in the losses, and how much."""

from dataclasses import replace

import pytest
import torch
from streamer_core import StreamerConfig, StreamerOutput, UnitStreams, WeightedMean, streamer_loss

NUM_ROWS, NUM_COPIES, NUM_UNITS = 3, 2, 4
CONFIG = StreamerConfig(vocab_size=20, pad_token_id=7, min_sigma=0.2)


def a_case():
    """(output, streams, noise and level) of random numbers, half of the slots silent."""
    generator = torch.Generator().manual_seed(0)
    shape = NUM_ROWS, NUM_UNITS

    def values(*sizes):
        return torch.randn(NUM_ROWS, *sizes, generator=generator)

    text = torch.randint(CONFIG.vocab_size, (*shape, CONFIG.agent_text_slots), generator=generator)
    text = torch.where(torch.rand(text.shape, generator=generator) < 0.5, CONFIG.pad_token_id, text)
    sizes = [
        (CONFIG.agent_audio_tokens, CONFIG.audio_token_dim),
        (CONFIG.agent_video_tokens, CONFIG.video_token_dim),
    ]
    audio, video = (values(NUM_UNITS, *size) for size in sizes)
    noise = [values(NUM_COPIES, NUM_UNITS, *size) for size in sizes]
    velocities = [values(NUM_COPIES, NUM_UNITS, *size) for size in sizes]
    logits = values(NUM_UNITS, 1 + CONFIG.agent_text_slots, CONFIG.vocab_size)
    state = torch.full(shape, CONFIG.state_token_ids[0])
    streams = UnitStreams(text[..., :1], audio, video, state, text, audio, video)
    sigma = torch.rand(NUM_ROWS, NUM_COPIES, NUM_UNITS, generator=generator)
    heard_logits = values(NUM_UNITS, CONFIG.agent_text_slots, CONFIG.vocab_size)
    return StreamerOutput(logits, *velocities, heard_logits), streams, (*noise, sigma)


def rows(case, chosen):
    output, streams, noise = case
    chosen_of = [type(part)(**{n: getattr(part, n)[chosen] for n in vars(part)}) for part in (output, streams)]
    return *chosen_of, tuple(tensor[chosen] for tensor in noise)


def losses(case, **options):
    output, streams, noise = case
    return streamer_loss(output, streams, *noise, config=CONFIG, **options)


def test_means_of_parts_join_to_the_mean_of_the_whole():
    valid = torch.tensor([[True] * 4, [False, True, True, True], [False, False, False, True]])
    case = a_case()
    whole = losses(case, valid=valid)
    parts = [losses(rows(case, chosen), valid=valid[chosen]) for chosen in (slice(0, 1), slice(1, 3))]
    for name, term in whole.items():
        joined = WeightedMean(*(sum(getattr(part[name], of) for part in parts) for of in ("total", "weight")))
        torch.testing.assert_close(joined.mean(), term.mean())


def test_heard_words_are_a_term_of_their_own_where_model_and_data_have_them():
    output, streams, noise = case = a_case()
    heard = streams.agent_text.roll(1, dims=0)
    found = losses(case, heard=heard, pad_weight=1.0, heard_weight=0.5)["heard"].mean()
    entropy = -output.heard_logits.log_softmax(-1).gather(-1, heard[..., None])
    torch.testing.assert_close(found, 0.5 * entropy.mean())
    deaf = replace(output, heard_logits=None), streams, noise
    assert losses(case).keys() == losses(deaf, heard=heard).keys() == {"text", "audio", "video"}


def test_a_silent_slot_weighs_less_than_a_word():
    output, streams, _ = case = a_case()
    targets = torch.cat([streams.state[..., None], streams.agent_text], -1)
    entropy = -output.logits.log_softmax(-1).gather(-1, targets[..., None])[..., 0]
    silent = targets == CONFIG.pad_token_id
    expected = (entropy[~silent].sum() + 0.3 * entropy[silent].sum()) / ((~silent).sum() + 0.3 * silent.sum())
    torch.testing.assert_close(losses(case, pad_weight=0.3)["text"].mean(), expected)


@pytest.mark.parametrize("name", ["audio", "video"])
def test_an_error_weighs_as_its_noise_level_and_no_less_than_the_smallest(name):
    output, streams, (*noise, sigma) = a_case()
    clean, eps = getattr(streams, name), noise[name == "video"]
    error = (getattr(output, f"{name}_velocity") - (eps - clean[:, None])).square().mean((-2, -1))
    for level in (0.01, CONFIG.min_sigma, 0.9):
        found = losses((output, streams, (*noise, torch.full_like(sigma, level))))[name].mean()
        torch.testing.assert_close(found, error.mean() * max(level, CONFIG.min_sigma) ** 2)
    levels = {name: torch.full_like(sigma, 0.5), "other": torch.full_like(sigma, 0.9)}
    sound, picture = levels.values() if name == "audio" else reversed(levels.values())
    found = streamer_loss(output, streams, *noise, sound, config=CONFIG, video_sigma=picture)[name].mean()
    torch.testing.assert_close(found, error.mean() * 0.25)


def test_units_that_do_not_count_have_no_part():
    output, streams, noise = case = a_case()
    valid = torch.tensor([[False, True, True, True]] * NUM_ROWS)
    expected = losses(case, valid=valid)
    other = replace(streams, state=streams.state.clone(), audio=streams.audio.clone(), video=streams.video.clone())
    other.state[:, 0], other.audio[:, 0], other.video[:, 0] = 5, 9.0, 9.0
    for name, term in losses((output, other, noise), valid=valid).items():
        assert torch.equal(term.mean(), expected[name].mean())


def test_where_nothing_counts_the_losses_and_their_gradients_are_zero():
    output, streams, noise = a_case()
    for tensor in vars(output).values():
        tensor.requires_grad_()
    nothing = torch.zeros(NUM_ROWS, NUM_UNITS, dtype=torch.bool)
    terms = losses((output, streams, noise), valid=nothing, heard=streams.agent_text)
    loss = sum(term.scaled(4.0).mean() for term in terms.values())
    assert loss == 0
    loss.backward()
    assert all(torch.equal(tensor.grad, torch.zeros_like(tensor)) for tensor in vars(output).values())


def test_units_without_a_picture_have_no_error_of_the_picture():
    output, streams, noise = a_case()
    seen = torch.tensor([[True] * 4, [False] * 4, [True, False, False, False]])
    expected = losses((output, streams, noise), video_valid=seen)
    unseen = ~seen[:, None, :, None, None].expand_as(output.video_velocity)
    changed = replace(output, video_velocity=torch.where(unseen, 9.0, output.video_velocity))
    found = losses((changed, streams, noise), video_valid=seen)
    for name, term in expected.items():
        assert torch.equal(found[name].mean(), term.mean())
    assert losses((changed, streams, noise))["video"].mean() > 2 * expected["video"].mean()
    assert losses((output, streams, noise), video_valid=torch.zeros_like(seen))["video"].mean() == 0


def test_velocities_without_what_they_are_compared_with_are_refused():
    output, streams, noise = a_case()
    with pytest.raises(ValueError, match="loss of audio takes clean audio, the noise"):
        streamer_loss(output, streams, config=CONFIG)
    with pytest.raises(ValueError, match="loss of video takes clean video"):
        streamer_loss(output, replace(streams, video=None), *noise, config=CONFIG)
