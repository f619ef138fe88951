"""What training shows a unit of the past."""

import pytest
import torch
from streamer_core import UnitStreams
from streamer_pipeline.training import DuplexTraining
from tiny_parts import tiny_pipeline

NUM_ROWS, NUM_UNITS = 40, 3


@pytest.mark.parametrize("dropout", [0.0, 0.5, 1.0])
def test_history_dropout_hides_sound_and_picture_of_whole_sequences_apart_and_nothing_else(dropout):
    torch.manual_seed(0)
    parts = tiny_pipeline()
    c = parts.streamer.config
    training = DuplexTraining(
        parts.streamer,
        parts.audio_encoder,
        parts.video_encoder,
        1e-3,
        10,
        history_noise=0.0,
        history_dropout=dropout,
        language_dropout=0.0,
    )
    heard = torch.randn(NUM_ROWS, NUM_UNITS, 2, c.perception_dim)
    words = torch.randint(c.vocab_size, (NUM_ROWS, NUM_UNITS, c.agent_text_slots))
    clean = UnitStreams(
        words[..., :1],
        heard,
        heard,
        words[..., 0],
        words,
        torch.randn(NUM_ROWS, NUM_UNITS, c.agent_audio_tokens, c.audio_token_dim),
        torch.randn(NUM_ROWS, NUM_UNITS, c.agent_video_tokens, c.video_token_dim),
    )
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
