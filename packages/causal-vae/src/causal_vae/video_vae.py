"""A strictly causal video VAE: 4 frames -> 1 latent frame, always. One file, top to bottom.

What is unusual here: there is no special first frame (a still image is four equal frames), and nearly all the work is
two-dimensional. Four frames of 8 x 8 pixels fold into channels at the door; time is mixed once per direction, on the
latent grid, by one causal convolution that sees the past unit. Full resolution is touched by one thin layer only.
Every latent is drawn with errors of its own, and where two meet a still face would jump, six times a second. So each
unit also draws the frame before it as it would have, and carries over what was really shown there (`join_units`).
The mean picture of the data lives with the weights, so that latents and layers speak of what differs from it.

Shape legend: B session, T frames, U = T / 4 units, C latent channels, H x W pixels, h x w = H / 8 x W / 8 cells.
"""

from __future__ import annotations

from typing import Any, ClassVar, TypeVar, cast

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from diffusers.utils.accelerate_utils import apply_forward_hook
from torch import Tensor, nn

from .distributions import DiagonalGaussian
from .hub.loading import CheckedLoading
from .latent_norm import LatentNorm
from .layers import CausalConv3d, bias_of
from .spec import StreamSpec
from .streaming import State, StreamingModule, substates

PATCH_SIZE = 8
Conv = TypeVar("Conv", nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d)


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions over (N, C, h, w) around a norm over channels; starts as the identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(channels, 1, 1))
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.zeros_(self.conv2.weight)
        nn.init.zeros_(bias_of(self.conv2))

    def forward(self, x: Tensor) -> Tensor:
        y = x * torch.rsqrt(x.square().mean(dim=1, keepdim=True) + 1e-6) * self.scale
        return x + self.conv2(F.silu(self.conv1(F.silu(y))))


def keep_scale(conv: Conv) -> Conv:
    """Initialise a layer of the trunk so that it neither shrinks nor grows its signal; torch's default shrinks it.

    Through the dozen layers between pixels and pixels the default leaves latents too faint to be learned from.
    """
    fan_in = conv.in_channels if isinstance(conv, nn.ConvTranspose2d) else conv.weight[0].numel()
    nn.init.normal_(conv.weight, std=fan_in**-0.5)
    nn.init.zeros_(bias_of(conv))
    return conv


class MeanPicture(nn.Module):
    """The mean frame of the data, a constant of the weights: (1, 3, 1, H, W), resized to whatever is asked for."""

    mean: Tensor

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(1, 3, 1, *size))

    def forward(self, height: int, width: int) -> Tensor:
        if self.mean.shape[3:] == (height, width):
            return self.mean
        return F.interpolate(self.mean[:, :, 0].float(), (height, width), mode="bilinear", antialias=True)[
            :, :, None
        ].to(self.mean)


class PositionEmbedding(nn.Module):
    """Adds a learned function of the normalised place in the picture, for any height and width.

    A talking head is mostly where it was: knowing the place spares the latents from spelling out what never moves.
    """

    def __init__(self, channels: int, num_frequencies: int = 8) -> None:
        super().__init__()
        self.num_frequencies = num_frequencies
        first, last = nn.Conv2d(4 * num_frequencies, 2 * channels, 1), nn.Conv2d(2 * channels, channels, 1)
        self.mlp = nn.Sequential(first, nn.SiLU(), last)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(bias_of(last))

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        rows = torch.linspace(0, 1, height, device=x.device, dtype=x.dtype)
        columns = torch.linspace(0, 1, width, device=x.device, dtype=x.dtype)
        grid = torch.stack(torch.meshgrid(rows, columns, indexing="ij"))  # (2, h, w)
        frequencies = torch.pi * torch.arange(1, self.num_frequencies + 1, device=x.device, dtype=x.dtype)
        angles = (grid[:, None] * frequencies[:, None, None]).flatten(0, 1)
        return x + self.mlp(torch.cat([angles.sin(), angles.cos()])[None])


