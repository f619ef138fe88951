"""What the agent sees: 25 fps video -> a fixed number of tokens per unit, strictly causal. Top to bottom.

It looks at the last frame of each group (one look per unit by default), at low resolution, and keeps where things are:
a raised hand and a smile differ by place as much as by shape, so the grid is flattened, never averaged.

Shape legend: B session, T frames, L = T / frames_per_look looks, H x W camera picture, h x w the picture looked at.
"""

from __future__ import annotations

import math
from typing import Any

import torch.nn.functional as F
from causal_vae import CausalConv1d, State, StreamSpec, check_fields, per_unit
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers import PreTrainedConfig

from .perception import VideoPerceptionEncoder


@strict
class CausalVideoEncoderConfig(PreTrainedConfig):
    """Shape of `CausalVideoEncoder`.

    Args:
        image_height, image_width: size of the picture looked at; multiples of the product of `strides`.
        input_frame_rate, frame_rate: the camera's rate and the rate of looks, in Hz.
        unit_ms, tokens_per_unit: the clock (DESIGN section 4): so many tokens for every unit of video.
        widths, strides: channels of the convolutions, multiples of `group_size`, and how much each shrinks the grid:
            by 2 with 3 x 3 taps, by more with twice as many taps as steps.
        group_size: channels that are normalised together.
        frame_dim: width of one look.
        kernel_size: looks that one token sees.
        output_dim: width of a token; the Transformer's `perception_dim`.
    """

    model_type = "causal_video_encoder"

    image_height: int = 64
    image_width: int = 112
    input_frame_rate: float = 25.0
    frame_rate: float = 6.25
    unit_ms: int = 160
    tokens_per_unit: int = 2
    widths: list[int] | None = None
    strides: list[int] | None = None
    group_size: int = 8
    frame_dim: int = 160
    kernel_size: int = 3
    output_dim: int = 128

    def __post_init__(self, **kwargs: Any) -> None:
        check_fields(self, kwargs, floors={})
        self.strides = self.strides or ([2] * len(self.widths) if self.widths else [4, 2, 2])
        self.widths = self.widths or [48, 64, 96]
        super().__post_init__(**kwargs)
        shrink = math.prod(self.strides)
        looks_per_unit = self.frame_rate * self.unit_ms / 1000
        requirements = {
            "widths and strides must have one entry per convolution": len(self.widths) == len(self.strides),
            "strides must be even": not any(stride % 2 for stride in self.strides),
            f"image_height and image_width must be multiples of {shrink}": self.image_height % shrink == 0
            and self.image_width % shrink == 0,
            "input_frame_rate must be a multiple of frame_rate": self.input_frame_rate % self.frame_rate == 0,
            "a unit must hold a whole number of looks": looks_per_unit == int(looks_per_unit) > 0,
            "tokens_per_unit must be a multiple of the looks per unit": self.tokens_per_unit % looks_per_unit == 0,
            "widths must be multiples of group_size": not any(width % self.group_size for width in self.widths),
        }
        for requirement, holds in requirements.items():
            if not holds:
                raise ValueError(f"CausalVideoEncoderConfig: {requirement}")

    @property
    def frames_per_look(self) -> int:
        return int(self.input_frame_rate / self.frame_rate)

    @property
    def tokens_per_look(self) -> int:
        return int(self.tokens_per_unit / (self.frame_rate * self.unit_ms / 1000))


class CausalVideoEncoder(VideoPerceptionEncoder):
    """The user's picture as tokens: (B, 3, T, H, W) in [-1, 1] -> (B, T / 4 * tokens_per_unit, output_dim).

    Any height and width: pictures are resized to the configured size, whatever their shape. Report, section 2.1:
    causal perception encoders; their sizes are this project's choice.
    """

    config_class = CausalVideoEncoderConfig

    def __init__(self, config: CausalVideoEncoderConfig) -> None:
        super().__init__(config)
        assert config.widths and config.strides  # `__post_init__` fills them
        layers: list[nn.Module] = []
        for width_in, width, stride in zip([3, *config.widths], config.widths, config.strides, strict=False):
            taps = 3 if stride == 2 else 2 * stride
            layers += [
                nn.Conv2d(width_in, width, taps, stride, padding=stride // 2),
                nn.GroupNorm(width // config.group_size, width),
                nn.GELU(),
            ]
        cells = config.image_height * config.image_width // math.prod(config.strides) ** 2
        self.look = nn.Sequential(
            *layers, nn.Flatten(), nn.Linear(cells * config.widths[-1], config.frame_dim), nn.GELU()
        )
        self.temporal = CausalConv1d(config.frame_dim, config.frame_dim, config.kernel_size)
        self.project = nn.Linear(config.frame_dim, config.tokens_per_look * config.output_dim)
        self.norm = nn.LayerNorm(config.output_dim)
        self.stride, self.upsample = config.frames_per_look, config.tokens_per_look
        self.post_init()

    @property
    def stream_spec(self) -> StreamSpec:
        return StreamSpec(
            frames_per_unit=per_unit(self.config.input_frame_rate),
            user_video_tokens=self.config.tokens_per_unit,
            perception_dim=self.config.output_dim,
        )

    def resize(self, pictures: Tensor, size: tuple[int, int]) -> Tensor:
        return F.interpolate(pictures, size, mode="area")

    def see(self, frames: Tensor, state: State | None) -> tuple[Tensor, State]:
        looks = self.look(frames.transpose(1, 2).flatten(0, 1)).unflatten(0, (frames.shape[0], -1))  # (B, L, D)
        recent, past = self.temporal(looks.transpose(1, 2), state)
        tokens = self.project(looks + F.gelu(recent.transpose(1, 2)))  # (B, L, tokens_per_look * output_dim)
        return self.norm(tokens.unflatten(2, (self.upsample, -1)).flatten(1, 2)), past
