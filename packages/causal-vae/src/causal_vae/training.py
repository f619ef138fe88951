"""Training of either VAE with Lightning, and what every training here shares (extra `[train]`)."""

from __future__ import annotations

import csv
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator
from datetime import timedelta
from itertools import count
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback, EMAWeightAveraging, ModelCheckpoint, RichProgressBar
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.strategies import ModelParallelStrategy, Strategy
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler

from .audio_vae import CausalAudioVAE
from .video_vae import CausalVideoVAE


def cosine_with_warmup(step: int, max_steps: int, num_warmup_steps: int = 50, floor: float = 0.03) -> float:
    """Learning-rate factor: linear warm-up, then half a cosine down to `floor`."""
    if step < num_warmup_steps:
        return (step + 1) / num_warmup_steps
    progress = min(1.0, step / max_steps)
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress))


def adamw_with_cosine(
    parameters: Iterable[nn.Parameter] | Iterable[dict[str, Any]],
    learning_rate: float,
    max_steps: int,
    betas: tuple[float, float] = (0.8, 0.98),
    weight_decay: float = 1e-3,
    num_warmup_steps: int = 50,
) -> OptimizerLRSchedulerConfig:
    """What Lightning's `configure_optimizers` returns: AdamW under `cosine_with_warmup`, stepped with every batch."""
    optimizer = torch.optim.AdamW(parameters, learning_rate, betas=betas, weight_decay=weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: cosine_with_warmup(step, max_steps, num_warmup_steps)
    )
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class VAETraining(lightning.LightningModule):
    """One training loop for both VAEs: reconstruct from a posterior sample, pay for its information.

    Batches are media alone: (B, 1, T) audio or (B, 3, T, H, W) video.

    Args:
        vae: the model; after `fit`, `export` makes its latents standard and saves it.
        reconstruction_loss: (reconstruction, target) -> named terms that are summed.
        kl_weight: weight of the KL divergence, in loss per nat and latent.
        latent_noise: largest standard deviation of noise that is added to the latents, drawn per clip: at serving they
            are a model's, never quite the encoder's.
    """

    hparams: Any

    def __init__(
        self,
        vae: CausalAudioVAE | CausalVideoVAE,
        reconstruction_loss: nn.Module,
        kl_weight: float,
        learning_rate: float,
        max_steps: int,
        latent_noise: float = 0.0,
    ) -> None:
        super().__init__()
        self.vae, self.reconstruction_loss = vae, reconstruction_loss
        self.save_hyperparameters(ignore=["vae", "reconstruction_loss"])

    def training_step(self, media: Tensor, batch_index: int) -> Tensor:
        posterior, _ = self.vae.encode(media)
        latents = posterior.sample(torch.randn_like(posterior.mean))
        level = self.hparams.latent_noise * torch.rand(len(latents), *[1] * (latents.ndim - 1), device=latents.device)
        latents = latents + level * torch.randn_like(latents)
        reconstruction, _ = self.vae.decode(latents)
        terms = self.reconstruction_loss(reconstruction, media)
        terms["kl"] = self.hparams.kl_weight * posterior.kl()
        loss = torch.stack(list(terms.values())).sum()
        self.log_dict({f"train/{name}": term for name, term in terms.items()})
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def validation_step(self, media: Tensor, batch_index: int) -> Tensor:
        """Logs the terms from the posterior's mode and returns the reconstruction, for callbacks that show it."""
        reconstruction, _ = self.vae(media)
        terms = self.reconstruction_loss(reconstruction, media)
        psnr = 10 * torch.log10(4 / (reconstruction - media).square().mean())
        self.log_dict({f"val/{name}": term for name, term in terms.items()} | {"val/psnr": psnr}, prog_bar=True)
        return reconstruction

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        return adamw_with_cosine(self.parameters(), self.hparams.learning_rate, self.hparams.max_steps)


