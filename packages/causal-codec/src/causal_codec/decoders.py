"""Latents to media within the budget of a unit: small causal decoders, distilled from a VAE's own decoder."""

from __future__ import annotations

from causal_vae import AudioDecoder, CheckedLoading, State, StreamingModule, VideoDecoder
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor


class CausalAudioDecoder(CheckedLoading, ModelMixin, StreamingModule, ConfigMixin):
    """Standardised audio latents (B, C, L) -> waveform (B, 1, L * hop_length * frames_per_latent)."""

    @register_to_config
    def __init__(
        self,
        latent_channels: int = 16,
        dim: int = 160,
        depth: int = 3,
        frames_per_latent: int = 4,
        hop_length: int = 240,
    ) -> None:
        super().__init__()
        self.decoder = AudioDecoder(latent_channels, dim, depth, frames_per_latent, hop_length)
        self.stride, self.upsample = self.decoder.stride, self.decoder.upsample

    def chunk_shape(self) -> tuple[int, ...]:
        return self.decoder.chunk_shape()

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        return self.decoder(x, state)


class CausalVideoDecoder(CheckedLoading, ModelMixin, StreamingModule, ConfigMixin):
    """Standardised video latents (B, C, U, h, w) -> video (B, 3, U * frames_per_latent, H, W), not clamped."""

    @register_to_config
    def __init__(
        self,
        latent_channels: int = 32,
        frames_per_latent: int = 4,
        spatial_strides: tuple[int, int] = (3, 2),
        latent_width: int = 112,
        cell_channels: int = 64,
        fine_channels: int = 24,
        depth: int = 2,
    ) -> None:
        super().__init__()
        self.decoder = VideoDecoder(
            latent_channels, frames_per_latent, tuple(spatial_strides), latent_width, cell_channels, fine_channels, depth
        )
        self.upsample = frames_per_latent

    def chunk_shape(self, height: int, width: int) -> tuple[int, ...]:
        return self.decoder.chunk_shape(height, width)

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        return self.decoder(x, state)
