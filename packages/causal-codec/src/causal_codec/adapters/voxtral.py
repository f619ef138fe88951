"""What the agent hears, with public weights: the causal audio encoder of Voxtral Realtime, in live units.

24 kHz audio -> 16 kHz -> log-mel at 100 Hz -> a causal Transformer at 50 Hz that looks back 15 s -> tokens, by default
2 per unit (12.5 Hz, Voxtral's own rate). The tower is Voxtral's, weight for weight; what is new is the projection of
its frames to `output_dim`, which takes the place of the projector into Voxtral's language model.

Why Voxtral: of transformers' two streaming encoders it is the causal one. Four of the six layers of Moonshine
Streaming (`MoonshineStreamingEncoder`, as its config has it) see 3 frames ahead, 240 ms in all.

Weights are loaded, never shipped. `mistralai/Voxtral-Mini-4B-Realtime-2602` is licensed Apache-2.0, like the class that
reads it, transformers' `VoxtralRealtimeEncoder`.

Shape legend: B session, T samples at 24 kHz, S = 2 T / 3 samples at 16 kHz, M mel bands, F mel frames (100 Hz), W tower
frames (50 Hz), N tokens, D tower width.
Sources: Voxtral Realtime (Mistral AI, 2026); Whisper (arXiv 2212.04356) for the front end.
"""

from __future__ import annotations

import os
from typing import Any

import torch
import torch.nn.functional as F
from causal_vae import (
    CausalConv1d,
    SlidingWindowAttention,
    State,
    StreamingModule,
    StreamingSequential,
    StreamSpec,
    check_fields,
    substates,
)
from causal_vae.hub.loading import LOADING_OPTIONS, refuse_unknown
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers import PreTrainedConfig

from ..perception import PerceptionEncoder
from .public_weights import read_config, read_tower
from .resampling import ResampleTo16k

TOWER_FIELDS = (
    "num_mel_bins",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "head_dim",
    "sliding_window",
    "rms_norm_eps",
)
TOWER_RATE, HOP, WINDOW = 16_000, 160, 400  # samples, of the front end that the tower was trained with
FRAMES_PER_UNIT = 8


@strict
class VoxtralAudioEncoderConfig(PreTrainedConfig):
    """Shape of `VoxtralAudioEncoder`.

    Args:
        tokens_per_unit: a divisor of 8, the tower's frames per unit; so many frames are joined to a token.
        output_dim: width of a token; the Transformer's `perception_dim`.
        num_mel_bins ... rms_norm_eps: of `VoxtralRealtimeEncoderConfig`, under the same names; so is `rope_theta`, of
            its `rope_parameters`. A smaller `sliding_window` takes less memory per session than the public one.
    """

    model_type = "voxtral_audio_encoder"

    tokens_per_unit: int = 2
    output_dim: int = 128
    num_mel_bins: int = 128
    hidden_size: int = 1280
    intermediate_size: int = 5120
    num_hidden_layers: int = 32
    num_attention_heads: int = 32
    head_dim: int = 64
    sliding_window: int = 750
    rope_theta: float = 10_000.0
    rms_norm_eps: float = 1e-5

    def __post_init__(self, **kwargs: Any) -> None:
        check_fields(self, kwargs, floors={})
        super().__post_init__(**kwargs)
        if FRAMES_PER_UNIT % self.tokens_per_unit:
            raise ValueError(
                f"VoxtralAudioEncoderConfig: tokens_per_unit must divide the tower's {FRAMES_PER_UNIT} frames per "
                f"unit; got {self.tokens_per_unit}"
            )

    @property
    def frames_per_token(self) -> int:
        return FRAMES_PER_UNIT // self.tokens_per_unit


class WhisperLogMel(StreamingModule):
    """Waveform (B, 1, S) at 16 kHz -> the tower's log-mel features (B, M, F). Frame f ends where hop f ends.

    The original centres its windows, and so reads 12.5 ms ahead; these are its frames of a sound that comes 2.5 ms
    later. State: the last 240 samples.
    """

    stride = HOP
    filters: Tensor
    window: Tensor

    def __init__(self, num_mels: int) -> None:
        from transformers.audio_utils import mel_filter_bank  # here: it imports torchaudio

        super().__init__()
        filters = mel_filter_bank(
            num_frequency_bins=WINDOW // 2 + 1,
            num_mel_filters=num_mels,
            min_frequency=0.0,
            max_frequency=TOWER_RATE / 2,
            sampling_rate=TOWER_RATE,
            norm="slaney",
            mel_scale="slaney",
        )
        self.register_buffer("filters", torch.from_numpy(filters.T).float().contiguous())
        self.register_buffer("window", torch.hann_window(WINDOW))

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        self.check_length(x)
        num_past = WINDOW - HOP
        past = x.new_zeros(len(x), num_past) if state is None else state
        wave = torch.cat([past, x[:, 0]], dim=1)
        power = torch.fft.rfft(wave.unfold(1, WINDOW, HOP) * self.window).abs().square()
        mel = (self.filters @ power.transpose(1, 2)).clamp(min=1e-10).log10()
        # 8 decades below a fixed maximum of 1.5, so that no frame waits for the loudest one.
        return (mel.clamp(min=1.5 - 8) + 4) / 4, wave[:, wave.shape[1] - num_past :].clone(
            memory_format=torch.contiguous_format
        )


