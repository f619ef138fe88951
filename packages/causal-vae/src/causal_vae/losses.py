"""Reconstruction losses for latent coding: pure modules, (reconstruction, target) -> named terms."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .spectral import mel_filterbank


class AudioReconstructionLoss(nn.Module):
    """Multi-scale STFT loss (spectral convergence and log-magnitude, Yamamoto et al. 2020) plus a log-mel distance.

    Takes waveforms (B, 1, T). Phase is left to the overlap of the scales: no waveform term.
    """

    filterbank: Tensor

    def __init__(self, sample_rate: int = 24000, fft_sizes: tuple[int, ...] = (256, 512, 1024, 2048)) -> None:
        super().__init__()
        self.fft_sizes = fft_sizes
        for size in fft_sizes:
            self.register_buffer(f"window_{size}", torch.hann_window(size), persistent=False)
        self.register_buffer("filterbank", mel_filterbank(80, 1024, sample_rate), persistent=False)

    def forward(self, reconstruction: Tensor, target: Tensor) -> dict[str, Tensor]:
        convergence, log_magnitude = [], []
        for size in self.fft_sizes:
            ours, true = (self._magnitude(wave, size) for wave in (reconstruction, target))
            convergence.append((ours - true).norm() / true.norm().clamp(min=1.0))
            log_magnitude.append(F.l1_loss(torch.log(ours + 1e-2), torch.log(true + 1e-2)))
            if size == 1024:
                our_mel, true_mel = (torch.log(self.filterbank @ spectrum + 1e-3) for spectrum in (ours, true))
                mel = F.l1_loss(our_mel, true_mel)
        return {"stft": torch.stack(convergence).mean() + torch.stack(log_magnitude).mean(), "mel": mel}

    def _magnitude(self, wave: Tensor, size: int) -> Tensor:
        window = getattr(self, f"window_{size}")
        spectrum = torch.stft(wave[:, 0], size, size // 4, window=window, return_complex=True)
        return (spectrum.real.square() + spectrum.imag.square() + 1e-7).sqrt()  # abs() has no gradient at silence


class VideoReconstructionLoss(nn.Module):
    """Weighted squared error with L1, edge and motion terms over (B, 3, T, H, W).

    The squared error leads: under L1 alone the median picture is so strong an attractor that latents of a mostly still
    scene are given up early and never recovered; the other terms sharpen what it has found.

    Args:
        weight: (H, W) emphasis, mean about one (faces and mouths are few pixels), or None.
        sharpness: weight of the absolute terms of each frame.
        motion: weight of the absolute error of the change from frame to frame.
        seam: what a change between two latents' frames counts more: each latent has errors of its own, and where they
            meet a still face jumps.
        frames_per_latent: where the seams are.
    """

    weight: Tensor

    def __init__(
        self,
        weight: Tensor | None = None,
        sharpness: float = 0.1,
        motion: float = 0.1,
        seam: float = 1.0,
        frames_per_latent: int = 4,
    ) -> None:
        super().__init__()
        self.sharpness, self.motion, self.seam, self.frames_per_latent = sharpness, motion, seam, frames_per_latent
        self.register_buffer("weight", torch.ones(()) if weight is None else weight, persistent=False)

    def forward(self, reconstruction: Tensor, target: Tensor) -> dict[str, Tensor]:
        error = reconstruction - target
        weighted = error * self.weight
        motion = (error.diff(dim=2) * self.weight).abs().mean(dim=(0, 1, 3, 4))
        seams = motion[self.frames_per_latent - 1 :: self.frames_per_latent]
        return {
            "square": 10 * (error * weighted).mean(),
            "l1": self.sharpness * weighted.abs().mean(),
            "edge": self.sharpness * (weighted.diff(dim=3).abs().mean() + weighted.diff(dim=4).abs().mean()),
            "motion": self.motion * (motion.sum() + (self.seam - 1) * seams.sum()) / len(motion),
        }
