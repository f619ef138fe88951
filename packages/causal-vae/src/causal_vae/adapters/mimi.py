"""Mimi's audio codec without its quantiser, behind the streaming contract: public weights, live units of 160 ms.

24 kHz mono <-> 2 latents of 512 channels per unit (12.5 Hz). transformers' `MimiModel` cannot decode a live stream: its
decoder convolutions forget between calls. Here all of the past goes in and comes out, and chunks give what its
encoder and decoder give for a whole clip.

Why Mimi. transformers has two continuous causal codecs with public weights. VibeVoice's acoustic tokenizer
(`VibeVoiceAcousticTokenizerModel`) is strictly causal, too, but one of its latents is 3,200 samples, so that units and
latents meet every 800 ms only. A latent of Mimi is 1,920 samples, half a unit. Mimi was trained with the quantiser left
out half of the time (Moshi, section 3.3), so its decoder knows these latents. No step of encoder or decoder sees its
future; both attend to the last 10 s, at 25 Hz.

Weights are loaded, never shipped. `kyutai/mimi` is licensed CC BY 4.0; the class is transformers' `MimiModel`
(Apache-2.0), which is needed to read its folder: pip install wan-causal-vae[public].

Shape legend: B session, T samples, L = T / 1920 latents, C latent channels.
Sources: Moshi (arXiv 2410.00037, section 3.3: Mimi); SEANet (arXiv 2009.02095); transformers' `MimiModel`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from diffusers.utils.accelerate_utils import apply_forward_hook
from torch import Tensor, nn

from ..attention import SlidingWindowAttention
from ..distributions import DiagonalGaussian
from ..hub.loading import (
    LOADING_OPTIONS,
    CheckedLoading,
    _check_weights_fit,
    check_folder_holds,
    refuse_unknown,
    take_dtype,
)
from ..latent_norm import LatentNorm
from ..layers import CausalConv1d, CausalConvTranspose1d
from ..spec import StreamSpec, per_unit
from ..streaming import State, StreamingModule, StreamingSequential, substates

if TYPE_CHECKING:
    from transformers import MimiConfig, MimiModel

TRANSFORMERS_CLASS = "MimiModel"
# Mimi's encoder gives a point, not a distribution; this is Wan's smallest log-variance.
LOG_VARIANCE = -30.0
# Shapes that Mimi's config can name and no public weights have.
FIXED_FIELDS = {
    "audio_channels": 1,
    "use_causal_conv": True,
    "pad_mode": "constant",
    "trim_right_ratio": 1.0,
    "use_conv_shortcut": False,
    "hidden_act": "gelu",
    "attention_bias": False,
    "latent_stride": 2,
}


class ReplicatingConv1d(CausalConv1d):
    """A `CausalConv1d` whose stream begins with its first step repeated, not with zeros; `started` tells when."""

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        past = x[:, :, :1].expand(-1, -1, self.num_past)
        if state is not None:
            past = torch.where(state["started"][:, None, None], state["past"], past)
        y, past = super().forward(x, past)
        return y, {"past": past, "started": torch.ones(len(x), dtype=torch.bool, device=x.device)}


class GroupedConvTranspose1d(CausalConvTranspose1d):
    """A `CausalConvTranspose1d` in groups of channels, without bias."""

    def __init__(self, channels: int, kernel_size: int, stride: int, groups: int) -> None:
        super().__init__(channels, channels, kernel_size, stride)
        self.conv = nn.ConvTranspose1d(channels, channels, kernel_size, stride, groups=groups, bias=False)


class ResidualBlock(StreamingModule):
    """SEANet's residual block over (B, C, T): a dilated convolution and a pointwise one on a narrower branch."""

    def __init__(self, channels: int, hidden_channels: int, kernel_size: int, dilation: int) -> None:
        super().__init__()
        self.block = StreamingSequential(
            nn.ELU(),
            CausalConv1d(channels, hidden_channels, kernel_size, dilation=dilation),
            nn.ELU(),
            CausalConv1d(hidden_channels, channels, 1),
        )

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        y, state = self.block(x, state)
        return x + y, state


