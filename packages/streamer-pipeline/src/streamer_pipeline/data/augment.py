"""The user's side once more: another microphone, another camera, what a browser does to both. Training data only.

All draw from torch's global random numbers, which `EndlessBatches` seeds for every batch.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

CLEANED_SHARE = 0.4  # of windows whose microphone suppresses noise, as browsers' do
_HOP = 240  # samples over which a microphone's level is taken


def vary_microphone(audio: Tensor) -> Tensor:
    """Another microphone and level for (N,) in [-1, 1]: random gain, a smooth random equaliser, some noise, which some
    suppress."""
    spectrum = torch.fft.rfft(audio)
    curve = torch.nn.functional.interpolate(torch.randn(1, 1, 10) * 4, len(spectrum), mode="linear")[0, 0]  # dB
    wave = torch.fft.irfft(
        spectrum * torch.exp(curve * (math.log(10) / 20) + torch.empty(()).uniform_(-0.9, 0.7)), len(audio)
    )
    wave.add_(torch.randn(len(audio)), alpha=10 ** float(torch.empty(()).uniform_(-4, -2.3)))
    if torch.rand(()) < CLEANED_SHARE:
        wave = suppress_noise(wave)
    return wave.clamp_(-1, 1)


def suppress_noise(audio: Tensor) -> Tensor:
    """What a browser's noise suppression leaves of (N,), N a multiple of 240: speech, with its quiet parts and the
    pauses between words pressed down to near nothing."""
    power = audio.view(-1, _HOP).square().mean(1)
    peak, floor = torch.quantile(power, 0.98), torch.quantile(power, 0.2)
    threshold = torch.maximum(8 * floor, peak * 10 ** float(torch.empty(()).uniform_(-3.5, -2)))
    gain = (power / threshold).clamp(min=1e-4, max=1.0)
    gain = torch.nn.functional.avg_pool1d(gain[None], 3, 1, 1)[0]
    return audio * torch.nn.functional.interpolate(gain[None, None], len(audio), mode="linear")[0, 0]


def vary_camera(frames: Tensor) -> Tensor:
    """Another camera for frames (K, 3, h, w) in [-1, 1], one for all of them: place, distance, tilt, perhaps a mirror,
    brightness, contrast and sensor noise. Colours keep their names."""
    tilt, scale = torch.empty(()).uniform_(-0.12, 0.12), torch.empty(2).uniform_(0.85, 1.1)
    mirror = 1 if torch.rand(()) < 0.5 else -1
    aspect = frames.shape[3] / frames.shape[2]
    rotation = torch.stack([tilt.cos(), -tilt.sin() / aspect, tilt.sin() * aspect, tilt.cos()]).view(2, 2)
    matrix = rotation * scale[:, None] * torch.tensor([mirror, 1.0])
    shift = torch.stack([torch.empty(()).uniform_(-0.15, 0.15), torch.empty(()).uniform_(-0.1, 0.1)])
    placed = torch.cat([matrix, shift[:, None]], 1)[None]
    grid = torch.nn.functional.affine_grid(placed, [1, 3, *frames.shape[2:]], align_corners=False)
    frames = torch.nn.functional.grid_sample(
        frames.flatten(0, 1)[None], grid, padding_mode="border", align_corners=False
    ).view_as(frames)
    contrast, brightness = torch.empty(()).uniform_(0.85, 1.1), torch.empty(()).uniform_(-0.1, 0.1)
    noise = 0.03 * torch.randn(frames.shape[1:])  # one pattern, moved from frame to frame: random numbers are dear
    moved = torch.stack([noise.roll(int(shift), -1) for shift in torch.randint(noise.shape[-1], (len(frames),))])
    return moved.add_(brightness).addcmul_(frames, contrast).clamp_(-1, 1)
