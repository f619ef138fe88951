"""What the agent hears: 24 kHz audio -> a fixed number of tokens per unit, strictly causal. Top to bottom.

A log-mel front end whose frames end where their hop ends, then causal convolutions down to the token rate. Loudness is
split from timbre frame by frame, so a quiet user sounds like a loud one to every channel but one.

Shape legend: B session, T samples, F = T / 240 frames (100 Hz), M mel bands, N = T / 1920 tokens (12.5 Hz).
"""

from __future__ import annotations

from typing import Any

import torch
from causal_vae import (
    CausalConv1d,
    CausalConvNeXt,
    State,
    StreamingModule,
    StreamingSequential,
    StreamSpec,
    check_fields,
    per_unit,
)
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers import PreTrainedConfig

from .perception import PerceptionEncoder


@strict
class CausalAudioEncoderConfig(PreTrainedConfig):
    """Shape of `CausalAudioEncoder`.

    Args:
        unit_ms, tokens_per_unit: the clock (DESIGN section 4): so many tokens for every unit of sound.
        hop_length, window_length, num_mels: the log-mel front end, in samples and bands.
        strides, widths, depths: one stage each: a convolution that divides the rate by its stride, then `depth` blocks.
        kernel_size: taps of each block, at the rate of its stage.
        output_dim: width of a token; the Transformer's `perception_dim`.
    """

    model_type = "causal_audio_encoder"

    sample_rate: int = 24_000
    unit_ms: int = 160
    tokens_per_unit: int = 2
    hop_length: int = 240
    window_length: int = 960
    num_mels: int = 64
    strides: list[int] | None = None
    widths: list[int] | None = None
    depths: list[int] | None = None
    kernel_size: int = 7
    output_dim: int = 128

    def __post_init__(self, **kwargs: Any) -> None:
        check_fields(self, kwargs, floors={"depths": 0})
        self.strides = self.strides or [2, 2, 2]
        self.widths = self.widths or [96, 128, 160]
        self.depths = self.depths or [2, 2, 1]
        super().__post_init__(**kwargs)
        if not len(self.strides) == len(self.widths) == len(self.depths):
            raise ValueError(
                f"CausalAudioEncoderConfig: strides, widths and depths name the same stages; they have "
                f"{len(self.strides)}, {len(self.widths)} and {len(self.depths)} entries"
            )
        samples_per_unit = self.sample_rate * self.unit_ms // 1000
        if self.samples_per_token * self.tokens_per_unit != samples_per_unit:
            raise ValueError(
                f"CausalAudioEncoderConfig: {self.tokens_per_unit} tokens of {self.samples_per_token} samples "
                f"(hop_length times strides) are not one unit of {samples_per_unit} samples"
            )
        if self.window_length < self.hop_length:
            raise ValueError(
                f"CausalAudioEncoderConfig: a window of {self.window_length} samples would skip samples at "
                f"hop_length {self.hop_length}"
            )

    @property
    def samples_per_token(self) -> int:
        assert self.strides  # `__post_init__` fills them
        samples = self.hop_length
        for stride in self.strides:
            samples *= stride
        return samples


def mel_filters(
    sample_rate: int,
    fft_length: int,
    num_mels: int,
    min_hz: float = 40.0,
    max_hz: float | None = None,
    norm: str | None = None,
    mel_scale: str = "htk",
) -> Tensor:
    """torchaudio's triangular mel filters up to `max_hz`, or half the sample rate: (M, fft_length // 2 + 1).

    torchaudio is imported here, not with the package: where its build does not match torch's, only hearing is lost.

    Raises:
        ImportError: torchaudio is missing or does not work beside the installed torch.
    """
    try:
        from torchaudio.functional import melscale_fbanks
    except (ImportError, OSError) as error:
        raise ImportError(
            f"hearing needs a torchaudio that matches torch {torch.__version__} ({error}); "
            "install both from the same index: pip install torch torchaudio"
        ) from error
    # The filters are checked while they are built, which has no meaning on the meta device that loading builds on.
    with torch.device("cpu"):
        num_bins, top = fft_length // 2 + 1, max_hz or sample_rate / 2
        return melscale_fbanks(num_bins, min_hz, top, num_mels, sample_rate, norm, mel_scale).T.contiguous()


