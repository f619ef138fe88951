"""Started by `test_sharding.py`: trains tiny models, alone or as one of two processes, writes losses and weights.

python tests/sharded_training.py FOLDER alone
python tests/sharded_training.py FOLDER shards    # starts a second process and halves the weights
python tests/sharded_training.py FOLDER nodes     # as one of two machines, with the environment that torchrun gives
"""

import sys
from copy import deepcopy
from pathlib import Path

import lightning
import torch
from causal_vae.training import EndlessBatches, build_trainer, fit
from streamer_pipeline.data.duplex_batch import DuplexBatch
from streamer_pipeline.training.distillation import TrajectoryDistillation
from streamer_pipeline.training.modules import DuplexTraining, ShardedDuplexTraining, gather_weights
from tiny_parts import tiny_pipeline

NUM_STEPS, NUM_ROWS, NUM_UNITS = 8, 2, 6
LAYOUTS = {
    "alone": {},
    "shards": {"devices": 2, "strategy": "fsdp2"},
    "nodes": {"num_nodes": 2, "strategy": "ddp_find_unused_parameters_true"},
}
QUIET = {"history_noise": 0.0, "sound_given": 0.0, "language_dropout": 0.0, "max_clock_offset": 0}


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


class Distilled(TrajectoryDistillation):
    def noise(self, like, num_copies, generator=None):
        drawn = []
        for row in range(len(like.state)):
            generator = torch.Generator().manual_seed(100 * self.global_step + self.global_rank + row)
            one = type(like)(*(getattr(like, name)[row : row + 1] for name in like.__dataclass_fields__))
            drawn.append(super().noise(one, num_copies, generator))
        return {name: torch.cat([noise[name] for noise in drawn]) for name in drawn[0]}


class Losses(lightning.Callback):
    """The mean over processes of every step's loss."""

    def __init__(self):
        self.values = []

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_index):
        loss = outputs["loss"].detach().clone()
        self.values.append(float(trainer.strategy.reduce(loss, reduce_op="mean")))


class Rows(EndlessBatches):
    """Rows of which the second half has other numbers of words and a lead-in, divided over the processes."""

    def __init__(self, config, num_processes):
        super().__init__()
        self.config, self.share = config, NUM_ROWS // num_processes

    def draw(self, step, rank):
        mine = range(rank * self.share, (rank + 1) * self.share)
        rows = [row(self.config, NUM_ROWS * step + index, 2 * index) for index in mine]
        return DuplexBatch(*(None if parts[0] is None else torch.cat(parts) for parts in zip(*rows, strict=True)))


def row(config, seed, more):
    """One conversation with 1 + `more` words and a lead-in of 1 + `more` units that do not count, or none."""
    generator = torch.Generator().manual_seed(seed)
    grid = config.video_latent_height, config.video_latent_width
    text = torch.full((1, NUM_UNITS, config.agent_text_slots), config.pad_token_id)
    text[0, NUM_UNITS - 1 - more :, 0] = 5
    return DuplexBatch(
        prompt_ids=torch.tensor([[7, 8]]),
        user_audio=torch.rand(1, 1, NUM_UNITS * 3840, generator=generator) - 0.5,
        user_frames=torch.rand(1, 3, NUM_UNITS, 16, 32, generator=generator) * 2 - 1,
        user_text=torch.zeros(1, NUM_UNITS, config.user_text_slots, dtype=torch.int64),
        state=torch.full((1, NUM_UNITS), config.state_token_ids[seed % 2]),
        agent_text=text,
        valid=torch.arange(NUM_UNITS)[None] >= (more + 1 if more else 0),
        audio_latents=torch.randn(
            1, config.audio_latent_channels, NUM_UNITS * config.audio_latents_per_unit, generator=generator
        ),
        video_latents=torch.randn(1, config.video_latent_channels, NUM_UNITS, *grid, generator=generator),
    )


def train(folder, training, layout):
    losses = Losses()
    trainer = build_trainer(folder, NUM_STEPS, None, [losses], **LAYOUTS[layout])
    fit(trainer, folder, training, Rows(training.streamer.config, 1 if layout == "alone" else 2))
    own_numbers = sum(getattr(p, "to_local", lambda p=p: p)().numel() for p in training.streamer.parameters())
    result = {"losses": losses.values, "weights": gather_weights(training.streamer), "own_numbers": own_numbers}
    return result if trainer.is_global_zero else None


def main(folder: Path, layout: str) -> None:
    torch.set_num_threads(1)
    pipeline = tiny_pipeline()
    parts = [part.train() for part in (pipeline.streamer, pipeline.audio_encoder, pipeline.video_encoder)]
    teacher = DuplexTraining(*deepcopy(parts), 1e-2, NUM_STEPS, **QUIET)
    kind = Sharded if layout == "shards" else Alone
    results = {"stage2": train(folder / "stage2", kind(*parts, 1e-2, NUM_STEPS, **QUIET), layout)}
    if layout != "shards":
        student = Distilled(deepcopy(teacher.streamer), teacher, 1e-2, NUM_STEPS, teacher_steps=2, num_steps=1)
        results["stage3"] = train(folder / "stage3", student, layout)
    if results["stage2"]:
        torch.save(results, folder / "result.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
