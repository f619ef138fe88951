"""Wan's video VAE (2.1 and 2.2) behind the streaming contract: diffusers' weights, file for file, in live units.

What is unusual here: diffusers' `AutoencoderKLWan` keeps its past on the module and clears it on every call, so it can
only code whole clips. Here the past goes in and comes out, and the same weights code a live stream unit by unit: 4
frames <-> 1 latent frame. A Wan clip has 1 + 4 k frames and 1 + k latents: the frame in front is the `prefill`, coded
once per session before the units begin (for an agent, its reference picture). Prefill and units together give the
numbers of diffusers' whole-clip `encode` and `decode`.

Shape legend: B session, T = 4 U frames, U units, C latent channels, H x W pixels, h x w = H / s x W / s cells.
Sources: Wan (arXiv 2503.20314, section 4.1: 3-D causal VAE, feature cache); diffusers' `AutoencoderKLWan`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, ClassVar

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from diffusers.utils.accelerate_utils import apply_forward_hook
from torch import Tensor, nn

from ..distributions import DiagonalGaussian
from ..hub.loading import CheckedLoading
from ..latent_norm import LatentNorm
from ..spec import StreamSpec
from ..streaming import State, StreamingModule, substates
from .wan_layers import (
    Downsample,
    FrameAttention,
    FrameConv,
    FrameModule,
    PointwiseConv,
    ResidualBlock,
    RMSNorm,
    TimeDownsample,
    TimeUpsample,
    Upsample,
    average_down,
    duplicate_up,
    fold_patches,
    run_conv,
    run_layers,
    unfold_patches,
)

DIFFUSERS_CLASS = "AutoencoderKLWan"
FRAMES_PER_LATENT = 4
# The statistics of Wan 2.1's latents, diffusers' default.
LATENTS_MEAN = [-0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508]
LATENTS_MEAN += [0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921]
LATENTS_STD = [2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743]
LATENTS_STD += [3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160]


class MiddleBlock(FrameModule):
    """Two residual blocks around attention, at the lowest resolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.attentions = nn.ModuleList([FrameAttention(channels)])
        self.resnets = nn.ModuleList([ResidualBlock(channels, channels) for _ in range(2)])

    def forward(self, x: Tensor, state: State | None = None, first: bool = False) -> tuple[Tensor, State]:
        return run_layers([self.resnets[0], *self.attentions, self.resnets[1]], x, state, first)


def residual_blocks(in_channels: int, out_channels: int, depth: int) -> nn.ModuleList:
    return nn.ModuleList(ResidualBlock(out_channels if i else in_channels, out_channels) for i in range(depth))


class ResidualDownBlock(FrameModule):
    """Wan 2.2: residual blocks and a downsampling one, around an averaging skip. `time`, `space`: factors, 1 or 2."""

    def __init__(self, in_channels: int, out_channels: int, depth: int, time: int, space: int) -> None:
        super().__init__()
        self.factors = time, space
        self.resnets = residual_blocks(in_channels, out_channels, depth)
        if space > 1:
            self.downsampler = (TimeDownsample if time > 1 else Downsample)(out_channels)

    def forward(self, x: Tensor, state: State | None = None, first: bool = False) -> tuple[Tensor, State]:
        layers = [*self.resnets, self.downsampler] if self.factors[1] > 1 else self.resnets
        y, state = run_layers(layers, x, state, first)
        return y + average_down(x, y.shape[-1], *self.factors), state


