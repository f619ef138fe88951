"""The posterior of a VAE's encoder."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class DiagonalGaussian:
    """A normal distribution per element: `mean` and `log_variance` of equal shape, channels on axis 1."""

    mean: Tensor
    log_variance: Tensor

    @classmethod
    def from_parameters(cls, parameters: Tensor) -> DiagonalGaussian:
        """Split (B, 2C, ...) into mean and log-variance, the latter kept within [-10, 4]."""
        mean, log_variance = parameters.chunk(2, dim=1)
        return cls(mean, log_variance.clamp(-10, 4))

    def mode(self) -> Tensor:
        return self.mean

    def sample(self, noise: Tensor) -> Tensor:
        """Reparameterised sample; `noise` is standard normal of the mean's shape."""
        return self.mean + torch.exp(0.5 * self.log_variance) * noise

    def kl(self) -> Tensor:
        """KL divergence to the standard normal in nats, per latent: summed over channels, averaged over the rest."""
        kl = 0.5 * (self.mean.square() + self.log_variance.exp() - 1 - self.log_variance)
        return kl.sum(dim=1).mean()
