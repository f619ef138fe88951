"""How fast a training is: units per second, and the share of the machine's peak that its arithmetic reaches."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from ..data.duplex_batch import DuplexBatch
from .flops import count_flops, matmul_probe

_BACKWARD = 2  # a backward pass has two products where the forward pass has one
_PROBES = 5


class Throughput(Callback):
    """Logs `train/units_per_second` and `train/peak_share`, over all processes.

    A step's FLOPs are three times those of its forward pass, counted once for each kind of batch. The peak is what a
    large matrix product reaches in the same precision on the same device, measured when training begins.
    """

    def __init__(self, losses: Callable[[DuplexBatch], Any]) -> None:
        self._losses = losses
        self._flops: dict[tuple[int, ...], float] = {}
        self._peak = 0.0
        self._started = 0.0

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        dtype = torch.bfloat16 if "bf16" in str(trainer.precision) else torch.float32
        self._peak = measured_peak(module.device, dtype)

    def on_train_batch_start(
        self, trainer: Trainer, module: LightningModule, batch: DuplexBatch, batch_index: int
    ) -> None:
        if (kind := _kind(batch)) not in self._flops:
            with torch.random.fork_rng(), torch.no_grad(), trainer.precision_plugin.forward_context():
                self._flops[kind] = (1 + _BACKWARD) * count_flops(lambda: self._losses(batch))
            torch.clear_autocast_cache()
        self._started = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: DuplexBatch, batch_index: int
    ) -> None:
        if module.device.type == "cuda":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - self._started
        kind = "language" if batch.audio_latents is None else "media"
        units = batch.state.numel() * trainer.world_size
        share = self._flops[_kind(batch)] / seconds / self._peak
        rates = {f"train/{kind}_units_per_second": units / seconds, f"train/{kind}_peak_share": share}
        module.log_dict(rates, batch_size=len(batch.state))


def _kind(batch: DuplexBatch) -> tuple[int, ...]:
    return (*batch.state.shape, batch.prompt_ids.shape[1], batch.audio_latents is not None)


def measured_peak(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of a large matrix product, the best of some."""
    product, flops = matmul_probe(dtype, 1024 if device.type == "cpu" else 8192, device)
    best = float("inf")
    for _ in range(_PROBES):
        started = time.perf_counter()
        product()
        if device.type == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - started)
    return flops / best
