"""What the agent sees, with public weights: SigLIP 2's vision tower on one frame per look.

25 fps video -> the last frame of each group (one look per unit by default) -> patches of 16 x 16 -> the tower ->
neighbouring patches joined and projected to tokens. SigLIP 2's NaFlex checkpoints take any grid of up to 256 patches:
192 x 336 is 12 x 21 of them, without a change of shape. The tower is SigLIP 2's, weight for weight; what is new is the
projection of 3 x 3 patches to one token of `output_dim`: 28 tokens per unit.

A picture is seen alone: the tower was trained on still images and has no memory, so that every law of streaming holds
for it by construction. Motion is left to the Transformer.

Weights are loaded, never shipped. `google/siglip2-base-patch16-naflex` is licensed Apache-2.0, like the class that
reads it, transformers' `Siglip2VisionModel`.

Shape legend: B session, T frames, L looks, H x W camera picture, h x w the picture looked at, R x C patches, D width.
Source: SigLIP 2 (arXiv 2502.14786).
"""

from __future__ import annotations

import os
from typing import Any

import torch
import torch.nn.functional as F
from causal_vae import State, StreamSpec, check_fields
from causal_vae.hub.loading import LOADING_OPTIONS, refuse_unknown
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers import PreTrainedConfig

from ..perception import VideoPerceptionEncoder
from .public_weights import read_config, read_tower

TOWER_FIELDS = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "patch_size",
    "num_patches",
    "layer_norm_eps",
    "hidden_act",
)


@strict
class SiglipVideoEncoderConfig(PreTrainedConfig):
    """Shape of `SiglipVideoEncoder`.

    Args:
        image_height, image_width: size of the picture looked at; multiples of `patch_size * patches_per_side`.
        frames_per_look: camera frames from one look to the next; 4, one look per unit, or a divisor of it.
        patches_per_side: so many patches, squared, are joined to a token.
        output_dim: width of a token; the Transformer's `perception_dim`.
        hidden_size ... hidden_act: of `Siglip2VisionConfig`, under the same names.
    """

    model_type = "siglip_video_encoder"

    image_height: int = 192
    image_width: int = 336
    frames_per_look: int = 4
    patches_per_side: int = 3
    output_dim: int = 128
    hidden_size: int = 768
    intermediate_size: int = 3072
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    patch_size: int = 16
    num_patches: int = 256
    layer_norm_eps: float = 1e-6
    hidden_act: str = "gelu_pytorch_tanh"

    def __post_init__(self, **kwargs: Any) -> None:
        check_fields(self, kwargs, floors={})
        super().__post_init__(**kwargs)
        side = self.patch_size * self.patches_per_side
        if self.image_height % side or self.image_width % side:
            raise ValueError(
                f"SiglipVideoEncoderConfig: image_height and image_width must be multiples of {side} (patch_size x "
                f"patches_per_side); got {self.image_height} x {self.image_width}"
            )
        if self.frames_per_look not in (1, 2, 4):
            raise ValueError(f"SiglipVideoEncoderConfig: frames_per_look must be 1, 2 or 4; got {self.frames_per_look}")

    @property
    def grid(self) -> tuple[int, int]:
        """Patches (R, C) of a picture."""
        return self.image_height // self.patch_size, self.image_width // self.patch_size

    @property
    def tokens_per_look(self) -> int:
        return self.grid[0] * self.grid[1] // self.patches_per_side**2

    @property
    def tokens_per_unit(self) -> int:
        return self.tokens_per_look * 4 // self.frames_per_look


