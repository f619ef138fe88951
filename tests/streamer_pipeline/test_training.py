"""What training shows a unit of the past, and what a validation says of all its batches."""

import pytest
import torch
from causal_vae.training import EndlessBatches, build_trainer, fit
from lightning.pytorch.callbacks import Callback
from streamer_core import UnitStreams
from streamer_pipeline.data.duplex_batch import DuplexBatch
from streamer_pipeline.training.modules import DuplexTraining
from tiny_parts import tiny_pipeline
from torch.utils.data import DataLoader

NUM_ROWS, NUM_UNITS = 40, 3


def duplex_training(learning_rate=1e-3, **options):
    parts = tiny_pipeline()
    encoders = parts.audio_encoder, parts.video_encoder
    return DuplexTraining(parts.streamer, *encoders, learning_rate, 10, validation_names=("words",), **options)


def clean_streams(config):
    heard = torch.randn(NUM_ROWS, NUM_UNITS, 2, config.perception_dim)
    words = torch.randint(config.vocab_size, (NUM_ROWS, NUM_UNITS, config.agent_text_slots))
    return UnitStreams(
        words[..., :1],
        heard,
        heard,
        words[..., 0],
        words,
        torch.randn(NUM_ROWS, NUM_UNITS, config.agent_audio_tokens, config.audio_token_dim),
        torch.randn(NUM_ROWS, NUM_UNITS, config.agent_video_tokens, config.video_token_dim),
    )


@pytest.mark.parametrize("dropout", [0.0, 0.5, 1.0])
def test_history_dropout_hides_sound_and_picture_of_whole_sequences_apart_and_nothing_else(dropout):
    training = duplex_training(history_noise=0.0, history_dropout=dropout, language_dropout=0.0)
    clean = clean_streams(training.streamer.config)
    seen = training.history(clean)
    for name in ("user_text", "user_audio", "user_video", "state", "agent_text"):
        assert torch.equal(getattr(seen, name), getattr(clean, name))
    kept = []
    for before, after in ((clean.audio, seen.audio), (clean.video, seen.video)):
        same = (before == after).flatten(2).all(2)
        assert torch.equal(same.any(1), same.all(1))
        kept.append(same.all(1))
    shares = [float(each.float().mean()) for each in kept]
    assert shares == pytest.approx([1 - dropout] * 2, abs=0 if dropout in (0, 1) else 0.25)
    assert (kept[0] == kept[1]).all() == (dropout != 0.5)


def test_history_noise_and_language_dropout_reach_their_share():
    training = duplex_training(history_noise=0.4, language_dropout=0.5)
    clean = clean_streams(training.streamer.config)
    seen, pad = training.history(clean), training.streamer.config.pad_token_id
    hidden = (seen.state == pad).all(1)
    assert 0.25 < hidden.float().mean() < 0.75
    assert (seen.agent_text[hidden] == pad).all()
    for name in ("state", "agent_text"):
        assert torch.equal(getattr(seen, name)[~hidden], getattr(clean, name)[~hidden])
    for before, after in ((clean.audio, seen.audio), (clean.video, seen.video)):
        levels = (after - before).flatten(2).square().mean(2).sqrt()  # of each unit: uniform up to the largest
        assert levels.max() < 0.6
        assert levels.mean() == pytest.approx(0.2, abs=0.05)
        assert levels.std() == pytest.approx(0.4 / 12**0.5, abs=0.05)


def test_some_copies_have_the_sound_given_and_the_others_one_level_for_both():
    training = duplex_training(sound_given=0.3, num_copies=4)
    clean = clean_streams(training.streamer.config)
    noisy = training.add_noise(clean)
    given = (noisy.audio_sigma == 0).all(2)
    assert 0.15 < given.float().mean() < 0.45
    assert torch.equal(noisy.audio_sigma[~given], noisy.video_sigma[~given])
    assert (noisy.video_sigma > 0).all()
    sound = clean.audio[:, None].expand_as(noisy.audio)
    assert torch.equal(noisy.audio[given], sound[given])
    for name, latents in (("audio", sound), ("video", clean.video[:, None])):
        sigma = getattr(noisy, f"{name}_sigma")[..., None, None]
        expected = (1 - sigma) * latents + sigma * getattr(noisy, f"{name}_noise")
        torch.testing.assert_close(getattr(noisy, name), expected)


