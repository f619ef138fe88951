"""What each stage draws and for how long, which weights each method trains, and the module that trains them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from causal_codec import (
    CausalAudioEncoder,
    CausalAudioEncoderConfig,
    CausalVideoEncoder,
    CausalVideoEncoderConfig,
)
from lightning.pytorch import LightningModule
from streamer_core import StreamerModel, preset
from torch import nn

from ..pipeline import StreamerPipeline
from .config import TrainConfig
from .distillation import SelfForcing, TrajectoryDistillation
from .modules import DuplexTraining, ShardedDuplexTraining

HEADS = ("audio_out", "video_out", "lm_head", "heard_out")
_STREAM_FIELDS = (
    "user_text_slots",
    "agent_text_slots",
    "audio_latents_per_unit",
    "audio_latent_channels",
    "audio_patch_size",
    "video_latent_channels",
    "video_latent_height",
    "video_latent_width",
    "video_patch_height",
    "video_patch_width",
)


@dataclass(frozen=True)
class Stage:
    """tasks: how often each comes, as `Mixture.parse` reads it."""

    tasks: str
    max_steps: int
    learning_rate: float


STAGES = {
    1: Stage("hearing=0.35 words=0.35 speaking=0.3", 4000, 1.5e-3),
    2: Stage("duplex=0.5 words=0.3 hearing=0.1 speaking=0.1", 2000, 3e-4),
    3: Stage("duplex=0.6 words=0.25 speaking=0.15", 400, 3e-4),
}
PHASES = {"trajectory": TrajectoryDistillation, "self-forcing": SelfForcing}  # of stage 3
LORA_LEARNING_RATE = 1e-3  # adapters start from nothing


def learning_rate(config: TrainConfig) -> float:
    if config.learning_rate is not None:
        return config.learning_rate
    return LORA_LEARNING_RATE if config.method == "lora" else STAGES[config.stage].learning_rate


def new_weights(pipeline: StreamerPipeline, name: str) -> None:
    """Put a new Transformer of a preset's shape and new encoders into a pipeline, for its tokenizer and its VAEs."""
    streams = {field: getattr(pipeline.streamer.config, field) for field in _STREAM_FIELDS}
    tokenizer = pipeline.tokenizer
    config = preset(name, **streams, vocab_size=len(tokenizer), **tokenizer.control_ids)
    width = {"output_dim": config.perception_dim}
    parts = {
        "streamer": StreamerModel(config),
        "audio_encoder": CausalAudioEncoder(
            CausalAudioEncoderConfig(tokens_per_unit=config.user_audio_tokens, **width)
        ),
        "video_encoder": CausalVideoEncoder(
            CausalVideoEncoderConfig(tokens_per_unit=config.user_video_tokens, **width)
        ),
    }
    pipeline.register_modules(**parts)


def choose_trained(pipeline: StreamerPipeline, config: TrainConfig) -> tuple[nn.Module, tuple[str, ...]]:
    """(the Transformer as it is to be trained, names of the components that will have changed).

    Only what is trained requires gradients afterwards. With "lora" the Transformer comes back with adapters, as a
    `PeftModel` of the pipeline's own, whose layers it has replaced.

    Raises:
        ValueError: `lora_targets` names no layer.
    """
    streamer, encoders = pipeline.streamer, (pipeline.audio_encoder, pipeline.video_encoder)
    if config.method == "full":
        return streamer.train(), ("streamer", "audio_encoder", "video_encoder")
    for part in (streamer, *encoders):
        part.requires_grad_(False)
    if config.method == "lora":
        from peft import LoraConfig, get_peft_model

        targets = config.lora_targets.split()
        if not any(name.endswith(tuple(targets)) for name, _ in streamer.named_modules()):
            raise ValueError(f"lora_targets names no layer of the Transformer: {config.lora_targets!r}")
        alpha: Any = config.lora_alpha  # peft declares an int, and takes any number
        adapters = LoraConfig(r=config.lora_rank, lora_alpha=alpha, target_modules=targets)
        return get_peft_model(streamer, adapters).train(), ("streamer",)
    missing = {"lm_head": streamer.config.tie_word_embeddings, "heard_out": not streamer.config.hears_words}
    for name in HEADS:
        if not missing.get(name):
            getattr(streamer, name).requires_grad_()
    return streamer.train(), ("streamer",)


def training_module(
    parts: tuple[Any, Any, Any],
    learning_rate: float,
    max_steps: int,
    teacher: tuple[Any, Any, Any] | None = None,
    phase: str = "trajectory",
    strategy: str = "auto",
    shift: float = 1.0,
    **options: Any,
) -> LightningModule:
    """What trains Transformer, audio encoder and video encoder in stages 1 and 2, or with a teacher in stage 3.

    Args:
        parts, teacher: these three; of a student the Transformer alone is trained.
        phase: of stage 3. strategy: "fsdp2" splits the weights over processes. shift: of the scheduler.
        options: of `DuplexTraining`.

    Raises:
        ValueError: stage 3 with fsdp2.
    """
    if teacher is None:
        kind = ShardedDuplexTraining if strategy == "fsdp2" else DuplexTraining
        streamer, ears, eyes = (part.train() for part in parts)
        return kind(streamer, ears, eyes, learning_rate, max_steps, **options)
    if strategy == "fsdp2":
        raise ValueError("stage 3 holds a teacher beside its student; train it with --strategy auto")
    stage2 = DuplexTraining(*teacher, learning_rate, max_steps, **options)
    names = options.get("validation_names", ())
    return PHASES[phase](parts[0].train(), stage2, learning_rate, max_steps, shift=shift, validation_names=names)


def lightning_strategy(strategy: str, num_processes: int) -> str:
    """Lightning's own name for "auto" with several processes."""
    if num_processes > 1 and strategy == "auto":
        return "ddp_find_unused_parameters_true"  # language batches leave what denoises unused
    return strategy