@torch.no_grad()
def export_vae(vae: CausalAudioVAE | CausalVideoVAE, sample: list[Tensor], folder: Path) -> None:
    """Measure the latents' mean and standard deviation on `sample` (batches of media), then save to `folder`."""
    vae.eval()
    vae.latent_norm.fit(torch.cat([vae.encode(media)[0].mean.transpose(0, 1).flatten(1).T for media in sample]))
    vae.save_pretrained(folder)


class PlotMetrics(Callback):
    """Draws every logged metric over the steps into `metrics.png` of the run, after each validation and at the end.

    A step that was trained again, after an interruption, counts as it was the last time.
    """

    def __init__(self, run_folder: Path) -> None:
        self.run_folder = run_folder

    def on_validation_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        self._draw(trainer)

    def on_train_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        self._draw(trainer)

    def _draw(self, trainer: lightning.Trainer) -> None:
        from matplotlib.figure import Figure

        if trainer.logger:
            trainer.logger.save()
        series: dict[str, dict[int, float]] = defaultdict(dict)
        for row in self._rows():
            for name, value in row.items():
                if value and "/" in name:
                    series[name][int(row["step"])] = float(value)
        if not series:
            return
        columns = 4
        rows = max(1, math.ceil(len(series) / columns))
        figure = Figure(figsize=(4 * columns, 2.6 * rows), layout="constrained")
        for axes, (name, points) in zip(
            figure.subplots(rows, columns, squeeze=False).flat, sorted(series.items()), strict=False
        ):
            axes.plot(*zip(*sorted(points.items()), strict=True), linewidth=1)
            axes.set_title(name, fontsize=9)
        figure.savefig(self.run_folder / "metrics.png", dpi=80)

    def _rows(self) -> Iterator[dict[str, str]]:
        """What every part of the run logged, in order."""
        logs = self.run_folder.glob("metrics/version_*/metrics.csv")
        for log in sorted(logs, key=lambda path: int(path.parent.name.removeprefix("version_"))):
            with log.open() as file:
                yield from csv.DictReader(file)


def random_seed(seed: int, purpose: str, *key: int) -> int:
    """A seed for random numbers of some purpose, such as those of one step and process; no two share a number.

    Raises:
        ValueError: `seed` is negative.
    """
    if seed < 0:
        raise ValueError(f"seed must be 0 or more; got {seed}")
    spawn_key = int.from_bytes(purpose.encode()), *key
    return int(np.random.SeedSequence(seed, spawn_key=spawn_key).generate_state(1, np.uint64)[0])


class EndlessBatches(Dataset[Any]):
    """Batches that are drawn when they are asked for: `batches[step, rank]` depends on these two and `seed` alone.

    So a run that continues meets what it would have met without a break, and no two processes meet the same.
    """

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def draw(self, step: int, rank: int) -> Any:
        """The batch of a training step for one process, from torch's global random numbers, seeded for it."""
        raise NotImplementedError

    def __getitem__(self, index: tuple[int, int]) -> Any:
        step, rank = index
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(random_seed(self.seed, "batch", step, rank))
            return self.draw(step, rank)


class StepsToCome(Sampler[tuple[int, int]]):
    """The (step, rank) of every batch that this process of `trainer` has not trained on yet, in order."""

    def __init__(self, trainer: lightning.Trainer) -> None:
        self.trainer = trainer

    def __iter__(self) -> Iterator[tuple[int, int]]:
        rank = self.trainer.global_rank  # over all nodes; both are known once the checkpoint is restored
        return ((step, rank) for step in count(self.trainer.global_step))


