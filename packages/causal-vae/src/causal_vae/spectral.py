"""Short-time spectra as streams: a log-mel analysis without look-ahead and an overlap-add synthesis without delay."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .layers import _extend
from .streaming import State, StreamingModule


def mel_filterbank(num_mels: int, fft_size: int, sample_rate: int, min_hz: float = 40.0) -> Tensor:
    """Triangular filters on the HTK mel scale, each with unit sum: (num_mels, fft_size // 2 + 1)."""
    low, high = (2595 * math.log10(1 + hz / 700) for hz in (min_hz, sample_rate / 2))
    edges = 700 * (10 ** (torch.linspace(low, high, num_mels + 2, dtype=torch.float64) / 2595) - 1)
    bins = torch.linspace(0, sample_rate / 2, fft_size // 2 + 1, dtype=torch.float64)
    width = edges.diff()
    rising = (bins - edges[:-2, None]) / width[:-1, None]
    falling = (edges[2:, None] - bins) / width[1:, None]
    triangles = torch.minimum(rising, falling).clamp(min=0)
    return (triangles / triangles.sum(dim=1, keepdim=True).clamp(min=1e-9)).float()


class LogMel(StreamingModule):
    """Waveform (B, 1, T) -> log-mel (B, num_mels, T / hop). Frame k ends exactly where hop k ends: no look-ahead.

    State: the last `window - hop` samples.
    """

    window: Tensor
    filterbank: Tensor

    def __init__(self, sample_rate: int, num_mels: int, window_size: int, fft_size: int, hop_length: int) -> None:
        super().__init__()
        self.stride, self.fft_size, self.window_size = hop_length, fft_size, window_size
        self.register_buffer("window", torch.hann_window(window_size), persistent=False)
        self.register_buffer("filterbank", mel_filterbank(num_mels, fft_size, sample_rate), persistent=False)

    def chunk_shape(self) -> tuple[int, ...]:
        return 1, self.stride

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        self.check_length(x)
        x, past = _extend(x, state, self.window_size - self.stride)
        frames = x[:, 0].unfold(1, self.window_size, self.stride) * self.window
        magnitude = torch.fft.rfft(frames.float(), self.fft_size).abs().to(x)  # there is no transform of half precision
        return torch.log(self.filterbank @ magnitude.transpose(1, 2) + 1e-3), past


class InverseSTFT(StreamingModule):
    """Log-magnitude and phase (B, 2 * (hop + 1), T) -> waveform (B, 1, T * hop), window twice the hop.

    Frame k covers hops k and k + 1, so hop k is complete as soon as frame k is known: causal, with no delay
    (as in Vocos' head, Siuzdak 2023, but not centred). State: the second half of the last frame.
    """

    def __init__(self, hop_length: int) -> None:
        super().__init__()
        self.upsample = hop_length
        self.register_buffer("window", torch.hann_window(2 * hop_length), persistent=False)

    def chunk_shape(self) -> tuple[int, ...]:
        return 2 * (self.upsample + 1), 1

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        self.check_length(x)
        hop = self.upsample
        log_magnitude, phase = x.float().transpose(1, 2).chunk(2, dim=2)  # there is no transform of half precision
        spectrum = torch.polar(log_magnitude.clamp(max=5).exp(), phase)
        frames = (
            torch.fft.irfft(spectrum, 2 * hop).to(x) * self.window
        )  # (B, T, 2 * hop); Hann at half overlap sums to one
        early, late = frames.split(hop, dim=2)
        carried = early.new_zeros(early.shape[0], hop) if state is None else state
        wave = early + torch.cat([carried[:, None], late[:, :-1]], dim=1)
        return wave.flatten(1)[:, None], late[:, -1].clone(memory_format=torch.contiguous_format)