class SiglipVideoEncoder(VideoPerceptionEncoder):
    """The user's picture as tokens: (B, 3, T, H, W) in [-1, 1] -> (B, T / frames_per_look * upsample, output_dim).

    Any height and width: pictures are resized to the configured size. `from_siglip2` takes the tower from public
    weights. `encoder.tower.requires_grad_(False)` trains the new parts alone (`project`, `norm`); otherwise all of it
    is trained. The state is empty: every look stands alone.
    """

    config_class = SiglipVideoEncoderConfig

    def __init__(self, config: SiglipVideoEncoderConfig) -> None:
        from transformers import Siglip2VisionConfig, Siglip2VisionModel  # here: slow to import, and most do without

        super().__init__(config)
        fields = {name: getattr(config, name) for name in TOWER_FIELDS}
        self.tower = Siglip2VisionModel(Siglip2VisionConfig(vision_use_head=False, **fields))
        self.project = nn.Linear(config.patches_per_side**2 * config.hidden_size, config.output_dim)
        self.norm = nn.LayerNorm(config.output_dim)
        self.stride, self.upsample = config.frames_per_look, config.tokens_per_look
        self.post_init()

    @classmethod
    def from_siglip2(
        cls, pretrained_model_name_or_path: str | os.PathLike[str], output_dim: int = 128, **kwargs: Any
    ) -> SiglipVideoEncoder:
        """Start from a folder or hub id of a SigLIP 2 NaFlex model (whole, or its vision tower alone).

        Args:
            kwargs: fields of `SiglipVideoEncoderConfig` that are not the tower's, and options of transformers'
                `from_pretrained`: revision, cache_dir, token, local_files_only, dtype ...

        Raises:
            ValueError: the source is not of that kind (SigLIP 2 of one fixed resolution is transformers' 'siglip'), or
                its weights do not fit its config.
        """
        from transformers import Siglip2VisionModel

        ours = ("image_height", "image_width", "frames_per_look", "patches_per_side")
        refuse_unknown(kwargs, {*LOADING_OPTIONS, *ours, "output_dim"}, "from_siglip2")
        fields = {name: kwargs.pop(name) for name in ours if name in kwargs} | {"output_dim": output_dim}
        source = read_config(pretrained_model_name_or_path, "siglip2", "siglip2_vision_model", kwargs)
        tower_config = getattr(source, "vision_config", source)
        tower_config.vision_use_head = False
        tower = read_tower(Siglip2VisionModel, pretrained_model_name_or_path, config=tower_config, **kwargs)
        fields |= {name: getattr(tower_config, name) for name in TOWER_FIELDS}
        encoder = cls(SiglipVideoEncoderConfig(**fields))
        encoder.tower.load_state_dict(tower.state_dict())
        return encoder.to(tower.dtype)

    @property
    def stream_spec(self) -> StreamSpec:
        return StreamSpec(
            frames_per_unit=4,
            user_video_tokens=self.config.tokens_per_unit,
            perception_dim=self.config.output_dim,
        )

    def resize(self, pictures: Tensor, size: tuple[int, int]) -> Tensor:
        return F.interpolate(pictures, size, mode="bilinear", antialias=True)

    def see(self, frames: Tensor, state: State | None) -> tuple[Tensor, State]:
        features = self.look(frames.transpose(1, 2).flatten(0, 1))  # (B L, R C, D)
        (rows, columns), side = self.config.grid, self.config.patches_per_side
        blocks = features.unflatten(1, (rows // side, side, columns // side, side)).transpose(2, 3)
        tokens = self.norm(self.project(blocks.flatten(3).flatten(1, 2)))
        return tokens.unflatten(0, (len(frames), -1)).flatten(1, 2), frames.new_zeros(len(frames), 0)

    def look(self, frames: Tensor) -> Tensor:
        """Pictures (N, 3, h, w) of the configured size -> the tower's features (N, R C, D).

        The tower's own first step reads each picture's size from a tensor; here all have one, known before.
        """
        rows, columns = self.config.grid
        patches = frames.unflatten(3, (columns, -1)).unflatten(2, (rows, -1)).permute(0, 2, 4, 3, 5, 1)
        embeddings = self.tower.embeddings.patch_embedding(patches.flatten(3).flatten(1, 2))
        side = int(self.config.num_patches**0.5)
        # Looked up, not read off the weight, which may be on disk until its layer is called.
        places = self.tower.embeddings.position_embedding(torch.arange(side * side, device=frames.device))
        places = places.unflatten(0, (side, side)).permute(2, 0, 1)[None]
        # float: antialiasing on CPU knows no half precision.
        places = F.interpolate(places.float(), (rows, columns), mode="bilinear", antialias=True).to(embeddings.dtype)
        hidden = self.tower.encoder(inputs_embeds=embeddings + places.flatten(2).transpose(1, 2)).last_hidden_state
        return self.tower.post_layernorm(hidden)