def language_batch(config, seed, words_due, word=5):
    """Two conversations in words alone; `words_due` (2, NUM_UNITS) of 0 or 1 says where the agent has `word`."""
    generator = torch.Generator().manual_seed(seed)
    text = torch.full((2, NUM_UNITS, config.agent_text_slots), config.pad_token_id)
    text[..., 0] = torch.where(torch.tensor(words_due, dtype=torch.bool), word, config.pad_token_id)
    return DuplexBatch(
        prompt_ids=torch.tensor([[7, 8]] * 2),
        user_audio=0.1 * torch.randn(2, 1, NUM_UNITS * 3840, generator=generator),
        user_frames=0.1 * torch.randn(2, 3, NUM_UNITS, 16, 32, generator=generator),
        user_text=torch.zeros(2, NUM_UNITS, config.user_text_slots, dtype=torch.int64),
        state=torch.full((2, NUM_UNITS), config.state_token_ids[0]),
        agent_text=text,
        valid=torch.tensor([[True] * NUM_UNITS, [False, True, True]]),
    )


def test_a_validation_is_the_mean_over_all_that_counts_in_its_batches(tmp_path):
    """Not over batches, of which one has a word due where it does not count, one has many, and one has none."""
    training = duplex_training(max_clock_offset=0, language_dropout=0.0)
    config = training.streamer.config
    plan = [[[0, 0, 0], [1, 0, 0]], [[1, 1, 1], [0, 1, 1]], [[0, 0, 0]] * 2, [[0, 0, 1]] * 2]
    said = training.losses(language_batch(config, 1, plan[1]))[1].logits[:, :, 1].argmax(-1)
    batches = [
        language_batch(config, seed, due, word=int(said[0, 2]) if seed == 1 else 5) for seed, due in enumerate(plan)
    ]
    trainer = build_trainer(tmp_path, 1)
    (found,) = trainer.validate(training, DataLoader(batches, batch_size=None), verbose=False)
    joined = DuplexBatch(*(None if parts[0] is None else torch.cat(parts) for parts in zip(*batches, strict=True)))
    (expected,) = trainer.validate(training, DataLoader([joined], batch_size=None), verbose=False)
    assert found.keys() == {"val/words_text", "val/words_words", "val/words_false_words"}
    assert found == pytest.approx(expected, rel=1e-5)
    assert 0 < found["val/words_words"] < 1
    (nothing_due,) = trainer.validate(training, DataLoader(batches[::2], batch_size=None), verbose=False)
    assert nothing_due.keys() == {"val/words_text", "val/words_false_words"}


def test_words_are_judged_where_they_count(tmp_path):
    """A word that is due in a unit that does not count, and would be wrong, changes nothing."""
    training = duplex_training(max_clock_offset=0, language_dropout=0.0)
    config, trainer = training.streamer.config, build_trainer(tmp_path, 1)
    due = [[0, 0, 0], [1, 0, 1]]
    said = training.losses(language_batch(config, 0, due))[1].logits[:, :, 1].argmax(-1)
    batch = language_batch(config, 0, due)
    batch.agent_text[1, 2, 0] = said[1, 2]
    assert batch.agent_text[1, 0, 0] != said[1, 0]
    (found,) = trainer.validate(training, DataLoader([batch], batch_size=None), verbose=False)
    assert found["val/words_words"] == 1


class Words(EndlessBatches):
    def __init__(self, config):
        super().__init__()
        self.config = config

    def draw(self, step, rank):
        return language_batch(self.config, step, [[0, 1, 0]] * 2)


class Validations(Callback):
    def __init__(self):
        self.texts = []

    def on_validation_end(self, trainer, module):
        self.texts.append(float(trainer.callback_metrics["val/words_text"]))


def test_every_validation_draws_the_same_noise(tmp_path):
    training, validations = duplex_training(learning_rate=0.0), Validations()
    trainer = build_trainer(tmp_path, 3, validate_every=1, callbacks=[validations])
    held_out = [language_batch(training.streamer.config, 100, [[1, 0, 0]] * 2)]
    fit(trainer, tmp_path, training, Words(training.streamer.config), DataLoader(held_out, batch_size=None))
    assert len(validations.texts) == 3
    assert len(set(validations.texts)) == 1
