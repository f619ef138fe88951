"""Packing VAE latents into the Transformer's tokens and back: pure functions of the configuration.

Shape legend: B session, K units, N tokens per unit, D token width.
"""

from __future__ import annotations

from torch import Tensor

from .config import StreamerConfig


def pack_audio(latents: Tensor, config: StreamerConfig) -> Tensor:
    """(B, C, K * latents_per_unit) -> (B, K, N, patch * C): consecutive latents share a token."""
    batch, channels, _ = latents.shape
    patches = latents.transpose(1, 2).reshape(batch, -1, config.agent_audio_tokens, config.audio_patch_size * channels)
    return patches


def unpack_audio(tokens: Tensor, config: StreamerConfig) -> Tensor:
    """The inverse of `pack_audio`."""
    batch = tokens.shape[0]
    return tokens.reshape(batch, -1, config.audio_latent_channels).transpose(1, 2).contiguous()


def pack_video(latents: Tensor, config: StreamerConfig) -> Tensor:
    """(B, C, K, h, w) -> (B, K, N, ph * pw * C): a patch of cells is a token, row by row."""
    batch, channels, num_units, height, width = latents.shape
    ph, pw = config.video_patch_height, config.video_patch_width
    cells = latents.reshape(batch, channels, num_units, height // ph, ph, width // pw, pw)
    return cells.permute(0, 2, 3, 5, 4, 6, 1).reshape(batch, num_units, config.agent_video_tokens, -1)


def unpack_video(tokens: Tensor, config: StreamerConfig) -> Tensor:
    """The inverse of `pack_video`."""
    batch, num_units = tokens.shape[:2]
    c, ph, pw = config, config.video_patch_height, config.video_patch_width
    rows, columns = c.video_latent_height // ph, c.video_latent_width // pw
    cells = tokens.reshape(batch, num_units, rows, columns, ph, pw, c.video_latent_channels)
    return cells.permute(0, 6, 1, 2, 4, 3, 5).reshape(
        batch, c.video_latent_channels, num_units, c.video_latent_height, c.video_latent_width
    )
