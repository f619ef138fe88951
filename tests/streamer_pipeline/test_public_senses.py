"""Training with ears and eyes of public classes, which have no other interface than ours."""

import torch
from streamer_core import StreamerConfig, StreamerModel
from streamer_pipeline.data.duplex_batch import DuplexBatch
from streamer_pipeline.training.modules import DuplexTraining
from test_contract import CASES

NUM_UNITS = 3


def test_public_senses_are_trained_like_ours():
    torch.manual_seed(0)
    ears, eyes = (CASES[name][0]() for name in ("VoxtralAudioEncoder", "SiglipVideoEncoder"))
    config = StreamerConfig(
        vocab_size=40,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=12,
        perception_dim=eyes.config.output_dim,
        user_audio_tokens=ears.config.tokens_per_unit,
        user_video_tokens=eyes.config.tokens_per_unit,
        audio_latent_channels=4,
        video_latent_channels=4,
    )
    training = DuplexTraining(StreamerModel(config), ears, eyes, 1e-3, 10)
    picture = eyes.config.image_height, eyes.config.image_width
    batch = DuplexBatch(
        prompt_ids=torch.randint(40, (2, 3)),
        user_audio=0.1 * torch.randn(2, 1, NUM_UNITS * 3840),
        user_frames=torch.rand(2, 3, NUM_UNITS * 4 // eyes.stride, *picture) * 2 - 1,
        user_text=torch.randint(40, (2, NUM_UNITS, 1)),
        state=torch.ones(2, NUM_UNITS, dtype=torch.int64),
        agent_text=torch.randint(40, (2, NUM_UNITS, 2)),
        valid=torch.ones(2, NUM_UNITS, dtype=torch.bool),
        audio_latents=torch.randn(2, 4, NUM_UNITS * 4),
        video_latents=torch.randn(2, 4, NUM_UNITS, 4, 7),
    )
    terms, _ = training.losses(batch)
    sum(term.mean() for term in terms.values()).backward()
    for encoder in (ears, eyes):
        assert encoder.project.weight.grad.abs().sum() > 0
        assert any(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in encoder.tower.parameters())
