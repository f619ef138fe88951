"""What the user sounds like: a causal log-mel encoder, a fixed number of tokens per 160 ms unit.

Shape legend: B session, T samples, F frames (100 Hz), N tokens, D token width.
"""

from __future__ import annotations

import torch
from causal_vae import CausalConv1d, CausalConvNeXt, CheckedLoading, State, StreamingModule, StreamingSequential
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

UNIT_MS = 160


@strict
class CausalAudioEncoderConfig(PreTrainedConfig):
    """Args: tokens_per_unit tokens of width output_dim per 160 ms; `depth` ConvNeXt blocks at each of three rates."""

    model_type = "causal_audio_encoder"

    sample_rate: int = 24_000
    hop_length: int = 240
    window_size: int = 720
    num_mels: int = 64
    hidden_dim: int = 128
    depth: int = 2
    tokens_per_unit: int = 2
    output_dim: int = 128

    @property
    def samples_per_token(self) -> int:
        return self.sample_rate * UNIT_MS // 1000 // self.tokens_per_unit


class LogMelFrontEnd(StreamingModule):
    """torchaudio's mel spectrogram as a stream: (B, 1, T) -> log-mel (B, num_mels, F), frame k ends with hop k.

    State: the last `window - hop` samples.
    """

    def __init__(self, config: CausalAudioEncoderConfig) -> None:
        super().__init__()
        try:
            from torchaudio.transforms import MelSpectrogram
        except (ImportError, OSError) as error:
            raise ImportError(
                "CausalAudioEncoder needs a torchaudio that matches torch: `pip install torch torchaudio` together"
            ) from error
        self.stride, self.num_past = config.hop_length, config.window_size - config.hop_length
        # On the CPU even while a checkpoint loads on the meta device: torchaudio computes filters from numbers.
        with torch.device("cpu"):
            self.mel = MelSpectrogram(
                config.sample_rate,
                config.window_size,
                hop_length=config.hop_length,
                f_min=40.0,
                n_mels=config.num_mels,
                power=1.0,
                center=False,
            )

    def chunk_shape(self) -> tuple[int, ...]:
        return 1, self.stride

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        self.check_length(x)
        past = x.new_zeros(x.shape[0], 1, self.num_past) if state is None else state
        x = torch.cat([past, x], dim=2)
        mel = torch.log(self.mel(x[:, 0]) + 1e-2)
        return mel, x[:, :, x.shape[2] - self.num_past :].contiguous().clone()


class CausalAudioEncoder(CheckedLoading, PreTrainedModel, StreamingModule):
    """User audio (B, 1, T) at 24 kHz -> tokens (B, N, D), strictly causal (report, section 2.1: perception)."""

    config_class = CausalAudioEncoderConfig
    main_input_name = "audio"
    out_time_axis = 1

    def __init__(self, config: CausalAudioEncoderConfig) -> None:
        super().__init__(config)
        c, dim = config, config.hidden_dim
        ratio = c.samples_per_token // c.hop_length
        if c.samples_per_token % (2 * c.hop_length):
            raise ValueError(f"{c.tokens_per_unit} tokens per unit do not fall on an even number of hops of {c.hop_length}")
        self.stride = c.samples_per_token

        def blocks(kernel_size: int) -> list[nn.Module]:
            return [CausalConvNeXt(dim, 2 * dim, kernel_size) for _ in range(c.depth)]

        self.layers = StreamingSequential(
            LogMelFrontEnd(config),
            CausalConv1d(c.num_mels, dim, 5, stride=2),
            *blocks(7),
            CausalConv1d(dim, dim, ratio, stride=ratio // 2),
            *blocks(5),
        )
        self.head = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, c.output_dim), nn.LayerNorm(c.output_dim))
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Layers initialise themselves."""

    def chunk_shape(self) -> tuple[int, ...]:
        return 1, self.stride

    def forward(self, audio: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        self.check_length(audio)
        features, state = self.layers(audio, state)
        return self.head(features.transpose(1, 2)), state
