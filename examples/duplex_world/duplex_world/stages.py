"""The stages of training: what each draws, for how long, and the parts and batches that it starts with."""

from collections.abc import Sequence
from pathlib import Path

import lightning
import torch
from causal_codec import (
    CausalAudioEncoder,
    CausalAudioEncoderConfig,
    CausalVideoEncoder,
    CausalVideoEncoderConfig,
)
from causal_vae import CausalAudioVAE, CausalVideoVAE
from streamer_core import FlowMatchScheduler, StreamerModel, StreamerTokenizer, preset
from streamer_pipeline import StreamerPipeline
from streamer_pipeline.data.tasks import Mixture
from streamer_pipeline.training.modules import gather_weights
from torch import nn
from torch.utils.data import DataLoader
from transformers import AutoModel, PreTrainedModel

from .conversations import PROMPT, Dyads, WorldConversations

STAGES = {
    1: {
        "mixture": Mixture({"hearing": 0.25, "seeing": 0.3, "words": 0.25, "speaking": 0.2}),
        "max_steps": 4000,
        "learning_rate": 1.5e-3,
    },
    2: {
        "mixture": Mixture({"hearing": 0.06, "seeing": 0.07, "words": 0.32, "speaking": 0.15, "duplex": 0.4}),
        "max_steps": 5000,
        "learning_rate": 1.0e-3,
    },
    3: {
        "mixture": Mixture({"hearing": 0.05, "seeing": 0.05, "words": 0.25, "speaking": 0.15, "duplex": 0.5}),
        "max_steps": 400,
        "learning_rate": 3e-4,
    },
}
SIZES = {"smoke": {"batch_size": 2, "num_units": 8}, "tiny": {"batch_size": 4, "num_units": 48}}
VALIDATION_BATCHES = 6
AUDIO_WEIGHT = 4.0  # speech fills a quarter of the units and is the first thing that sounds wrong


def load_parts(folder: Path) -> tuple[StreamerModel, PreTrainedModel, CausalVideoEncoder]:
    """The weights of an earlier run, in float32."""
    return (
        StreamerModel.from_pretrained(folder / "streamer", dtype=torch.float32),
        AutoModel.from_pretrained(folder / "audio_encoder", dtype=torch.float32),
        CausalVideoEncoder.from_pretrained(folder / "video_encoder", dtype=torch.float32),
    )


def save_parts(trainer: lightning.Trainer, folder: Path, parts: Sequence[PreTrainedModel]) -> bool:
    """Write what `load_parts` reads: whether this process did. Weights may be split; all processes must call it."""
    whole = [gather_weights(part) for part in parts]
    if trainer.is_global_zero:
        for name, part, weights in zip(("streamer", "audio_encoder", "video_encoder"), parts, whole, strict=True):
            part.save_pretrained(folder / name, state_dict=weights)
    return trainer.is_global_zero


def new_parts(tokenizer: StreamerTokenizer) -> tuple[StreamerModel, CausalAudioEncoder, CausalVideoEncoder]:
    """The tiny shape with random weights."""
    config = preset(
        "tiny",
        vocab_size=len(tokenizer),
        pad_token_id=tokenizer.pad_token_id,
        state_token_ids=list(tokenizer.state_ids.values()),
        context_window=40,
        hears_words=True,
    )
    audio_encoder = CausalAudioEncoder(CausalAudioEncoderConfig(output_dim=config.perception_dim))
    video_encoder = CausalVideoEncoder(CausalVideoEncoderConfig(output_dim=config.perception_dim))
    return StreamerModel(config), audio_encoder, video_encoder


def assemble(
    parts: tuple[nn.Module, nn.Module, nn.Module], tokenizer: StreamerTokenizer, audio_vae: Path, video_vae: Path
) -> StreamerPipeline:
    """A pipeline of streamer, audio encoder and video encoder, as they are being trained, with these VAEs."""
    streamer, audio_encoder, video_encoder = parts
    return StreamerPipeline(
        streamer=streamer,
        tokenizer=tokenizer,
        scheduler=FlowMatchScheduler(),
        audio_encoder=audio_encoder,
        video_encoder=video_encoder,
        audio_vae=CausalAudioVAE.from_pretrained(audio_vae),
        video_vae=CausalVideoVAE.from_pretrained(video_vae),
        prompt=PROMPT,
    )


def common_tokenizer(folders: list[Path]) -> StreamerTokenizer:
    """The tokenizer of all these folders of dyads, and runs to start from. Raises ValueError where they differ."""
    tokenizers = [StreamerTokenizer.from_pretrained(folder / "tokenizer") for folder in folders]
    for folder, tokenizer in zip(folders, tokenizers, strict=True):
        if tokenizer.get_vocab() != tokenizers[0].get_vocab():
            raise ValueError(
                f"{folder} and {folders[0]} were stored with different tokenizers, so equal words have different ids; "
                f"prepare the dyads again with examples/train/prepare_dyads.py --tokenizer {folder / 'tokenizer'}"
            )
    return tokenizers[0]


def validation_loaders(data: dict, val_dyads: Path, tasks: list[str]) -> list[DataLoader]:
    """A few fixed batches per task, of voices and faces that are never trained on."""
    loaders, dyads = [], Dyads([val_dyads], with_latents=True)
    for task in tasks:
        batches = WorldConversations(dyads, dyads, mixture=Mixture({task: 1.0}), vary=False, **data)
        loaders.append(DataLoader([batches[step, 0] for step in range(VALIDATION_BATCHES)], batch_size=None))
    return loaders