class LogMelFrontEnd(StreamingModule):
    """Waveform (B, 1, T) -> log-mel (B, M, F), about -2 to 2. Frame f ends where hop f ends: no look-ahead.

    State: the last `window_length - hop_length` samples. The spectrum is taken here and not by torchaudio's transform,
    which does not trace into one graph.
    """

    window: Tensor
    filters: Tensor

    def __init__(self, sample_rate: int, window_length: int, hop_length: int, num_mels: int) -> None:
        super().__init__()
        self.stride, self.window_length = hop_length, window_length
        # Persistent buffers: transformers gives non-persistent ones back uninitialised.
        self.register_buffer("window", torch.hann_window(window_length))
        self.register_buffer("filters", mel_filters(sample_rate, window_length, num_mels))

    def chunk_shape(self) -> tuple[int, ...]:
        return 1, self.stride

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        self.check_length(x)
        num_past = self.window_length - self.stride
        past = x.new_zeros(x.shape[0], num_past) if state is None else state
        wave = torch.cat([past, x[:, 0]], dim=1)
        frames = wave.unfold(1, self.window_length, self.stride) * self.window
        spectrum = torch.fft.rfft(frames.float())  # there is no transform of half precision
        mel = self.filters @ spectrum.abs().to(x).transpose(1, 2)
        # The floor hides a recording's noise below about -60 dB, so that silence is the same in every room.
        return torch.log(mel + 1e-2) / 2, wave[:, wave.shape[1] - num_past :].clone(
            memory_format=torch.contiguous_format
        )


class SplitLevel(nn.Module):
    """Log-mel (B, M, F) -> each frame's shape about its mean, and the mean as one more channel: (B, M + 1, F)."""

    def forward(self, x: Tensor) -> Tensor:
        level = x.mean(dim=1, keepdim=True)
        return torch.cat([x - level, level], dim=1)


class CausalAudioEncoder(PerceptionEncoder):
    """The user's voice as tokens: (B, 1, T) at 24 kHz -> (B, T / samples_per_token, output_dim).

    With the default sizes a token has heard more than one second, enough for a word; chunks may be as short as one
    token (80 ms). Report, section 2.1: causal perception encoders; their sizes are this project's choice.
    """

    config_class = CausalAudioEncoderConfig
    base_model_prefix = "audio_encoder"
    main_input_name = "audio"

    def __init__(self, config: CausalAudioEncoderConfig) -> None:
        super().__init__(config)
        assert config.strides and config.widths and config.depths  # `__post_init__` fills them
        layers: list[nn.Module] = [
            LogMelFrontEnd(config.sample_rate, config.window_length, config.hop_length, config.num_mels),
            SplitLevel(),
        ]
        width = config.num_mels + 1
        for stride, next_width, depth in zip(config.strides, config.widths, config.depths, strict=True):
            layers += [CausalConv1d(width, next_width, 2 * stride, stride), nn.GELU()]
            layers += [CausalConvNeXt(next_width, 2 * next_width, config.kernel_size) for _ in range(depth)]
            width = next_width
        self.layers = StreamingSequential(*layers)
        self.project = nn.Linear(width, config.output_dim)
        self.norm = nn.LayerNorm(config.output_dim)
        self.stride = config.samples_per_token
        self.post_init()

    @property
    def stream_spec(self) -> StreamSpec:
        return StreamSpec(
            sample_rate=self.config.sample_rate,
            user_audio_tokens=per_unit(self.config.sample_rate, self.stride),
            perception_dim=self.config.output_dim,
        )

    def chunk_shape(self) -> tuple[int, ...]:
        return 1, self.stride

    def forward(self, audio: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Audio (B, 1, T), T a multiple of `samples_per_token` -> tokens (B, N, output_dim), next state."""
        self.check_length(audio)
        features, state = self.layers(audio, state)
        return self.norm(self.project(features.transpose(1, 2))), state