class GatedFeedForward(nn.Module):
    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(dim, hidden_dim, bias=False)
        self.up_proj = nn.Linear(dim, hidden_dim, bias=False)
        self.down_proj = nn.Linear(hidden_dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class VoxtralLayer(StreamingModule):
    """One layer over tokens (B, W, D). State: its attention's."""

    time_axis = out_time_axis = 1

    def __init__(self, config: VoxtralAudioEncoderConfig) -> None:
        super().__init__()
        dim, heads = config.hidden_size, config.num_attention_heads
        self.self_attn_layer_norm = nn.RMSNorm(dim, config.rms_norm_eps)
        self.self_attn = SlidingWindowAttention(
            dim, heads, heads, config.head_dim, config.sliding_window, config.rope_theta, bias=True
        )
        self.final_layer_norm = nn.RMSNorm(dim, config.rms_norm_eps)
        self.mlp = GatedFeedForward(dim, config.intermediate_size)

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        y, state = self.self_attn(self.self_attn_layer_norm(x), state)
        x = x + y
        return x + self.mlp(self.final_layer_norm(x)), state


class VoxtralTower(StreamingModule):
    """`VoxtralRealtimeEncoder` for a live stream: log-mel (B, M, F) -> frames (B, F / 2, D)."""

    stride, out_time_axis = 2, 1

    def __init__(self, config: VoxtralAudioEncoderConfig) -> None:
        super().__init__()
        dim = config.hidden_size
        self.embedder = StreamingSequential(
            CausalConv1d(config.num_mel_bins, dim, 3), nn.GELU(), CausalConv1d(dim, dim, 3, stride=2), nn.GELU()
        )
        self.layers = nn.ModuleList(VoxtralLayer(config) for _ in range(config.num_hidden_layers))
        self.norm = nn.RMSNorm(dim, config.rms_norm_eps)

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        self.check_length(x)
        past, new = substates(state), {}
        x, new["embedder"] = self.embedder(x, past["embedder"])
        x = x.transpose(1, 2)
        layers, new["layers"] = substates(past["layers"]), {}
        for index, layer in enumerate(self.layers):
            x, new["layers"][f"{index}"] = layer(x, layers[f"{index}"])
        return self.norm(x), new


class VoxtralAudioEncoder(PerceptionEncoder):
    """The user's voice as tokens: (B, 1, T) at 24 kHz -> (B, T / samples_per_token, output_dim).

    `from_voxtral` takes the tower from public weights. `encoder.tower.requires_grad_(False)` trains the new parts
    alone (`project`, `norm`); otherwise all of it is trained.
    """

    config_class = VoxtralAudioEncoderConfig
    base_model_prefix = "audio_encoder"
    main_input_name = "audio"

    def __init__(self, config: VoxtralAudioEncoderConfig) -> None:
        super().__init__(config)
        self.front_end = StreamingSequential(ResampleTo16k(), WhisperLogMel(config.num_mel_bins))
        self.tower = VoxtralTower(config)
        self.project = nn.Linear(config.frames_per_token * config.hidden_size, config.output_dim)
        self.norm = nn.LayerNorm(config.output_dim)
        self.stride = 24_000 * 2 * HOP // TOWER_RATE * config.frames_per_token
        self.post_init()

    @classmethod
    def from_voxtral(
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str],
        output_dim: int = 128,
        tokens_per_unit: int = 2,
        sliding_window: int | None = None,
        **kwargs: Any,
    ) -> VoxtralAudioEncoder:
        """Start from a folder or hub id of Voxtral Realtime (whole, or its encoder alone) with a fresh projection.

        Args:
            sliding_window: frames of 20 ms that the tower looks back, if not its own 750.
            kwargs: of transformers' `from_pretrained`: revision, cache_dir, token, local_files_only, dtype ...

        Raises:
            ValueError: the source is not Voxtral Realtime, or its weights do not fit its config.
        """
        from transformers import VoxtralRealtimeEncoder

        own = {"output_dim", "tokens_per_unit", "sliding_window"}
        refuse_unknown(kwargs, LOADING_OPTIONS | own, "from_voxtral")
        source = read_config(pretrained_model_name_or_path, "voxtral_realtime", "voxtral_realtime_encoder", kwargs)
        audio = getattr(source, "audio_config", source)
        tower = read_tower(
            VoxtralRealtimeEncoder,
            pretrained_model_name_or_path,
            config=audio,
            key_mapping={r"^(?:model\.)?audio_tower\.": ""},
            **kwargs,
        )
        fields = {name: getattr(audio, name) for name in TOWER_FIELDS}
        fields["rope_theta"] = float(audio.rope_parameters["rope_theta"])
        if sliding_window is not None:
            fields["sliding_window"] = sliding_window
        encoder = cls(VoxtralAudioEncoderConfig(output_dim=output_dim, tokens_per_unit=tokens_per_unit, **fields))
        encoder.tower.load_state_dict({_tower_name(name): weight for name, weight in tower.state_dict().items()})
        return encoder.to(tower.dtype)

    @property
    def stream_spec(self) -> StreamSpec:
        return StreamSpec(
            sample_rate=24_000,
            user_audio_tokens=self.config.tokens_per_unit,
            perception_dim=self.config.output_dim,
        )

    def chunk_shape(self) -> tuple[int, ...]:
        return 1, self.stride

    def forward(self, audio: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Audio (B, 1, T), T a multiple of `stride` -> tokens (B, N, output_dim), next state."""
        self.check_length(audio)
        past, new = substates(state), {}
        mel, new["front_end"] = self.front_end(audio, past["front_end"])
        frames, new["tower"] = self.tower(mel, past["tower"])
        return self.norm(self.project(frames.unflatten(1, (-1, self.config.frames_per_token)).flatten(2))), new


def _tower_name(name: str) -> str:
    """Our name of a weight of `VoxtralRealtimeEncoder`: its two convolutions stand in one sequence."""
    return name.replace("embedder.conv1.", "embedder.0.conv.").replace("embedder.conv2.", "embedder.2.conv.")