class UpBlock(FrameModule):
    """Wan 2.1: residual blocks, then an upsampling one that halves the channels. `time`, `space`: factors, 1 or 2."""

    def __init__(self, in_channels: int, out_channels: int, depth: int, time: int, space: int) -> None:
        super().__init__()
        self.resnets = residual_blocks(in_channels, out_channels, depth)
        up = (TimeUpsample if time > 1 else Upsample)(out_channels, out_channels // 2) if space > 1 else None
        self.upsamplers = nn.ModuleList([] if up is None else [up])

    def forward(self, x: Tensor, state: State | None = None, first: bool = False) -> tuple[Tensor, State]:
        return run_layers([*self.resnets, *self.upsamplers], x, state, first)


class ResidualUpBlock(FrameModule):
    """Wan 2.2: residual blocks and an upsampling one, around a copying skip; the last block has neither of the two."""

    def __init__(self, in_channels: int, out_channels: int, depth: int, time: int, space: int) -> None:
        super().__init__()
        self.factors = time, space
        self.resnets = residual_blocks(in_channels, out_channels, depth)
        if space > 1:
            self.upsampler = (TimeUpsample if time > 1 else Upsample)(out_channels, out_channels)

    def forward(self, x: Tensor, state: State | None = None, first: bool = False) -> tuple[Tensor, State]:
        if self.factors[1] == 1:
            return run_layers(self.resnets, x, state, first)
        y, state = run_layers([*self.resnets, self.upsampler], x, state, first)
        return y + duplicate_up(x, y.shape[-1], *self.factors, first), state


class WanEncoder(StreamingModule):
    """Video (B, 3, T, H, W) -> features (B, 2C, U, h, w)."""

    stride = FRAMES_PER_LATENT

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.in_channels, self.patch_size = config["in_channels"], config["patch_size"] or 1
        widths = [config["base_dim"] * factor for factor in [1, *config["dim_mult"]]]
        depth, last = config["num_res_blocks"], len(config["dim_mult"]) - 1
        self.conv_in = FrameConv(self.in_channels, widths[0])
        self.down_blocks = nn.ModuleList()
        for level, (narrow, wide) in enumerate(pairwise(widths)):
            shrinks_time = level < last and config["temperal_downsample"][level]
            if config["is_residual"]:
                time, space = 1 + shrinks_time, 1 + (level < last)
                self.down_blocks.append(ResidualDownBlock(narrow, wide, depth, time, space))
                continue
            self.down_blocks.extend(residual_blocks(narrow, wide, depth))
            if level < last:
                self.down_blocks.append((TimeDownsample if shrinks_time else Downsample)(wide))
        self.mid_block = MiddleBlock(wide)
        self.norm_out = RMSNorm(wide, 3)
        self.conv_out = FrameConv(wide, 2 * config["z_dim"])

    def chunk_shape(self, height: int, width: int) -> tuple[int, ...]:
        return self.in_channels // self.patch_size**2, self.stride, height, width

    def forward(self, x: Tensor, state: State | None = None, first: bool = False) -> tuple[Tensor, State]:
        """`first`: `x` is the one frame in front of the units; it gives one latent frame."""
        if not first:
            self.check_length(x)
        past = substates(state)
        new: dict[str, State] = {}
        x, new["conv_in"] = run_conv(self.conv_in, fold_patches(x, self.patch_size), past["conv_in"])
        x, new["down_blocks"] = run_layers(self.down_blocks, x, past["down_blocks"], first)
        x, new["mid_block"] = self.mid_block(x, past["mid_block"])
        x, new["conv_out"] = run_conv(self.conv_out, x, past["conv_out"], self.norm_out)
        return x.movedim(-1, 1), new


class WanDecoder(StreamingModule):
    """Latents (B, C, U, h, w) -> video (B, 3, T, H, W), not clamped."""

    upsample = FRAMES_PER_LATENT

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.z_dim, self.patch_size = config["z_dim"], config["patch_size"] or 1
        factors = config["dim_mult"][::-1]
        widths = [(config["decoder_base_dim"] or config["base_dim"]) * factor for factor in [factors[0], *factors]]
        grows_time = [*config["temperal_downsample"][::-1], False]
        self.conv_in = FrameConv(self.z_dim, widths[0])
        self.mid_block = MiddleBlock(widths[0])
        self.up_blocks = nn.ModuleList()
        for level, (wide, narrow) in enumerate(pairwise(widths)):
            time, space = 1 + grows_time[level], 1 + (level < len(factors) - 1)
            depth = config["num_res_blocks"] + 1
            if config["is_residual"]:
                self.up_blocks.append(ResidualUpBlock(wide, narrow, depth, time, space))
            else:
                self.up_blocks.append(UpBlock(wide // 2 if level else wide, narrow, depth, time, space))
        self.norm_out = RMSNorm(narrow, 3)
        self.conv_out = FrameConv(narrow, config["out_channels"])

    def chunk_shape(self, height: int, width: int) -> tuple[int, ...]:
        return self.z_dim, 1, height, width

    def forward(self, x: Tensor, state: State | None = None, first: bool = False) -> tuple[Tensor, State]:
        """`first`: `x` is the latent in front of the units; it gives one frame."""
        self.check_length(x)
        past = substates(state)
        new: dict[str, State] = {}
        x, new["conv_in"] = run_conv(self.conv_in, x.movedim(1, -1).contiguous(), past["conv_in"])
        x, new["mid_block"] = self.mid_block(x, past["mid_block"])
        x, new["up_blocks"] = run_layers(self.up_blocks, x, past["up_blocks"], first)
        x, new["conv_out"] = run_conv(self.conv_out, x, past["conv_out"], self.norm_out)
        return unfold_patches(x, self.patch_size), new


class WanLatentNorm(LatentNorm):
    """Statistics that live in the config, as in diffusers' folders, and not among the weights."""

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__(len(mean))
        self.register_buffer("mean", torch.tensor(mean), persistent=False)
        self.register_buffer("std", torch.tensor(std), persistent=False)


class WanVideoVAE(CheckedLoading, ModelMixin, StreamingModule, ConfigMixin):
    """Wan's VAE for a live stream: video (B, 3, T, H, W) in [-1, 1] <-> latents (B, C, T / 4, H / s, W / s).

    The contract is `CausalVideoVAE`'s. H and W are multiples of `spatial_stride` (8 for Wan 2.1, 16 for 2.2), T of 4.
    Latents are standardised with the config's `latents_mean` and `latents_std`, as Wan's diffusion models expect.

    Wan was trained on clips with one frame in front. A session that begins with `prefill` codes its units as
    diffusers codes the clip `[frame, unit 0, unit 1, ...]`. State None (or zeros) begins without: legal, one law for
    all streams, but a past of zeros in place of a first frame is not what the weights were trained on.

    `from_pretrained` takes a folder or hub id that `AutoencoderKLWan.save_pretrained` or ours wrote.

    The arguments are the fields of `AutoencoderKLWan`'s config.json. `dropout` and the `scale_factor`s are kept for the
    folder and have no effect: no dropout is applied, and the strides follow from `dim_mult` and `patch_size`.

    Raises:
        ValueError: the config does not give 4 frames per latent, asks for attention at other scales than the lowest, or
            has statistics for another number of channels.
    """

    saved_as = DIFFUSERS_CLASS
    floors: ClassVar[dict[str, int]] = {"dropout": 0, "num_res_blocks": 0}

    @register_to_config
    def __init__(
        self,
        base_dim: int = 96,
        decoder_base_dim: int | None = None,
        z_dim: int = 16,
        dim_mult: Sequence[int] = (1, 2, 4, 4),
        num_res_blocks: int = 2,
        attn_scales: Sequence[float] = (),
        temperal_downsample: Sequence[bool] = (False, True, True),
        dropout: float = 0.0,
        latents_mean: Sequence[float] = LATENTS_MEAN,
        latents_std: Sequence[float] = LATENTS_STD,
        is_residual: bool = False,
        in_channels: int = 3,
        out_channels: int = 3,
        patch_size: int | None = None,
        scale_factor_temporal: int | None = 4,
        scale_factor_spatial: int | None = 8,
    ) -> None:
        super().__init__()
        if 2 ** sum(temperal_downsample) != FRAMES_PER_LATENT or len(temperal_downsample) != len(dim_mult) - 1:
            raise ValueError(
                f"temperal_downsample must have {len(dim_mult) - 1} entries, two of them true ({FRAMES_PER_LATENT} "
                f"frames per latent); got {list(temperal_downsample)}"
            )
        if attn_scales:
            raise ValueError(f"attn_scales must be empty (diffusers cannot run others either); got {list(attn_scales)}")
        if not len(latents_mean) == len(latents_std) == z_dim:
            raise ValueError(
                f"latents_mean and latents_std need z_dim = {z_dim} entries; got {len(latents_mean)} and "
                f"{len(latents_std)}"
            )
        self.encoder = WanEncoder(self.config)
        self.quant_conv = PointwiseConv(2 * z_dim, 2 * z_dim)
        self.post_quant_conv = PointwiseConv(z_dim, z_dim)
        self.decoder = WanDecoder(self.config)
        self.latent_norm = WanLatentNorm(latents_mean, latents_std)
        self.stride = self.upsample = FRAMES_PER_LATENT

    @classmethod
    def from_diffusers(cls, autoencoder: ModelMixin) -> WanVideoVAE:
        """A copy of a loaded `AutoencoderKLWan`, on its device and in its dtype."""
        if type(autoencoder).__name__ != DIFFUSERS_CLASS:
            raise ValueError(f"from_diffusers takes an {DIFFUSERS_CLASS}; got {type(autoencoder).__name__}")
        vae = cls.from_config(autoencoder.config)
        vae.load_state_dict(autoencoder.state_dict())
        return nn.Module.to(vae, autoencoder.device, autoencoder.dtype).train(autoencoder.training)

    def to_json_string(self) -> str:
        """The config as diffusers' own class writes it, so that a saved folder loads there, too."""
        config = json.loads(super().to_json_string()) | {"_class_name": DIFFUSERS_CLASS}
        return json.dumps(config, indent=2, sort_keys=True) + "\n"

    @property
    def spatial_stride(self) -> int:
        """Pixels per latent cell, along each side."""
        return 2 ** (len(self.config.dim_mult) - 1) * self.encoder.patch_size

    @property
    def stream_spec(self) -> StreamSpec:
        return StreamSpec(
            frames_per_latent=FRAMES_PER_LATENT,
            video_latent_channels=self.config.z_dim,
            pixels_per_cell=self.spatial_stride,
        )

    def chunk_shape(self, height: int, width: int) -> tuple[int, ...]:
        return self.encoder.chunk_shape(height, width)

    def prefill(self, frame: Tensor) -> tuple[Tensor, State]:
        """The frame in front of a session's units: (B, 3, 1, H, W) -> reconstructed frame, state for `forward`.

        `state["encoder"]` and `state["decoder"]` go on with `encode` and `decode`.
        """
        posterior, encoder_state = self.prefill_encode(frame)
        frame, decoder_state = self.prefill_decode(posterior.mode())
        return frame, {"encoder": encoder_state, "decoder": decoder_state}

    def prefill_encode(self, frame: Tensor) -> tuple[DiagonalGaussian, State]:
        """The frame (B, 3, 1, H, W) in front of the units -> posterior over (B, C, 1, h, w), state for `encode`."""
        _check_one_step(frame, "frame")
        return self._encode(frame, None, first=True)

    def prefill_decode(self, latent: Tensor) -> tuple[Tensor, State]:
        """The latent (B, C, 1, h, w) in front of the units -> frame (B, 3, 1, H, W), state for `decode`."""
        _check_one_step(latent, "latent")
        return self._decode(latent, None, first=True)

    def encode(self, video: Tensor, state: State | None = None) -> tuple[DiagonalGaussian, State]:
        """Video (B, 3, T, H, W) -> posterior over latents (B, C, T / 4, h, w), next state."""
        return self._encode(video, state, first=False)

    def decode(self, latents: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Latents (B, C, U, h, w) -> video (B, 3, 4 U, H, W), clamped to [-1, 1] as Wan's is, next state."""
        return self._decode(latents, state, first=False)

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        past, new = substates(state), {}
        posterior, new["encoder"] = self.encode(x, past["encoder"])
        video, new["decoder"] = self.decode(posterior.mode(), past["decoder"])
        return video, new

    @apply_forward_hook
    def _encode(self, video: Tensor, state: State | None, first: bool) -> tuple[DiagonalGaussian, State]:
        if video.shape[3] % self.spatial_stride or video.shape[4] % self.spatial_stride:
            raise ValueError(
                f"height and width must be multiples of {self.spatial_stride}; got {video.shape[3]} x {video.shape[4]}"
            )
        features, state = self.encoder(video, state, first)
        mean, log_variance = self.quant_conv(features.movedim(1, -1)).movedim(-1, 1).chunk(2, dim=1)
        return self.latent_norm.standardize(DiagonalGaussian(mean, log_variance.clamp(-30, 20))), state

    @apply_forward_hook
    def _decode(self, latents: Tensor, state: State | None, first: bool) -> tuple[Tensor, State]:
        raw = self.latent_norm.restore(latents).movedim(1, -1)
        video, state = self.decoder(self.post_quant_conv(raw).movedim(-1, 1), state, first)
        return video.clamp(-1, 1), state


def _check_one_step(x: Tensor, name: str) -> None:
    if x.shape[2] != 1:
        raise ValueError(f"a prefill is exactly one {name}; got {x.shape[2]}")
