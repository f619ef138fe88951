"""Started by `test_sharding.py`, once alone and once as two processes: trains a tiny model, writes losses and weights.

python tests/sharded_training.py FOLDER NUM_PROCESSES
"""

import sys
from pathlib import Path

import lightning
import torch
from causal_vae.training import build_trainer
from streamer_pipeline.training import DuplexBatch, DuplexTraining, ShardedDuplexTraining, gather_weights
from tiny_parts import tiny_pipeline
from torch.utils.data import DataLoader

NUM_STEPS, NUM_ROWS, NUM_UNITS = 8, 2, 6


class SameNoise:
    """Rows draw the noise of their place in the whole batch, so that it does not matter which process has them."""

    def add_noise(self, clean):
        rows = []
        for row in range(len(clean.state)):
            torch.manual_seed(100 * self.global_step + self.global_rank + row)
            one = type(clean)(*(getattr(clean, name)[row : row + 1] for name in clean.__dataclass_fields__))
            rows.append(super().add_noise(one))
        return type(rows[0])(*(torch.cat(parts) for parts in zip(*rows, strict=True)))


class Alone(SameNoise, DuplexTraining):
    pass


class Sharded(SameNoise, ShardedDuplexTraining):
    pass


class Losses(lightning.Callback):
    """The mean over processes of every step's loss."""

    def __init__(self):
        self.values = []

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_index):
        loss = outputs["loss"].detach().clone()
        self.values.append(float(trainer.strategy.reduce(loss, reduce_op="mean")))


def row(config, seed):
    """One conversation; every row has as many words, so that the mean over rows is the mean over all of them."""
    generator = torch.Generator().manual_seed(seed)
    grid = config.video_latent_height, config.video_latent_width
    text = torch.zeros(1, NUM_UNITS, config.agent_text_slots, dtype=torch.int64)
    text[0, torch.randperm(NUM_UNITS, generator=generator)[:3], 0] = 5
    return DuplexBatch(
        prompt_ids=torch.tensor([[7, 8]]),
        user_audio=torch.rand(1, 1, NUM_UNITS * 3840, generator=generator) - 0.5,
        user_frames=torch.rand(1, 3, NUM_UNITS, 16, 32, generator=generator) * 2 - 1,
        user_text=torch.zeros(1, NUM_UNITS, config.user_text_slots, dtype=torch.int64),
        state=torch.full((1, NUM_UNITS), config.state_token_ids[seed % 2]),
        agent_text=text,
        valid=torch.ones(1, NUM_UNITS, dtype=torch.bool),
        audio_latents=torch.randn(
            1, config.audio_latent_channels, NUM_UNITS * config.audio_latents_per_unit, generator=generator
        ),
        video_latents=torch.randn(1, config.video_latent_channels, NUM_UNITS, *grid, generator=generator),
    )


def joined(rows):
    return DuplexBatch(*(None if parts[0] is None else torch.cat(parts) for parts in zip(*rows, strict=True)))


def main(folder: Path, num_processes: int) -> None:
    torch.set_num_threads(1)
    pipeline = tiny_pipeline()
    parts = [part.train() for part in (pipeline.streamer, pipeline.audio_encoder, pipeline.video_encoder)]
    quiet = {"history_noise": 0.0, "sound_given": 0.0, "language_dropout": 0.0, "max_clock_offset": 0}
    kind = Alone if num_processes == 1 else Sharded
    training = kind(*parts, learning_rate=1e-2, max_steps=NUM_STEPS, **quiet)
    losses = Losses()
    strategy = "auto" if num_processes == 1 else "fsdp2"
    trainer = build_trainer(folder, NUM_STEPS, None, [losses], devices=num_processes, strategy=strategy)
    share = NUM_ROWS // num_processes
    mine = range(trainer.global_rank * share, (trainer.global_rank + 1) * share)
    batches = [
        joined([row(pipeline.streamer.config, NUM_ROWS * step + index) for index in mine]) for step in range(NUM_STEPS)
    ]
    trainer.fit(training, DataLoader(batches, batch_size=None))
    own_numbers = sum(getattr(p, "to_local", lambda p=p: p)().numel() for p in parts[0].parameters())
    weights = gather_weights(parts[0])
    if trainer.is_global_zero:
        torch.save({"losses": losses.values, "weights": weights, "own_numbers": own_numbers}, folder / "result.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
