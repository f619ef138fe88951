"""Small renderers made for the 160 ms budget: standardised VAE latents -> media, distilled from the VAE's own decoder.

They are the VAE's decoders with less width, so what there is to know about their layers stands there. The latents'
statistics need no place here: latents arrive standardised, and the first convolution learns the rest.

Shape legend: B session, L audio latents, U units, C latent channels, H x W pixels.
"""

from __future__ import annotations

from typing import ClassVar

from causal_vae import AudioDecoder, CheckedLoading, State, StreamingModule, StreamSpec, VideoDecoder, per_unit
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor


class CausalAudioDecoder(CheckedLoading, ModelMixin, StreamingModule, ConfigMixin):
    """Audio latents (B, C, L) -> waveform (B, 1, L * frames_per_latent * hop_length) at `sample_rate`.

    The first four arguments are those of the audio VAE whose latents it renders.

    Raises:
        ValueError: a field of the config is not of its type or range.
    """

    floors: ClassVar[dict[str, int]] = {"depth": 0}

    @register_to_config
    def __init__(
        self,
        sample_rate: int = 24_000,
        hop_length: int = 240,
        frames_per_latent: int = 4,
        latent_channels: int = 16,
        dim: int = 160,
        depth: int = 3,
    ) -> None:
        super().__init__()
        self.decoder = AudioDecoder(latent_channels, dim, depth, frames_per_latent, hop_length)
        self.upsample = frames_per_latent * hop_length

    @property
    def stream_spec(self) -> StreamSpec:
        rate = self.config.sample_rate
        return StreamSpec(
            sample_rate=rate,
            audio_latents_per_unit=per_unit(rate, self.upsample),
            audio_latent_channels=self.config.latent_channels,
        )

    def chunk_shape(self) -> tuple[int, ...]:
        return self.config.latent_channels, 1

    def forward(self, latents: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Latents (B, C, L) -> audio (B, 1, L * upsample), next state."""
        return self.decoder(latents, state)


class CausalVideoDecoder(CheckedLoading, ModelMixin, StreamingModule, ConfigMixin):
    """Video latents (B, C, U, H / s, W / s) -> video (B, 3, 4 U, H, W), not clamped.

    The first three arguments are those of the video VAE whose latents it renders; s is 8 times both spatial strides.

    Raises:
        ValueError: a field of the config is not of its type or range.
    """

    floors: ClassVar[dict[str, int]] = {"depth": 0}

    @register_to_config
    def __init__(
        self,
        frames_per_latent: int = 4,
        spatial_strides: tuple[int, int] = (3, 2),
        latent_channels: int = 32,
        latent_width: int = 96,
        cell_channels: int = 64,
        fine_channels: int = 24,
        depth: int = 2,
        picture_size: tuple[int, int] = (192, 336),
    ) -> None:
        super().__init__()
        self.decoder = VideoDecoder(
            latent_channels,
            frames_per_latent,
            spatial_strides,
            latent_width,
            cell_channels,
            fine_channels,
            depth,
            picture_size,
        )
        self.upsample = frames_per_latent

    @property
    def stream_spec(self) -> StreamSpec:
        return StreamSpec(
            frames_per_latent=self.upsample,
            video_latent_channels=self.config.latent_channels,
            pixels_per_cell=self.decoder.pixels_per_cell,
        )

    def chunk_shape(self, height: int, width: int) -> tuple[int, ...]:
        """`height` and `width` count latent cells."""
        return self.config.latent_channels, 1, height, width

    def forward(self, latents: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Latents (B, C, U, h, w) -> video (B, 3, 4 U, H, W), next state."""
        return self.decoder(latents, state)
