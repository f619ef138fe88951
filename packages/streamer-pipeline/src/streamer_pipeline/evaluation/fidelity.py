"""How much of sound and picture a checkpoint's VAEs keep. Metrics whose package is missing are left out."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from causal_vae import LogMel
from scipy.signal import resample_poly
from torch import Tensor

from ..units import SAMPLE_RATE
from .statistics import Score, mean

_FRAMES_BETWEEN = 8  # SSIM is slow: every eighth frame is compared


class Fidelity:
    """Gathers comparisons of recordings with their reconstructions."""

    def __init__(self) -> None:
        self._values: dict[str, list[float]] = {}
        self._log_mel = LogMel(SAMPLE_RATE, num_mels=80, window_size=960, fft_size=1024, hop_length=240)

    def add(self, audio: Tensor, heard: Tensor, video: Tensor | None, seen: Tensor | None) -> None:
        """One dyad: audio (1, N) and video (3, T, H, W) or None as recorded, and as they came back."""
        if video is not None and seen is not None:
            self._note("psnr", _psnr(video, seen))
            self._note("ssim", _ssim(video[:, ::_FRAMES_BETWEEN], seen[:, ::_FRAMES_BETWEEN]))
        if not (audio.abs() > 0.01).any():
            return
        mels = [self._log_mel(wave[None])[0] for wave in (audio, heard)]
        self._note("mel", (mels[0] - mels[1]).abs().mean().item())
        waves = [resample_poly(wave[0].numpy(), 2, 3) for wave in (audio, heard)]  # 16 kHz
        self._note("pesq", _pesq(*waves))
        self._note("stoi", _stoi(*waves))

    def _note(self, name: str, value: float | None) -> None:
        if value is not None:
            self._values.setdefault(f"media.{name}", []).append(value)

    def scores(self) -> dict[str, Score]:
        """Means over dyads."""
        return {name: mean(values) for name, values in self._values.items()}


def _psnr(video: Tensor, seen: Tensor) -> float:
    """Of pixels in [-1, 1], in dB."""
    return float(10 * torch.log10(4 / (video - seen).square().mean().clamp(min=1e-12)))


def _ssim(video: Tensor, seen: Tensor) -> float | None:
    try:
        from torchmetrics.functional.image import structural_similarity_index_measure
    except ImportError:
        return None
    ssim: Any = structural_similarity_index_measure(seen.transpose(0, 1), video.transpose(0, 1), data_range=2.0)
    return float(ssim)


def _pesq(wave: np.ndarray, heard: np.ndarray) -> float | None:
    try:
        from pesq import PesqError, pesq
    except ImportError:
        return None
    score = pesq(16_000, wave, heard, "wb", on_error=PesqError.RETURN_VALUES)
    return float(score) if score >= 0 else None


def _stoi(wave: np.ndarray, heard: np.ndarray) -> float | None:
    try:
        from pystoi import stoi
    except ImportError:
        return None
    return float(stoi(wave, heard, 16_000))
