"""From the pipeline's 24 kHz to the 16 kHz that public speech models hear."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from causal_vae import State, StreamingModule
from torch import Tensor


class ResampleTo16k(StreamingModule):
    """Waveform (B, 1, T) at 24 kHz -> (B, 1, 2 T / 3) at 16 kHz, one millisecond late. State: a few last samples.

    A windowed sinc at 48 kHz, of whose products only those that are not zero are taken: every three samples give two.
    """

    stride, upsample = 3, 2
    kernel: Tensor

    def __init__(self, half_width: int = 48, cutoff: float = 7_600.0) -> None:
        super().__init__()
        # Tap m of the filter meets the 24 kHz sample that lies m / 48 kHz before the output; every other one is there.
        times = torch.arange(-half_width, half_width + 1, dtype=torch.float64) / 48_000
        window = torch.kaiser_window(len(times), periodic=False, beta=8.0, dtype=torch.float64)
        taps = torch.sinc(2 * cutoff * times) * window
        # The two outputs of a chunk lie 3 / 48 kHz and 0 before its last sample: taps 1, 3, ... and 0, 2, ...
        early, late = taps[1::2], taps[::2]
        kernel = torch.zeros(2, 1, len(late) + 1, dtype=torch.float64)
        kernel[0, 0, : len(early)] = early.flip(0) / early.sum()
        kernel[1, 0, 1:] = late.flip(0) / late.sum()
        self.register_buffer("kernel", kernel.float())

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        self.check_length(x)
        num_past = self.kernel.shape[2] - self.stride
        past = x.new_zeros(len(x), 1, num_past) if state is None else state
        x = torch.cat([past, x], dim=2)
        y = F.conv1d(x, self.kernel, stride=self.stride).transpose(1, 2).flatten(1)[:, None]
        return y, x[:, :, x.shape[2] - num_past :].clone(memory_format=torch.contiguous_format)