class LayerScale(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((dim,), 0.01))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * x


class FeedForward(nn.Module):
    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden_dim, bias=False)
        self.fc2 = nn.Linear(hidden_dim, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class TransformerLayer(StreamingModule):
    """One layer over tokens (B, T, C). State: its attention's."""

    time_axis = out_time_axis = 1

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        dim = config["latent_channels"]
        self.input_layernorm = nn.LayerNorm(dim, eps=config["norm_eps"])
        self.self_attn = SlidingWindowAttention(
            dim,
            config["num_attention_heads"],
            config["num_key_value_heads"],
            config["head_dim"],
            config["sliding_window"],
            config["rope_theta"],
        )
        self.self_attn_layer_scale = LayerScale(dim)
        self.post_attention_layernorm = nn.LayerNorm(dim, eps=config["norm_eps"])
        self.mlp = FeedForward(dim, config["intermediate_size"])
        self.mlp_layer_scale = LayerScale(dim)

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        y, state = self.self_attn(self.input_layernorm(x), state)
        x = x + self.self_attn_layer_scale(y)
        return x + self.mlp_layer_scale(self.mlp(self.post_attention_layernorm(x))), state


class Transformer(StreamingModule):
    """Layers in a row over channels-first steps (B, C, T)."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(TransformerLayer(config) for _ in range(config["num_hidden_layers"]))

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        past, new = substates(state), {}
        x = x.transpose(1, 2)
        for index, layer in enumerate(self.layers):
            x, new[f"{index}"] = layer(x, past[f"{index}"])
        return x.transpose(1, 2), new


def residual_blocks(config: dict[str, Any], channels: int) -> list[nn.Module]:
    hidden, kernel_size = channels // config["compress"], config["residual_kernel_size"]
    dilations = [config["dilation_growth_rate"] ** index for index in range(config["num_residual_layers"])]
    return [ResidualBlock(channels, hidden, kernel_size, dilation) for dilation in dilations]


def encoder_layers(config: dict[str, Any]) -> list[nn.Module]:
    """SEANet's encoder: (B, 1, T) -> (B, C, T / 960), at 25 Hz."""
    width = config["num_filters"]
    layers: list[nn.Module] = [CausalConv1d(1, width, config["kernel_size"])]
    for ratio in reversed(config["upsampling_ratios"]):
        layers += [*residual_blocks(config, width), nn.ELU(), CausalConv1d(width, 2 * width, 2 * ratio, ratio)]
        width *= 2
    return [*layers, nn.ELU(), CausalConv1d(width, config["latent_channels"], config["last_kernel_size"])]


def decoder_layers(config: dict[str, Any]) -> list[nn.Module]:
    """SEANet's decoder: (B, C, T / 960) -> (B, 1, T)."""
    width = config["num_filters"] * 2 ** len(config["upsampling_ratios"])
    layers: list[nn.Module] = [CausalConv1d(config["latent_channels"], width, config["kernel_size"])]
    for ratio in config["upsampling_ratios"]:
        layers += [nn.ELU(), CausalConvTranspose1d(width, width // 2, 2 * ratio, ratio)]
        width //= 2
        layers += residual_blocks(config, width)
    return [*layers, nn.ELU(), CausalConv1d(width, 1, config["last_kernel_size"])]


class MimiAudioVAE(CheckedLoading, ModelMixin, StreamingModule, ConfigMixin):
    """Mimi without quantiser for a live stream: audio (B, 1, T) <-> latents (B, latent_channels, T / 1920).

    The contract is `CausalAudioVAE`'s; T is a multiple of `samples_per_latent`. The posterior is a point: Mimi's
    encoder is not variational. Latents are standardised with the mean and deviation of what Mimi's own codebooks hold
    (see `codebook_statistics`); `latent_norm.fit` takes those of your recordings instead.

    The arguments are the fields of `MimiConfig` under their names there, but `latent_channels` (`hidden_size`) and
    `sample_rate` (`sampling_rate`).
    """

    @register_to_config
    def __init__(
        self,
        sample_rate: int = 24_000,
        latent_channels: int = 512,
        num_filters: int = 64,
        num_residual_layers: int = 1,
        upsampling_ratios: Sequence[int] = (8, 6, 5, 4),
        kernel_size: int = 7,
        last_kernel_size: int = 3,
        residual_kernel_size: int = 3,
        dilation_growth_rate: int = 2,
        compress: int = 2,
        upsample_groups: int = 512,
        num_hidden_layers: int = 8,
        intermediate_size: int = 2048,
        num_attention_heads: int = 8,
        num_key_value_heads: int = 8,
        head_dim: int = 64,
        sliding_window: int = 250,
        rope_theta: float = 10_000.0,
        norm_eps: float = 1e-5,
    ) -> None:
        super().__init__()
        down = ReplicatingConv1d(latent_channels, latent_channels, 4, stride=2, bias=False)
        up = GroupedConvTranspose1d(latent_channels, 4, 2, upsample_groups)
        self.encoder = StreamingSequential(*encoder_layers(self.config), Transformer(self.config), down)
        self.decoder = StreamingSequential(up, Transformer(self.config), *decoder_layers(self.config))
        self.latent_norm = LatentNorm(latent_channels)
        self.stride = self.upsample = self.samples_per_latent

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike[str], **kwargs: Any) -> MimiAudioVAE:
        """Load a folder or hub id that `MimiModel.save_pretrained` or ours wrote, for example "kyutai/mimi".

        Raises:
            ValueError: the folder holds another class, lacks its config, or its weights are damaged or do not fit.
            ImportError: the folder is `MimiModel`'s and transformers is not installed.
        """
        folder = Path(pretrained_model_name_or_path, kwargs.get("subfolder") or "")
        is_local = Path(pretrained_model_name_or_path).is_dir()
        if is_local and not (folder / "config.json").is_file():
            check_folder_holds(folder, cls.__name__)  # says what is wrong
        names = ("subfolder", "revision", "cache_dir", "token", "local_files_only", "force_download")
        hub = {name: kwargs[name] for name in names if kwargs.get(name) is not None}
        if cls.load_config(pretrained_model_name_or_path, **hub).get("model_type") != "mimi":
            return super().from_pretrained(pretrained_model_name_or_path, **kwargs)
        refuse_unknown(kwargs, LOADING_OPTIONS, "MimiAudioVAE.from_pretrained")
        if is_local:
            check_folder_holds(folder, TRANSFORMERS_CLASS)
        kwargs |= {
            "dtype": take_dtype(kwargs) or torch.float32,
            "output_loading_info": True,
            "ignore_mismatched_sizes": True,
        }
        mimi, info = _mimi_class().from_pretrained(pretrained_model_name_or_path, **kwargs)
        _check_weights_fit(info, f"the weights in {folder} do not fit the config.json beside them")
        return cls.from_mimi(mimi)

    @classmethod
    def from_mimi(cls, mimi: MimiModel) -> MimiAudioVAE:
        """A copy of a loaded `MimiModel`, on its device and in its dtype.

        Raises:
            ValueError: it is another class, or Mimi in a shape that no public weights have.
        """
        if type(mimi).__name__ != TRANSFORMERS_CLASS:
            raise ValueError(f"from_mimi takes a {TRANSFORMERS_CLASS}; got {type(mimi).__name__}")
        vae = cls(**config_fields(mimi.config))
        vae.encoder.load_state_dict(
            _in_a_row(mimi.encoder, ["encoder_seanet.layers", "encoder_transformer", "downsample"])
        )
        vae.decoder.load_state_dict(
            _in_a_row(mimi.decoder, ["upsample", "decoder_transformer", "decoder_seanet.layers"])
        )
        mean, std = codebook_statistics(mimi)
        vae.latent_norm.mean.copy_(mean)
        vae.latent_norm.std.copy_(std)
        return nn.Module.to(vae, mimi.device, mimi.dtype).train(mimi.training)

    @property
    def samples_per_latent(self) -> int:
        return self.encoder.stride

    @property
    def stream_spec(self) -> StreamSpec:
        rate = self.config.sample_rate
        return StreamSpec(
            sample_rate=rate,
            audio_latents_per_unit=per_unit(rate, self.samples_per_latent),
            audio_latent_channels=self.config.latent_channels,
        )

    def chunk_shape(self) -> tuple[int, ...]:
        return 1, self.stride

    @apply_forward_hook
    def encode(self, audio: Tensor, state: State | None = None) -> tuple[DiagonalGaussian, State]:
        """Audio (B, 1, T), T a multiple of `samples_per_latent` -> posterior over latents (B, C, L), next state."""
        self.check_length(audio)
        latents, state = self.encoder(audio, state)
        return self.latent_norm.standardize(DiagonalGaussian(latents, torch.full_like(latents, LOG_VARIANCE))), state

    @apply_forward_hook
    def decode(self, latents: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Latents (B, C, L) -> audio (B, 1, L * samples_per_latent), next state."""
        return self.decoder(self.latent_norm.restore(latents), state)

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        past, new = substates(state), {}
        posterior, new["encoder"] = self.encode(x, past["encoder"])
        audio, new["decoder"] = self.decode(posterior.mode(), past["decoder"])
        return audio, new


def config_fields(config: MimiConfig) -> dict[str, Any]:
    """The arguments of `MimiAudioVAE` from a `MimiConfig`; ValueError if it has a shape that ours lacks."""
    different = {name: getattr(config, name) for name, value in FIXED_FIELDS.items() if getattr(config, name) != value}
    if different:
        wanted = {name: FIXED_FIELDS[name] for name in different}
        raise ValueError(f"this Mimi has {different}; MimiAudioVAE needs {wanted}, as kyutai/mimi has")
    ours = {"latent_channels": "hidden_size", "sample_rate": "sampling_rate"}
    known = set(MimiAudioVAE._get_init_keys(MimiAudioVAE)) - {"self", "rope_theta", *ours}
    fields = {name: getattr(config, name) for name in known}
    fields |= {name: getattr(config, theirs) for name, theirs in ours.items()}
    return fields | {"rope_theta": float(config.rope_parameters["rope_theta"])}


@torch.no_grad()
def codebook_statistics(mimi: Any) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (C,) of latents as Mimi's codebooks hold them, by how often each code was used.

    The stages of a residual quantiser are taken as independent. No recording is needed: the statistics are the public
    weights' own. Channels that the codebooks leave constant (fresh weights) keep a deviation of 1.
    """
    mean, variance = torch.zeros(2, mimi.config.hidden_size, device=mimi.device)
    quantizer = mimi.quantizer
    for stack in (quantizer.semantic_residual_vector_quantizer, quantizer.acoustic_residual_vector_quantizer):
        for layer in stack.layers:
            codes = layer.codebook.embed.float()
            if stack.output_proj is not None:
                codes = codes @ stack.output_proj.weight[:, :, 0].float().T
            used = layer.codebook.cluster_usage.float()
            share = (used / used.sum())[:, None]
            center = (share * codes).sum(dim=0)
            mean += center
            variance += (share * (codes - center).square()).sum(dim=0)
    return mean, torch.where(variance > 1e-6, variance, 1).sqrt()


def _in_a_row(half: nn.Module, parts: list[str]) -> dict[str, Tensor]:
    """The weights of Mimi's encoder or decoder under the names of one sequence: its parts' layers, counted on."""
    weights: dict[str, Tensor] = {}
    count = 0
    for name in parts:
        part = half.get_submodule(name)
        children = part if isinstance(part, nn.ModuleList) else [part]
        for child in children:
            weights |= {f"{count}.{key}": value for key, value in child.state_dict().items()}
            count += 1
    return weights


def _mimi_class() -> type[MimiModel]:
    try:
        from transformers import MimiModel
    except ImportError as error:
        raise ImportError(
            f"reading Mimi's own folders takes transformers ({error}): pip install wan-causal-vae[public]"
        ) from error
    return MimiModel