class SeededNoise(Callback):
    """What a training step draws is a function of seed, step and process, and every validation draws the same."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_batch_start(self, trainer: lightning.Trainer, module: Any, batch: Any, batch_index: int) -> None:
        torch.manual_seed(random_seed(self.seed, "training", trainer.global_step, trainer.global_rank))

    def on_validation_batch_start(
        self, trainer: lightning.Trainer, module: Any, batch: Any, batch_index: int, dataloader_idx: int = 0
    ) -> None:
        torch.manual_seed(random_seed(self.seed, "validation", dataloader_idx, batch_index, trainer.global_rank))


class AveragedWeights(EMAWeightAveraging):
    """Lightning's average, handed to the model only when the last checkpoint is written: that keeps the weights, too.

    A run that continues goes on from its weights.
    """

    def on_train_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        pass

    def on_fit_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        super().on_train_end(trainer, module)


class LastCheckpoint(ModelCheckpoint):
    """`last.ckpt` in a folder: at most five minutes old, and of the last step when a run has ended."""

    def __init__(self, folder: Path) -> None:
        self.folder, every = folder, timedelta(minutes=5)
        super().__init__(folder, save_last=True, save_top_k=0, train_time_interval=every, enable_version_counter=False)

    def on_train_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        trainer.save_checkpoint(self.folder / "last.ckpt")  # Lightning does not if it has saved one before


def average_decay(max_steps: int) -> float:
    """Decay of the weights' average: over 500 steps, or a tenth of a shorter run, which must forget its start."""
    return min(0.998, max(0.0, 1 - 10 / max_steps))


def build_trainer(
    run_folder: Path,
    max_steps: int,
    validate_every: int | None = None,
    callbacks: list[Callback] | None = None,
    precision: Any = "32-true",
    devices: int = 1,
    strategy: str | Strategy = "auto",
    num_nodes: int = 1,
    seed: int = 0,
) -> lightning.Trainer:
    """A Trainer that is resumable (`checkpoints/last.ckpt`, at most 5 minutes old), averages weights and shows bars.

    Train with `fit`. `precision` is Lightning's; "bf16-mixed" pays off on processors that multiply bfloat16 in
    hardware. `devices`, `num_nodes` and `strategy` are Lightning's, too: of several devices (on a CPU: processes) every
    one draws its own batches. "fsdp2" shards what the module's `configure_model` says over all devices; sharded weights
    are not averaged. `seed` decides the noise that steps draw.
    """
    is_sharded = strategy == "fsdp2"
    if is_sharded:
        strategy = ModelParallelStrategy(devices * num_nodes, tensor_parallel_size=1, save_distributed_checkpoint=False)
    averaging = [] if is_sharded else [AveragedWeights(decay=average_decay(max_steps))]
    return lightning.Trainer(
        max_steps=max_steps,
        accelerator="auto",
        devices=devices,
        num_nodes=num_nodes,
        strategy=strategy,
        use_distributed_sampler=False,
        precision=precision,
        logger=CSVLogger(run_folder, name="metrics"),  # another file for each part of a run that was interrupted
        callbacks=[
            *averaging,
            SeededNoise(seed),
            LastCheckpoint(run_folder / "checkpoints"),
            RichProgressBar(),
            PlotMetrics(run_folder),
            *(callbacks or []),
        ],
        gradient_clip_val=1.0,
        val_check_interval=validate_every,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        log_every_n_steps=20,
    )


def resume_point(run_folder: Path) -> Path | None:
    """The newest checkpoint of an interrupted run, or None for a new one."""
    checkpoint = run_folder / "checkpoints" / "last.ckpt"
    return checkpoint if checkpoint.exists() else None


def fit(
    trainer: lightning.Trainer,
    run_folder: Path,
    training: lightning.LightningModule,
    batches: EndlessBatches,
    validation: DataLoader[Any] | list[DataLoader[Any]] | None = None,
    num_workers: int = 0,
) -> None:
    """Train on `batches`, from where the run stopped or from the start, to the trainer's `max_steps`.

    Args:
        num_workers: processes that draw batches ahead; the batches are the same however many there are.
    """
    loader = DataLoader(batches, batch_size=None, sampler=StepsToCome(trainer), num_workers=num_workers)
    trainer.fit(training, loader, validation, ckpt_path=resume_point(run_folder))
