"""Configuration of the streaming Transformer: flat, JSON-able, checked once."""

from __future__ import annotations

import re
from typing import Any

from causal_vae import check_fields
from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

_LLAMA3_NUMBERS = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")


@strict
class StreamerConfig(PreTrainedConfig):
    """Shape of the Transformer (Qwen3's names), of one unit's tokens, and of what each token may see.

    Args:
        qk_norm: whether queries and keys are normalised, as Qwen3's are.
        attention_bias, attention_output_bias: of the projections into attention, and out of it; None is as into it.
        mlp_bias: of the feed-forward layers.
        rope_scaling: how rotary frequencies differ from those of `rope_theta`, in transformers' terms: {"rope_type":
            "linear", "factor": ...}, or "llama3" with its four numbers.
        layers_without_rope: layers that see no positions (SmolLM3).
        user_audio_tokens, user_video_tokens, perception_dim: what the perception encoders deliver per unit.
        user_text_slots, agent_text_slots: text tokens per unit, padded where silent.
        hears_words: whether a head on the user's audio tokens writes down what the user says, in as many slots a unit
            as the agent's text has.
        audio_latents_per_unit, audio_latent_channels: the audio VAE's latents of one unit.
        audio_patch_size: consecutive audio latents packed into one token.
        video_latent_channels, video_latent_height, video_latent_width: the video VAE's one latent frame per unit.
        video_patch_height, video_patch_width: latent cells packed into one token.
        commit_delay: 0, thinker and performer take turns; 1, they overlap, and context(k) sees responses <= k - 2.
        context_window, response_window: past units that stay visible; None is the full history (DESIGN section 4).
        ticks_per_unit: steps of the shared time axis per unit.
        rope_sections: rotary frequencies given to the (time, height, width) axes, as in Qwen3-VL; None is time only.
        prediction_type: "sample" predicts the clean latent, "velocity" the report's eps - z0 (eq. 2).
        min_sigma: noise level below which a predicted sample is not divided further when velocity is derived from it.
        state_names: what the state slot can say, in the order of `state_token_ids`.
    """

    model_type = "wan_streamer"

    vocab_size: int = 1024
    hidden_size: int = 192
    intermediate_size: int = 512
    num_hidden_layers: int = 5
    num_attention_heads: int = 6
    num_key_value_heads: int = 3
    head_dim: int = 32
    rms_norm_eps: float = 1e-6
    qk_norm: bool = True
    attention_bias: bool = False
    attention_output_bias: bool | None = None
    mlp_bias: bool = False
    tie_word_embeddings: bool = True
    initializer_range: float = 0.02
    rope_theta: float = 10_000.0
    rope_scaling: dict[str, Any] | None = None
    layers_without_rope: list[int] | None = None
    rope_sections: list[int] | None = None

    user_text_slots: int = 1
    user_audio_tokens: int = 2
    user_video_tokens: int = 2
    perception_dim: int = 128
    agent_text_slots: int = 2
    hears_words: bool = False
    audio_latents_per_unit: int = 4
    audio_latent_channels: int = 16
    audio_patch_size: int = 4
    video_latent_channels: int = 32
    video_latent_height: int = 4
    video_latent_width: int = 7
    video_patch_height: int = 4
    video_patch_width: int = 1

    commit_delay: int = 0
    context_window: int | None = 64
    response_window: int | None = 8
    ticks_per_unit: int = 4

    prediction_type: str = "sample"
    min_sigma: float = 0.05
    state_names: list[str] | None = None
    state_token_ids: list[int] | None = None
    pad_token_id: int | None = 0

    def __post_init__(self, **kwargs: Any) -> None:
        floors = {
            "commit_delay": 0,
            "rope_sections": 0,
            "state_token_ids": 0,
            "pad_token_id": 0,
            "layers_without_rope": 0,
        }
        check_fields(self, kwargs, floors)
        self.state_names = self.state_names or ["listen", "speak"]
        self.state_token_ids = self.state_token_ids or [1, 2]
        half = self.head_dim // 2
        self.rope_sections = self.rope_sections or [half - 2 * (half // 4), half // 4, half // 4]
        super().__post_init__(**kwargs)
        self._check()

    def _check(self) -> None:
        """Raise ValueError where fields that are right alone do not fit one another."""
        assert self.state_names and self.state_token_ids and self.rope_sections  # `__post_init__` fills them
        control_ids = [self.pad_token_id, *self.state_token_ids]
        requirements = {
            "num_attention_heads must be a multiple of num_key_value_heads": self.num_attention_heads
            % self.num_key_value_heads
            == 0,
            "head_dim must be even": self.head_dim % 2 == 0,
            "rope_theta must be above 1": self.rope_theta > 1,
            f"rope_scaling must be None, or rope_type 'linear' or 'llama3' with {_LLAMA3_NUMBERS} above 0": (
                _is_rope_scaling(self.rope_scaling)
            ),
            "layers_without_rope must be below num_hidden_layers": max(self.layers_without_rope or [0])
            < self.num_hidden_layers,
            "audio_patch_size must divide audio_latents_per_unit": self.audio_latents_per_unit % self.audio_patch_size
            == 0,
            "video_patch_height must divide video_latent_height": self.video_latent_height % self.video_patch_height
            == 0,
            "video_patch_width must divide video_latent_width": self.video_latent_width % self.video_patch_width == 0,
            "commit_delay must be 0 or 1": self.commit_delay in (0, 1),
            "response_window must be at least commit_delay + 1 units, or None": self.response_window is None
            or self.response_window > self.commit_delay,
            "prediction_type must be 'sample' or 'velocity'": self.prediction_type in ("sample", "velocity"),
            "min_sigma must be at most 1, which is pure noise": self.min_sigma <= 1,
            "rope_sections must be three numbers that sum to head_dim / 2": len(self.rope_sections) == 3
            and sum(self.rope_sections) == self.head_dim // 2,
            "of rope_sections, height and width can take at most a third of head_dim / 2 each": max(
                self.rope_sections[1:], default=0
            )
            <= self.head_dim // 2 // 3,
            "state_names and state_token_ids must match one to one": len(self.state_names) == len(self.state_token_ids),
            "state_names must differ": len(set(self.state_names)) == len(self.state_names),
            "pad_token_id and state_token_ids must be different words of the vocabulary, below vocab_size": all(
                index is not None and index < self.vocab_size for index in control_ids
            )
            and len(set(control_ids)) == len(control_ids),
        }
        for requirement, holds in requirements.items():
            if not holds:
                named = [name for name in re.findall(r"\w+", requirement) if hasattr(self, name)]
                given = ", ".join(f"{name} {getattr(self, name)!r}" for name in named)
                raise ValueError(f"StreamerConfig: {requirement}; got {given}")

    @property
    def agent_audio_tokens(self) -> int:
        return self.audio_latents_per_unit // self.audio_patch_size

    @property
    def agent_video_tokens(self) -> int:
        rows = self.video_latent_height // self.video_patch_height
        return rows * (self.video_latent_width // self.video_patch_width)

    @property
    def audio_token_dim(self) -> int:
        return self.audio_patch_size * self.audio_latent_channels

    @property
    def video_token_dim(self) -> int:
        return self.video_patch_height * self.video_patch_width * self.video_latent_channels

    @property
    def response_delay(self) -> int:
        """Units between hearing u_k and playing y_k on the wall clock (DESIGN section 4)."""
        return 1 + self.commit_delay


def _is_rope_scaling(scaling: dict[str, Any] | None) -> bool:
    if scaling is None:
        return True
    numbers = {"linear": _LLAMA3_NUMBERS[:1], "llama3": _LLAMA3_NUMBERS}.get(scaling.get("rope_type", ""))
    return numbers is not None and all(isinstance(scaling.get(n), int | float) and scaling[n] > 0 for n in numbers)


def preset(name: str, **overrides: Any) -> StreamerConfig:
    """The configuration "tiny" (two CPU cores in real time), "small", or "base" (Qwen3-0.6B's shape).

    "base" has the report's fine grids on a Wan-style VAE: 24 x 42 latents of 16 channels in 2 x 2 patches are
    252 video tokens per unit.
    """
    shapes: dict[str, dict[str, Any]] = {
        "tiny": {},
        "small": {
            "hidden_size": 512,
            "intermediate_size": 1408,
            "num_hidden_layers": 12,
            "num_attention_heads": 8,
            "num_key_value_heads": 4,
            "head_dim": 64,
            "video_patch_height": 2,
            "perception_dim": 256,
            "context_window": 256,
            "response_window": 16,
        },
        "base": {
            "vocab_size": 151_936,
            "hidden_size": 1024,
            "intermediate_size": 3072,
            "num_hidden_layers": 28,
            "num_attention_heads": 16,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "rope_theta": 1_000_000.0,
            "user_text_slots": 4,
            "user_audio_tokens": 2,
            "user_video_tokens": 64,
            "perception_dim": 1024,
            "agent_text_slots": 4,
            "audio_latents_per_unit": 4,
            "audio_latent_channels": 64,
            "audio_patch_size": 1,
            "video_latent_channels": 16,
            "video_latent_height": 24,
            "video_latent_width": 42,
            "video_patch_height": 2,
            "video_patch_width": 2,
            "context_window": None,
            "response_window": None,
            "pad_token_id": 151_669,  # the first rows that Qwen3's own words leave free
            "state_token_ids": [151_670, 151_671],
        },
    }
    if name not in shapes:
        raise ValueError(f"no preset {name!r}; there are {', '.join(shapes)}")
    return StreamerConfig(**shapes[name] | overrides)
