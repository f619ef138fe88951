"""What the user looks like: a small picture per look, encoded alone, then mixed causally in time.

Shape legend: B session, T frames, L looks, N tokens, D token width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from causal_vae import CausalConv1d, CheckedLoading, State, StreamingModule
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

UNIT_MS = 160


@strict
class CausalVideoEncoderConfig(PreTrainedConfig):
    """What is looked at and what comes out.

    Args:
        input_frame_rate, frame_rate: Hz of the camera and of the looks; the last frame of each group is looked at.
        image_height, image_width: size that a look is reduced to.
        widths: channels of the strided convolutions; each halves the picture.
        tokens_per_unit, output_dim: tokens per 160 ms and their width.
    """

    model_type = "causal_video_encoder"

    input_frame_rate: float = 25.0
    frame_rate: float = 6.25
    image_height: int = 64
    image_width: int = 112
    widths: list[int] | None = None
    hidden_dim: int = 192
    temporal_kernel: int = 4
    tokens_per_unit: int = 2
    output_dim: int = 128

    def __post_init__(self, **kwargs) -> None:
        self.widths = self.widths or [24, 48, 64, 96]
        super().__post_init__(**kwargs)

    @property
    def frames_per_look(self) -> int:
        return round(self.input_frame_rate / self.frame_rate)

    @property
    def looks_per_unit(self) -> int:
        return round(self.frame_rate * UNIT_MS / 1000)


class ChannelNorm2d(nn.Module):
    """RMS norm over the channels of (N, C, h, w)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.square().mean(dim=1, keepdim=True) + 1e-6) * self.scale


class CausalVideoEncoder(CheckedLoading, PreTrainedModel, StreamingModule):
    """User video (B, 3, T, H, W) in [-1, 1] -> tokens (B, N, D), strictly causal (report, section 2.1: perception)."""

    config_class = CausalVideoEncoderConfig
    main_input_name = "video"
    out_time_axis = 1

    def __init__(self, config: CausalVideoEncoderConfig) -> None:
        super().__init__(config)
        c = config
        if c.looks_per_unit < 1 or c.tokens_per_unit % c.looks_per_unit:
            raise ValueError(f"{c.tokens_per_unit} tokens per unit cannot be shared by {c.looks_per_unit} looks per unit")
        self.stride, self.upsample = c.frames_per_look, c.tokens_per_unit // c.looks_per_unit
        layers: list[nn.Module] = []
        for channels_in, channels in zip([3, *c.widths], c.widths, strict=False):
            layers += [nn.Conv2d(channels_in, channels, 3, 2, 1), ChannelNorm2d(channels), nn.GELU()]
        self.look = nn.Sequential(*layers, nn.Flatten())
        shrink = 2 ** len(c.widths)
        cells = -(-c.image_height // shrink) * -(-c.image_width // shrink)
        self.flat = nn.Linear(c.widths[-1] * cells, c.hidden_dim)  # keeps where things are, unlike pooling
        self.temporal = CausalConv1d(c.hidden_dim, c.hidden_dim, c.temporal_kernel)
        self.head = nn.Linear(c.hidden_dim, self.upsample * c.output_dim)
        self.norm = nn.LayerNorm(c.output_dim)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Layers initialise themselves."""

    def chunk_shape(self, height: int, width: int) -> tuple[int, ...]:
        return 3, self.stride, height, width

    def forward(self, video: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        self.check_length(video)
        frames = video[:, :, self.stride - 1 :: self.stride]
        size = self.config.image_height, self.config.image_width
        if frames.shape[3:] != size:
            batch = frames.shape[0]
            frames = F.interpolate(frames.transpose(1, 2).flatten(0, 1), size, mode="area")
            frames = frames.unflatten(0, (batch, -1)).transpose(1, 2)
        return self.forward_frames(frames, state)

    def forward_frames(self, frames: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """The same for looks that are picked and reduced already: (B, 3, L, image_height, image_width)."""
        batch, _, num_looks = frames.shape[:3]
        features = F.gelu(self.flat(self.look(frames.transpose(1, 2).flatten(0, 1))))
        features = features.unflatten(0, (batch, num_looks)).transpose(1, 2)
        mixed, state = self.temporal(features, state)
        hidden = F.gelu(features + mixed).transpose(1, 2)
        return self.norm(self.head(hidden).reshape(batch, num_looks * self.upsample, -1)), state
