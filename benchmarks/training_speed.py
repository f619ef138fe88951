"""Training of the tiny configuration: units per second, and how much of the matrix-product peak it uses."""

from __future__ import annotations

import torch
from causal_codec import CausalAudioEncoder, CausalAudioEncoderConfig, CausalVideoEncoder, CausalVideoEncoderConfig
from harness import Row, Setting, alternate, median, ratio
from streamer_core import StreamerModel, preset
from streamer_pipeline import SAMPLES_PER_UNIT
from streamer_pipeline.data.duplex_batch import DuplexBatch
from streamer_pipeline.training.flops import count_flops, matmul_probe
from streamer_pipeline.training.modules import DuplexTraining, means_over_ranks

BATCH_SIZE, NUM_UNITS, PROMPT_LENGTH = 4, 48, 4  # as examples/train/train_streamer.py trains "tiny"


def duplex_batch(training: DuplexTraining, batch_size: int, num_units: int) -> DuplexBatch:
    """Random conversations of the shapes that stage 2 is trained on."""
    c, eyes = training.streamer.config, training.video_encoder.config
    looks = num_units * int(eyes.frame_rate * eyes.unit_ms / 1000)

    def ids(*shape: int) -> torch.Tensor:
        return torch.randint(c.vocab_size, (batch_size, *shape))

    return DuplexBatch(
        prompt_ids=ids(PROMPT_LENGTH),
        user_audio=torch.randn(batch_size, 1, num_units * SAMPLES_PER_UNIT) * 0.1,
        user_frames=torch.randn(batch_size, 3, looks, eyes.image_height, eyes.image_width),
        user_text=ids(num_units, c.user_text_slots),
        state=torch.full((batch_size, num_units), c.state_token_ids[0]),
        agent_text=ids(num_units, c.agent_text_slots),
        valid=torch.ones(batch_size, num_units, dtype=torch.bool),
        audio_latents=torch.randn(batch_size, c.audio_latent_channels, num_units * c.audio_latents_per_unit),
        video_latents=torch.randn(
            batch_size, c.video_latent_channels, num_units, c.video_latent_height, c.video_latent_width
        ),
    )


def training_speed(setting: Setting) -> list[Row]:
    """Forward, backward and optimizer steps of stage 2 against a matrix product of the same dtype, in turn."""
    torch.manual_seed(0)
    config = preset("tiny", vocab_size=511, context_window=40)
    parts = (
        StreamerModel(config),
        CausalAudioEncoder(CausalAudioEncoderConfig(output_dim=config.perception_dim)),
        CausalVideoEncoder(CausalVideoEncoderConfig(output_dim=config.perception_dim)),
    )
    training = DuplexTraining(*(part.train() for part in parts), learning_rate=1e-3, max_steps=1000)
    batch_size, num_units = setting.count(BATCH_SIZE, 1), setting.count(NUM_UNITS, 8)
    batch = duplex_batch(training, batch_size, num_units)
    optimizer = torch.optim.AdamW(training.parameters(), lr=1e-4)
    rows = []
    for name, dtype in (("float32", torch.float32), ("bf16-mixed", torch.bfloat16)):

        def step(mixed: bool = dtype is torch.bfloat16) -> None:
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
                terms, _ = training.losses(batch)
            torch.stack(list(means_over_ranks(terms).values())).sum().backward()
            optimizer.step()

        flops = count_flops(step)
        probe, probe_flops = matmul_probe(dtype)
        sides = {"step": step, "probe": probe}
        times = alternate(sides, setting.count(12, 1), warm_up=setting.count(2, 1), training=True)
        units_per_s = 1000 * batch_size * num_units / median(times["step"])
        details = {"ms_per_step": median(times["step"]), "gflop_per_step": round(flops / 1e9, 2)}
        details["peak_gflop_per_s"] = round(probe_flops / median(times["probe"]) / 1e6, 1)
        rows.append(Row(f"training, {name}, units per second", units_per_s, "units/s", details=details))
        share = ratio(times["probe"] / probe_flops, times["step"] / flops)
        rows.append(Row(f"training, {name}, share of the matrix-product peak", share, "", ">= 0.5", details))
    return rows
