"""The layers of Wan's video VAE as streaming modules, arranged so that a CPU computes them at full speed.

Facts of architecture: diffusers' `AutoencoderKLWan` (Wan 2.1 and 2.2), whose parameter names and shapes they keep.
What is unusual here: pictures are channels-last throughout, (B, T, H, W, C). oneDNN reads that layout as it is, a norm
over channels is a norm over the last axis, and a 1 x 1 convolution is one matrix product. Weights stay as they are
stored; their folded forms are small beside the pictures and made in passing.

Every layer takes `first`: True only for the one frame (or latent) that opens a Wan stream, which skips every change of
rate in time. Any later chunk is made of whole units.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..streaming import State, StreamingModule, substates

HAS_ONEDNN = torch.backends.mkldnn.is_available()
NORM_FLOOR = 1e-12  # smallest length that a channel vector is divided by, as in Wan


class FrameModule(StreamingModule):
    """A streaming map over (B, T, H, W, C)."""

    time_axis = out_time_axis = 1

    def forward(self, x: Tensor, state: State | None = None, first: bool = False) -> tuple[Tensor, State]:
        raise NotImplementedError


def run_layers(
    layers: Iterable[nn.Module], x: Tensor, state: State | None, first: bool
) -> tuple[Tensor, dict[str, State]]:
    """Layers in a row, streaming ones with their state under their place, others as plain functions."""
    past, new = substates(state), {}
    for index, layer in enumerate(layers):
        if isinstance(layer, FrameModule):
            x, new[str(index)] = layer(x, past[str(index)], first)
        else:
            x = layer(x)
    return x, new


def convolve(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: tuple[int, ...] = (1, 1, 1),
    padding: tuple[int, ...] = (0, 0, 0),
) -> Tensor:
    """3-D convolution of (B, T, H, W, C) by a weight (C', C, kt, kh, kw).

    On CPU torch sends few channels to an unvectorised path; oneDNN is asked directly instead (not under
    `torch.compile`, whose backend chooses for itself).
    """
    x, weight = x.permute(0, 4, 1, 2, 3), weight.contiguous(memory_format=torch.channels_last_3d)
    asks_onednn = HAS_ONEDNN and x.device.type == "cpu" and x.dtype == torch.float32
    if asks_onednn and not torch.compiler.is_compiling():
        y = torch.mkldnn_convolution(x, weight, bias, padding, stride, (1, 1, 1), 1)
    else:
        y = F.conv3d(x, weight, bias, stride, padding)
    return y.permute(0, 2, 3, 4, 1).contiguous()


class RMSNorm(nn.Module):
    """Scales each pixel's channel vector to length sqrt(C), then by `gamma`."""

    def __init__(self, channels: int, num_axes: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(channels, *[1] * num_axes))

    def forward(self, x: Tensor, copy: Tensor | None = None) -> Tensor:
        """(..., C) -> the same, scaled; with `copy`, a copy of `x`, that one is scaled in place."""
        length = torch.einsum("...c,...c->...", x, x).sqrt().clamp(min=NORM_FLOOR)
        scale = (x.shape[-1] ** 0.5 / length)[..., None]
        return x * scale * self.gamma.flatten() if copy is None else copy.mul_(scale).mul_(self.gamma.flatten())


class FrameConv(nn.Conv3d):
    """Causal 3-D convolution of (B, T, H, W, C), zero-padded in space. State: the last `kt - stride_t` frames.

    `run_conv` calls it.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: tuple[int, int, int] = (3, 3, 3), time_stride: int = 1
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size)
        self.time_stride = time_stride
        self.num_past = kernel_size[0] - time_stride
        self.spatial_padding = kernel_size[1] // 2, kernel_size[2] // 2

    def forward(self, extended: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]  # only `run_conv` calls it
        """The past and the present in one tensor (B, num_past + T, H, W, C) -> output, next past."""
        y = convolve(extended, self.weight, self.bias, (self.time_stride, 1, 1), (0, *self.spatial_padding))
        return y, extended[:, -self.num_past :].clone(memory_format=torch.contiguous_format)


def run_conv(conv: FrameConv, x: Tensor, past: State | None, norm: RMSNorm | None = None) -> tuple[Tensor, Tensor]:
    """Convolve `x`; with `norm`, convolve SiLU(norm(x)), written where the convolution and the next past read.

    Norm and convolution are called one after the other, so that whatever brings their weights sees both calls.
    """
    if past is None:
        past = x.new_zeros(x.shape[0], conv.num_past, *x.shape[2:])
    extended = torch.cat([past, x], dim=1)
    if norm is not None:
        F.silu(norm(x, copy=extended[:, conv.num_past :]), inplace=True)
    return conv(extended)


class PointwiseConv(nn.Conv3d):
    """1 x 1 x 1 convolution of (B, T, H, W, C): one matrix product."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.flatten(1), self.bias)


class PixelConv(nn.Conv2d):
    """1 x 1 convolution of (..., C): one matrix product."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.flatten(1), self.bias)


class ResidualBlock(FrameModule):
    """Twice norm, SiLU, causal 3 x 3 x 3 convolution, around a skip."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.norm1 = RMSNorm(in_channels, 3)
        self.conv1 = FrameConv(in_channels, out_channels)
        self.norm2 = RMSNorm(out_channels, 3)
        self.conv2 = FrameConv(out_channels, out_channels)
        self.conv_shortcut = nn.Identity() if in_channels == out_channels else PointwiseConv(in_channels, out_channels)

    def forward(self, x: Tensor, state: State | None = None, first: bool = False) -> tuple[Tensor, State]:
        past, new = substates(state), {}
        y, new["conv1"] = run_conv(self.conv1, x, past["conv1"], self.norm1)
        y, new["conv2"] = run_conv(self.conv2, y, past["conv2"], self.norm2)
        return y.add_(self.conv_shortcut(x)), new


class FrameAttention(nn.Module):
    """Self-attention with one head among the pixels of each frame."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = RMSNorm(channels, 2)
        self.to_qkv = PixelConv(channels, 3 * channels)
        self.proj = PixelConv(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        pixels = self.norm(x).flatten(2, 3)  # (B, T, H * W, C)
        query, key, value = self.to_qkv(pixels).chunk(3, dim=-1)
        mixed = F.scaled_dot_product_attention(query, key, value)
        return x + self.proj(mixed).view_as(x)


class HalvingConv(nn.Conv2d):
    """3 x 3 convolution at stride 2 whose zero padding is one column right and one row below.

    Symmetric padding and a 4 x 4 kernel that begins with zeros are the same sum, without a padded copy of the picture.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        weight = F.pad(self.weight, (1, 0, 1, 0))[:, :, None]
        return convolve(x, weight, self.bias, (1, 2, 2), (0, 1, 1))


class DoublingConv(nn.Conv2d):
    """Nearest-neighbour doubling of height and width, then a 3 x 3 convolution, as one transposed convolution.

    Each output pixel sees at most 2 x 2 different input pixels: the taps that fall on the same one are added first,
    which leaves 4 products of 9 and no enlarged picture.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        folds = self.weight.new_tensor([[0, 0, 1], [0, 1, 1], [1, 1, 0], [1, 0, 0]])  # 3 taps -> 4, mirrored
        weight = torch.einsum("oiyx,ay,bx->ioab", self.weight, folds, folds)
        y = F.conv_transpose2d(x.flatten(0, 1).permute(0, 3, 1, 2), weight, self.bias, stride=2, padding=1)
        return y.permute(0, 2, 3, 1).contiguous().unflatten(0, x.shape[:2])


class Downsample(nn.Module):
    """Halves height and width."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.resample = nn.Sequential(nn.Identity(), HalvingConv(channels))

    def forward(self, x: Tensor) -> Tensor:
        return self.resample(x)


class TimeDownsample(FrameModule):
    """Halves height, width and frame rate; the first frame is kept."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.resample = nn.Sequential(nn.Identity(), HalvingConv(channels))
        self.time_conv = FrameConv(channels, channels, (3, 1, 1), time_stride=2)

    def forward(self, x: Tensor, state: State | None = None, first: bool = False) -> tuple[Tensor, State]:
        x = self.resample(x)
        if first:
            return x, {"time_conv": x.clone()}
        x, past = run_conv(self.time_conv, x, substates(state)["time_conv"])
        return x, {"time_conv": past}


class Upsample(nn.Module):
    """Doubles height and width."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.resample = nn.Sequential(nn.Identity(), DoublingConv(in_channels, out_channels))

    def forward(self, x: Tensor) -> Tensor:
        return self.resample(x)


class TimeUpsample(FrameModule):
    """Doubles height, width and frame rate; the first latent stays one frame, and later ones do not see it."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.resample = nn.Sequential(nn.Identity(), DoublingConv(in_channels, out_channels))
        self.time_conv = FrameConv(in_channels, 2 * in_channels, (3, 1, 1))

    def forward(self, x: Tensor, state: State | None = None, first: bool = False) -> tuple[Tensor, State]:
        if first:
            past = x.new_zeros(x.shape[0], self.time_conv.num_past, *x.shape[2:])
        else:
            x, past = run_conv(self.time_conv, x, substates(state)["time_conv"])
            x = x.unflatten(-1, (2, -1)).movedim(-2, 2).flatten(1, 2)  # the halves of the channels are two frames
        return self.resample(x), {"time_conv": past}


def average_down(x: Tensor, channels: int, time: int, space: int) -> Tensor:
    """Blocks of (time, space, space) pixels into channels, averaged in groups: the skip around a downsampling block.

    A lone first frame counts as the last of a block that begins with silence.
    """
    x = F.pad(x, (0, 0, 0, 0, 0, 0, -x.shape[1] % time, 0))
    batch, frames, height, width, _ = x.shape
    blocks = x.view(batch, frames // time, time, height // space, space, width // space, space, -1)
    folded = blocks.permute(0, 1, 3, 5, 7, 2, 4, 6).flatten(4)
    return folded.unflatten(-1, (channels, -1)).mean(dim=-1)


def duplicate_up(x: Tensor, channels: int, time: int, space: int, first: bool) -> Tensor:
    """Channels into blocks of (time, space, space) pixels: the skip around an upsampling block, `average_down` undone.

    The first latent gives one frame, the last of its block.
    """
    batch, frames, height, width, in_channels = x.shape
    repeats = channels * time * space * space // in_channels
    blocks = x.repeat_interleave(repeats, dim=-1).view(batch, frames, height, width, channels, time, space, space)
    enlarged = blocks.permute(0, 1, 5, 2, 6, 3, 7, 4).reshape(batch, -1, height * space, width * space, channels)
    return enlarged[:, time - 1 :] if first else enlarged


def fold_patches(video: Tensor, patch_size: int) -> Tensor:
    """(B, C, T, H, W) -> (B, T, H / p, W / p, C * p * p), in Wan's order: channel, column, row."""
    x = video.unflatten(4, (-1, patch_size)).unflatten(3, (-1, patch_size))  # (B, C, T, h, p, w, p)
    return x.permute(0, 2, 3, 5, 1, 6, 4).flatten(4).contiguous()


def unfold_patches(x: Tensor, patch_size: int) -> Tensor:
    """The inverse of `fold_patches`."""
    blocks = x.unflatten(4, (-1, patch_size, patch_size))  # (B, T, h, w, C, column, row)
    return blocks.permute(0, 4, 1, 2, 6, 3, 5).flatten(5, 6).flatten(3, 4).contiguous()
