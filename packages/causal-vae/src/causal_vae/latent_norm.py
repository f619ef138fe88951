"""Latent statistics: constants of the weights that stay with the weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .distributions import DiagonalGaussian


class LatentNorm(nn.Module):
    """Per-channel mean and standard deviation of a VAE's raw latents, stored in its weights (channels on axis 1)."""

    mean: Tensor
    std: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("std", torch.ones(channels))

    def standardize(self, posterior: DiagonalGaussian) -> DiagonalGaussian:
        mean, std = (self._broadcast(value, posterior.mean) for value in (self.mean, self.std))
        return DiagonalGaussian((posterior.mean - mean) / std, posterior.log_variance - 2 * std.log())

    def restore(self, latents: Tensor) -> Tensor:
        return latents * self._broadcast(self.std, latents) + self._broadcast(self.mean, latents)

    @torch.no_grad()
    def fit(self, latents: Tensor) -> None:
        """Take the statistics of `latents`, standardised by the current ones, as the new ones: (N, C, ...)."""
        per_channel = self.restore(latents).transpose(0, 1).flatten(1)
        self.mean.copy_(per_channel.mean(dim=1))
        self.std.copy_(per_channel.std(dim=1).clamp(min=1e-3))

    @staticmethod
    def _broadcast(value: Tensor, like: Tensor) -> Tensor:
        return value.view(1, -1, *[1] * (like.dim() - 2))
