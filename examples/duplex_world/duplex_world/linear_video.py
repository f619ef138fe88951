"""A stranger's parts: a video decoder and a video VAE that are linear, fitted in seconds, and not ours.

They stand for whatever a lab brings along. Each is a `ModelMixin` with a `config` (so that it is saved and loaded) and
a `StreamingModule` (state goes in and comes out). These two remember nothing, so their state is an empty tree. The VAE
is eigenfaces (Turk & Pentland 1991) in pieces.

Shape legend: B session, C channels, U units of T / U frames, h x w cells, N = h w, P values of a cell in one unit.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Self

import torch
import torch.nn.functional as F
from causal_vae import DiagonalGaussian, State, StreamingModule
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

INVISIBLE = 0.05**2  # squared differences of a whole cell: there are walls that never change


def split_cells(video: Tensor, grid: tuple[int, int], frames: int) -> Tensor:
    """(B, C, T, H, W) -> (B, U, N, P)."""
    batch, channels, length, height, width = video.shape
    rows, columns = grid
    cells = video.reshape(batch, channels, length // frames, frames, rows, height // rows, columns, width // columns)
    return cells.permute(0, 2, 4, 6, 1, 3, 5, 7).reshape(batch, length // frames, rows * columns, -1)


def join_cells(cells: Tensor, grid: tuple[int, int], frames: int, cell_size: tuple[int, int]) -> Tensor:
    """The inverse of `split_cells`."""
    batch, num_units = cells.shape[:2]
    parts = cells.reshape(batch, num_units, *grid, -1, frames, *cell_size).permute(0, 4, 1, 5, 2, 6, 3, 7)
    height, width = (count * size for count, size in zip(grid, cell_size, strict=True))
    return parts.reshape(batch, -1, num_units * frames, height, width)


class LinearVideoDecoder(ModelMixin, StreamingModule, ConfigMixin):
    """Latents (B, C, U, h, w) -> video (B, 3, 4 U, H, W): every cell is its mean plus C weighted pictures."""

    @register_to_config
    def __init__(
        self,
        latent_channels: int = 32,
        grid: tuple[int, int] = (4, 7),
        picture_size: tuple[int, int] = (192, 336),
        frames_per_latent: int = 4,
    ) -> None:
        super().__init__()
        self.cell_size = tuple(size // count for size, count in zip(picture_size, grid, strict=True))
        num_cells, num_values = grid[0] * grid[1], 3 * frames_per_latent * self.cell_size[0] * self.cell_size[1]
        self.pictures = nn.Parameter(torch.zeros(num_cells, latent_channels, num_values))
        self.mean = nn.Parameter(torch.zeros(num_cells, num_values))
        self.upsample = frames_per_latent

    def chunk_shape(self, height: int, width: int) -> tuple[int, ...]:
        """`height` and `width` count latent cells."""
        return self.config.latent_channels, 1, height, width

    def forward(self, latents: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        self.check_length(latents)
        cells = torch.einsum("buni,nip->bunp", split_cells(latents, self.config.grid, 1), self.pictures) + self.mean
        return join_cells(cells, self.config.grid, self.upsample, self.cell_size), {}

    @torch.no_grad()
    def fit(self, examples: Iterable[tuple[Tensor, Tensor]], ridge: float = 1e-3) -> Self:
        """Ridge regression from latents to the video (B, 3, T, H, W) that they code, over pairs of both."""
        gram = torch.zeros(len(self.mean), self.config.latent_channels + 1, self.config.latent_channels + 1)
        moment = torch.zeros(*gram.shape[:2], self.mean.shape[1])
        for latents, video in examples:
            inputs = F.pad(split_cells(latents, self.config.grid, 1), (0, 1), value=1.0)
            gram += torch.einsum("buni,bunj->nij", inputs, inputs)
            moment += torch.einsum("buni,bunp->nip", inputs, split_cells(video, self.config.grid, self.upsample))
        solution = torch.linalg.solve(gram + ridge * gram[:, -1:, -1:] * torch.eye(gram.shape[1]), moment)
        self.pictures.copy_(solution[:, :-1])
        self.mean.copy_(solution[:, -1])
        return self


class EigenpictureVAE(ModelMixin, StreamingModule, ConfigMixin):
    """Video (B, 3, T, H, W) <-> latents (B, C, T / 4, h, w): standardised principal components of the cells of a row.

    A row has one basis, because the columns are tokens: one linear layer of a streamer reads and writes all of them.
    """

    @register_to_config
    def __init__(
        self,
        latent_channels: int = 12,
        grid: tuple[int, int] = (8, 7),
        picture_size: tuple[int, int] = (192, 336),
        frames_per_latent: int = 4,
    ) -> None:
        super().__init__()
        self.decoder = LinearVideoDecoder(latent_channels, grid, picture_size, frames_per_latent)
        self.stride = self.upsample = frames_per_latent

    def chunk_shape(self, height: int, width: int) -> tuple[int, ...]:
        return 3, self.stride, height, width

    def encode(self, video: Tensor, state: State | None = None) -> tuple[DiagonalGaussian, State]:
        self.check_length(video)
        pictures, centred = self.decoder.pictures, split_cells(video, self.config.grid, self.stride) - self.decoder.mean
        energy = pictures.square().sum(dim=2).clamp(min=INVISIBLE)
        latents = torch.einsum("bunp,nip->buni", centred, pictures) / energy
        mean = join_cells(latents, self.config.grid, 1, (1, 1))
        return DiagonalGaussian(mean, torch.full_like(mean, -10.0)), {}

    def decode(self, latents: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        return self.decoder(latents)

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        return self.decode(self.encode(x)[0].mode())

    @torch.no_grad()
    def fit(self, clips: Iterable[Tensor]) -> Self:
        """Principal components of clips (B, 3, T, H, W), more units in all than there are latent channels."""
        rows, columns = self.config.grid
        units = torch.cat([split_cells(clip, self.config.grid, self.stride).flatten(0, 1) for clip in clips])
        self.decoder.mean.copy_(units.mean(dim=0))
        by_row = (units - self.decoder.mean).unflatten(1, (rows, columns)).transpose(0, 1).flatten(1, 2)
        _, vectors = torch.linalg.eigh(by_row @ by_row.mT)  # small: there are fewer cells than values in a cell
        strongest = vectors.flip(2)[:, :, : self.config.latent_channels]
        basis = strongest.mT @ by_row / by_row.shape[1] ** 0.5
        self.decoder.pictures.copy_(basis.repeat_interleave(columns, dim=0))
        return self
