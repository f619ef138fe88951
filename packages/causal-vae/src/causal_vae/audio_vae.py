"""A strictly causal audio VAE: log-mel analysis, ConvNeXt layers, an inverse-STFT head. One file, top to bottom.

24 kHz mono <-> 4 latents of 16 channels per 160 ms unit (25 Hz). No look-ahead and no added delay.

Shape legend: B session, T samples, F = T / 240 frames (100 Hz), L = T / 960 latents (25 Hz), C latent channels.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from diffusers.utils.accelerate_utils import apply_forward_hook
from torch import Tensor, nn

from .distributions import DiagonalGaussian
from .hub.loading import CheckedLoading
from .latent_norm import LatentNorm
from .layers import CausalConv1d, bias_of
from .spec import StreamSpec, per_unit
from .spectral import InverseSTFT, LogMel
from .streaming import State, StreamingModule, StreamingSequential, substates


class CausalConvNeXt(StreamingModule):
    """Causal ConvNeXt block (Liu et al. 2022) over (B, C, T): depthwise conv in time, then a channel MLP."""

    def __init__(self, channels: int, hidden_channels: int, kernel_size: int = 7) -> None:
        super().__init__()
        self.depthwise = CausalConv1d(channels, channels, kernel_size, groups=channels)
        self.norm = nn.LayerNorm(channels)
        self.expand = nn.Linear(channels, hidden_channels)
        self.project = nn.Linear(hidden_channels, channels)
        self.scale = nn.Parameter(torch.full((channels,), 0.3))

    def chunk_shape(self) -> tuple[int, ...]:
        return self.depthwise.chunk_shape()

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        y, past = self.depthwise(x, state)
        y = self.project(F.gelu(self.expand(self.norm(y.transpose(1, 2)))))
        return x + (self.scale * y).transpose(1, 2), past


class Standardize(nn.Module):
    """Bring log-mel values (about -7 to 1) near zero mean and unit variance."""

    def forward(self, x: Tensor) -> Tensor:
        return (x + 3) / 2


class TimeShuffle(nn.Module):
    """(B, C * factor, T) -> (B, C, T * factor): channels become steps, the 1-D form of pixel shuffle."""

    def __init__(self, factor: int) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return x.unflatten(1, (-1, self.factor)).transpose(2, 3).flatten(2)


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of (B, C, T)."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.transpose(1, 2)).transpose(1, 2)


class AudioEncoder(StreamingSequential):
    """(B, 1, T) -> posterior parameters (B, 2C, L)."""

    def __init__(self, config: dict[str, Any]) -> None:
        dim, ratio = config["encoder_dim"], config["frames_per_latent"]
        blocks = [CausalConvNeXt(dim, 2 * dim) for _ in range(config["encoder_depth"])]
        latent_blocks = [CausalConvNeXt(dim, 2 * dim, 5) for _ in range(config["encoder_depth"])]
        super().__init__(
            LogMel(config["sample_rate"], config["num_mels"], 3 * config["hop_length"], 1024, config["hop_length"]),
            Standardize(),
            CausalConv1d(config["num_mels"], dim, 5),
            *blocks,
            CausalConv1d(dim, dim, ratio, stride=ratio),
            *latent_blocks,
            CausalConv1d(dim, 2 * config["latent_channels"], 1),
        )


class AudioDecoder(StreamingSequential):
    """Latents (B, C, L) -> waveform (B, 1, T)."""

    def __init__(self, latent_channels: int, dim: int, depth: int, frames_per_latent: int, hop_length: int) -> None:
        hidden = 2 * dim
        head = CausalConv1d(dim, 2 * (hop_length + 1), 1)
        # Start quiet: spectra of a full-scale start cost the first hundreds of steps.
        nn.init.constant_(bias_of(head.conv)[: hop_length + 1], -1.2)
        super().__init__(
            CausalConv1d(latent_channels, dim, 3),
            CausalConvNeXt(dim, hidden, 5),
            TimeUpsample(dim, frames_per_latent),
            *[CausalConvNeXt(dim, hidden) for _ in range(depth)],
            ChannelNorm(dim),
            head,
            InverseSTFT(hop_length),
        )


class TimeUpsample(StreamingModule):
    """(B, C, T) -> (B, C, T * factor) by one linear map per step; it has no memory beyond an empty state."""

    def __init__(self, channels: int, factor: int) -> None:
        super().__init__()
        self.upsample = factor
        self.conv = CausalConv1d(channels, channels * factor, 1)
        self.shuffle = TimeShuffle(factor)

    def chunk_shape(self) -> tuple[int, ...]:
        return self.conv.chunk_shape()

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        y, past = self.conv(x, state)
        return self.shuffle(y), past


class CausalAudioVAE(CheckedLoading, ModelMixin, StreamingModule, ConfigMixin):
    """Continuous audio latents for a live stream: (B, 1, T) <-> (B, latent_channels, T / samples_per_latent).

    Latents are standardised: encoder and decoder share the mean and standard deviation that live with the weights,
    so a latent outside this class is always near zero mean and unit variance (report, section 2.1: latent coding).

    `forward(x, state)` reconstructs from the posterior's mode; `encode` and `decode` are the two halves.

    Raises:
        ValueError: a field of the config is not of its type or range.
    """

    floors: ClassVar[dict[str, int]] = {"encoder_depth": 0, "decoder_depth": 0}

    @register_to_config
    def __init__(
        self,
        sample_rate: int = 24000,
        hop_length: int = 240,
        num_mels: int = 80,
        frames_per_latent: int = 4,
        latent_channels: int = 16,
        encoder_dim: int = 128,
        encoder_depth: int = 2,
        decoder_dim: int = 192,
        decoder_depth: int = 4,
    ) -> None:
        super().__init__()
        self.encoder = AudioEncoder(self.config)
        self.decoder = AudioDecoder(latent_channels, decoder_dim, decoder_depth, frames_per_latent, hop_length)
        self.latent_norm = LatentNorm(latent_channels)
        self.stride = self.upsample = self.samples_per_latent

    @property
    def samples_per_latent(self) -> int:
        return self.config.hop_length * self.config.frames_per_latent

    @property
    def stream_spec(self) -> StreamSpec:
        rate = self.config.sample_rate
        return StreamSpec(
            sample_rate=rate,
            audio_latents_per_unit=per_unit(rate, self.samples_per_latent),
            audio_latent_channels=self.config.latent_channels,
        )

    def chunk_shape(self) -> tuple[int, ...]:
        return 1, self.stride

    @apply_forward_hook
    def encode(self, audio: Tensor, state: State | None = None) -> tuple[DiagonalGaussian, State]:
        """Audio (B, 1, T), T a multiple of `samples_per_latent` -> posterior over latents (B, C, L), next state."""
        parameters, state = self.encoder(audio, state)
        return self.latent_norm.standardize(DiagonalGaussian.from_parameters(parameters)), state

    @apply_forward_hook
    def decode(self, latents: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Latents (B, C, L) -> audio (B, 1, L * samples_per_latent), next state."""
        return self.decoder(self.latent_norm.restore(latents), state)

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        past, new = substates(state), {}
        posterior, new["encoder"] = self.encode(x, past["encoder"])
        audio, new["decoder"] = self.decode(posterior.mode(), past["decoder"])
        return audio, new