def fold_units(video: Tensor, frames_per_unit: int) -> Tensor:
    """(B, 3, T, H, W) -> (B * U, frames * 3 * 64, h, w): one picture-like tensor per unit."""
    units = video.unflatten(2, (-1, frames_per_unit)).permute(0, 2, 3, 1, 4, 5)  # (B, U, frames, 3, H, W)
    return F.pixel_unshuffle(units.flatten(0, 1).flatten(1, 2), PATCH_SIZE)


def unfold_units(pictures: Tensor, batch_size: int, frames_per_unit: int, patch_size: int) -> Tensor:
    """The inverse of `fold_units`, from cells of any patch size: (B * U, frames * 3 * p * p, h, w) -> (B, 3, T, H, W).

    One permutation straight into the video's layout: a pixel shuffle and a second permutation cost a third more.
    """
    height, width = pictures.shape[2:]
    cells = pictures.view(batch_size, -1, frames_per_unit, 3, patch_size, patch_size, height, width)
    video = cells.permute(0, 3, 1, 2, 6, 4, 7, 5)
    return video.reshape(batch_size, 3, -1, height * patch_size, width * patch_size)


class VideoEncoder(StreamingModule):
    """(B, 3, T, H, W) -> posterior parameters (B, 2C, U, H / stride, W / stride)."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        width, wide = config["cell_channels"], config["latent_width"]
        inner, outer = config["spatial_strides"]
        self.frames_per_unit = self.stride = config["frames_per_latent"]
        self.picture = MeanPicture(config["picture_size"])
        self.spatial = nn.Sequential(
            keep_scale(nn.Conv2d(self.stride * 3 * PATCH_SIZE**2, width, 1)),
            PositionEmbedding(width),
            ResidualBlock(width),
            keep_scale(nn.Conv2d(width, wide, inner, inner)),
            ResidualBlock(wide),
            keep_scale(nn.Conv2d(wide, wide, outer, outer)),
            PositionEmbedding(wide),
            ResidualBlock(wide),
        )
        self.temporal = CausalConv3d(wide, wide, (2, 1, 1))
        keep_scale(self.temporal.conv)
        self.head = keep_scale(nn.Conv2d(wide, 2 * config["latent_channels"], 1))
        # Begin nearly deterministic: noise as strong as an untrained signal would hide it for thousands of steps.
        with torch.no_grad():
            self.head.weight[config["latent_channels"] :] *= 0.1
            bias_of(self.head)[config["latent_channels"] :] = -4.0

    def chunk_shape(self, height: int, width: int) -> tuple[int, ...]:
        return 3, self.stride, height, width

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        self.check_length(x)
        x = x - self.picture(*x.shape[3:])
        units = self.spatial(fold_units(x, self.frames_per_unit)).unflatten(0, (x.shape[0], -1)).transpose(1, 2)
        mixed, past = self.temporal(units, state)
        parameters = self.head(F.silu(mixed).transpose(1, 2).flatten(0, 1))
        return parameters.unflatten(0, (x.shape[0], -1)).transpose(1, 2), past


def join_units(drawn: Tensor, gate: Tensor, state: State | None) -> tuple[Tensor, State]:
    """Units that were drawn apart -> one film.

    Of each unit's n + 1 frames the first is its own view of the last frame before it. What was really shown there
    differs by the errors of both units, and is added to all frames of this one as far as the gate is open: it learns to
    be where nothing else happens, so errors no longer jump there but settle to their mean.

    Args:
        drawn: (B, 3, U, n + 1, H, W). gate: (B, 1, U, H, W) in 0..1.
        state: the last frame shown, and whether there was one.

    Returns:
        video (B, 3, n U, H, W), next state.
    """
    if state is None:
        state = {"last": drawn.new_zeros(drawn[:, :, 0, 0].shape), "shown": drawn.new_zeros(len(drawn), 1, 1, 1)}
    last, shown, film = state["last"], state["shown"], []
    for unit, openness in zip(drawn.unbind(2), gate.unbind(2), strict=True):
        carried = shown * openness * (last - unit[:, :, 0])
        film.append(unit[:, :, 1:] + carried[:, :, None])
        last, shown = film[-1][:, :, -1].contiguous(), torch.ones_like(shown)
    return torch.cat(film, dim=2), {"last": last, "shown": shown}


class VideoDecoder(StreamingModule):
    """Latents (B, C, U, H / stride, W / stride) -> video (B, 3, T, H, W)."""

    def __init__(
        self,
        latent_channels: int,
        frames_per_latent: int,
        spatial_strides: tuple[int, int],
        latent_width: int,
        cell_channels: int,
        fine_channels: int,
        depth: int,
        picture_size: tuple[int, int],
    ) -> None:
        super().__init__()
        wide, width = latent_width, cell_channels
        inner, outer = spatial_strides
        self.upsample = frames_per_latent
        self.latent_channels = latent_channels
        self.pixels_per_cell = PATCH_SIZE * inner * outer
        self.picture = MeanPicture(picture_size)
        self.temporal = CausalConv3d(latent_channels, wide, (2, 3, 3))
        keep_scale(self.temporal.conv)
        self.spatial = nn.Sequential(
            PositionEmbedding(wide),
            ResidualBlock(wide),
            keep_scale(nn.ConvTranspose2d(wide, wide, outer, outer)),
            ResidualBlock(wide),
            keep_scale(nn.ConvTranspose2d(wide, width, inner, inner)),
            PositionEmbedding(width),
            *[ResidualBlock(width) for _ in range(depth)],
        )
        self.num_drawn = frames_per_latent + 1  # with the frame before
        self.to_pixels = keep_scale(nn.Conv2d(width, self.num_drawn * 3 * PATCH_SIZE**2, 1))
        # Mouth and eyes are few pixels: a thin branch at twice the cells' resolution draws what the cells leave out.
        self.fine = nn.Sequential(
            nn.Conv2d(width, 4 * fine_channels, 1),
            nn.PixelShuffle(2),
            PositionEmbedding(fine_channels),
            ResidualBlock(fine_channels),
        )
        self.fine_to_pixels = nn.Conv2d(fine_channels, self.num_drawn * 3 * (PATCH_SIZE // 2) ** 2, 1)
        self.gate = nn.Conv2d(fine_channels, 1, 1)
        # The gate begins open: what passes through a closed one, the view of the frame before, would never be learned.
        for head, bias in ((self.fine_to_pixels, 0.0), (self.gate, 1.5)):
            nn.init.zeros_(head.weight)
            nn.init.constant_(bias_of(head), bias)

    def chunk_shape(self, height: int, width: int) -> tuple[int, ...]:
        return self.latent_channels, 1, height, width

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        self.check_length(x)
        past, new, batch_size = substates(state), {}, x.shape[0]
        mixed, new["temporal"] = self.temporal(x, past["temporal"])
        cells = self.spatial(mixed.transpose(1, 2).flatten(0, 1))
        fine = self.fine(cells)
        drawn = unfold_units(self.to_pixels(cells), batch_size, self.num_drawn, PATCH_SIZE)
        drawn = drawn + unfold_units(self.fine_to_pixels(fine), batch_size, self.num_drawn, PATCH_SIZE // 2)
        gate = F.interpolate(self.gate(fine).sigmoid(), scale_factor=PATCH_SIZE // 2)
        units = drawn.unflatten(2, (-1, self.num_drawn))
        video, new["seam"] = join_units(units, gate.unflatten(0, (batch_size, -1)).transpose(1, 2), past["seam"])
        return video + self.picture(*video.shape[3:]), new


class CausalVideoVAE(CheckedLoading, ModelMixin, StreamingModule, ConfigMixin):
    """Continuous video latents for a live stream: (B, 3, T, H, W) in [-1, 1] <-> (B, C, T / 4, H / s, W / s).

    H and W are multiples of `spatial_stride`; T is a multiple of 4. Latents are standardised with the statistics that
    live with the weights (report, section 2.1: latent coding; DESIGN section 4: one unit is one latent frame).

    `forward(x, state)` reconstructs from the posterior's mode; `encode` and `decode` are the two halves.

    Raises:
        ValueError: a field of the config is not of its type or range.
    """

    floors: ClassVar[dict[str, int]] = {"decoder_depth": 0}

    @register_to_config
    def __init__(
        self,
        frames_per_latent: int = 4,
        spatial_strides: tuple[int, int] = (3, 2),
        latent_channels: int = 32,
        latent_width: int = 160,
        cell_channels: int = 96,
        fine_channels: int = 32,
        decoder_depth: int = 2,
        picture_size: tuple[int, int] = (192, 336),
    ) -> None:
        super().__init__()
        self.encoder = VideoEncoder(self.config)
        self.decoder = VideoDecoder(
            latent_channels,
            frames_per_latent,
            spatial_strides,
            latent_width,
            cell_channels,
            fine_channels,
            decoder_depth,
            picture_size,
        )
        self.latent_norm = LatentNorm(latent_channels)
        self.stride = self.upsample = frames_per_latent

    @torch.no_grad()
    def init_from_data(self, video: Tensor) -> None:
        """Start training from the data's own statistics: the mean picture, and principal components of its patches.

        Patches of what differs from the mean are drawn by their energy, so that faces count and walls do not.

        Args:
            video: (N, 3, T, H, W) clips, a few hundred units in all, of the configured picture size.
        """
        for half in (self.encoder, self.decoder):
            half.picture.mean.copy_(video.mean(dim=(0, 2), keepdim=True))
        cells = fold_units(video - self.encoder.picture.mean, self.config.frames_per_latent)
        patches = cells.movedim(1, 3).flatten(0, 2)
        energy = patches.square().mean(dim=1)
        num_samples = min(20_000, len(patches))
        patches = patches[torch.multinomial(energy + 0.02 * energy.mean() + 1e-9, num_samples)]
        _, values, components = torch.linalg.svd(patches, full_matrices=False)
        width = self.config.cell_channels
        scale = (values[:width] / num_samples**0.5).clamp(min=0.02)[:, None]
        cast(Tensor, self.encoder.spatial[0].weight).copy_((components[:width] / scale)[..., None, None])
        drawn = (components[:width] * scale).T[..., None, None] * 0.3
        before = drawn[: len(drawn) // self.config.frames_per_latent]  # begins as the first frame
        self.decoder.to_pixels.weight.copy_(torch.cat([before, drawn]))

    @property
    def spatial_stride(self) -> int:
        """Pixels per latent cell, along each side."""
        inner, outer = self.config.spatial_strides
        return PATCH_SIZE * inner * outer

    @property
    def stream_spec(self) -> StreamSpec:
        return StreamSpec(
            frames_per_latent=self.stride,
            video_latent_channels=self.config.latent_channels,
            pixels_per_cell=self.spatial_stride,
        )

    def chunk_shape(self, height: int, width: int) -> tuple[int, ...]:
        return 3, self.stride, height, width

    @apply_forward_hook
    def encode(self, video: Tensor, state: State | None = None) -> tuple[DiagonalGaussian, State]:
        """Video (B, 3, T, H, W) -> posterior over latents (B, C, T / 4, H / s, W / s), next state."""
        if video.shape[3] % self.spatial_stride or video.shape[4] % self.spatial_stride:
            raise ValueError(
                f"height and width must be multiples of {self.spatial_stride}; got {video.shape[3]} x {video.shape[4]}"
            )
        parameters, state = self.encoder(video, state)
        return self.latent_norm.standardize(DiagonalGaussian.from_parameters(parameters)), state

    @apply_forward_hook
    def decode(self, latents: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Latents (B, C, U, h, w) -> video (B, 3, 4 U, H, W), not clamped, next state."""
        return self.decoder(self.latent_norm.restore(latents), state)

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        past, new = substates(state), {}
        posterior, new["encoder"] = self.encode(x, past["encoder"])
        video, new["decoder"] = self.decode(posterior.mode(), past["decoder"])
        return video, new
