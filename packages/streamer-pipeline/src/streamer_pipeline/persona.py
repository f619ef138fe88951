"""The persona of a conversation: what its prompt holds, prefilled once (third report, "Video = World + Event Stream").

A persona says in words who the agent is, and may show its face and let its voice be heard. Picture and voice become
latents, which stand in the prompt as the agent's own responses stand in history. What then happens is the stream of
events: the agent's text, in which behaviour is written in parentheses, like "(waves)".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch.nn.functional as F
from streamer_core import Reference, pack_audio, pack_video
from torch import Tensor

from .units import FRAMES_PER_UNIT, SAMPLES_PER_UNIT

if TYPE_CHECKING:
    from .pipeline import StreamerPipeline


@dataclass(frozen=True, eq=False)
class Persona:
    """What a session's prompt holds.

    text: system text. picture: (3, H, W) in [-1, 1], the agent as it looks at the user. voice: (1, N) at 24 kHz in
    [-1, 1], the agent speaking; a second is enough. Both come together.

    Raises:
        ValueError: a shape is wrong, or one of picture and voice is missing.
    """

    text: str
    picture: Tensor | None = None
    voice: Tensor | None = None

    def __post_init__(self) -> None:
        if (self.picture is None) != (self.voice is None):
            raise ValueError("a persona shows the agent's picture and lets its voice be heard, or neither")
        if self.picture is None or self.voice is None:
            return
        if self.picture.ndim != 3 or len(self.picture) != 3:
            raise ValueError(f"a persona's picture has shape (3, H, W); got {tuple(self.picture.shape)}")
        if self.voice.ndim != 2 or len(self.voice) != 1 or not self.voice.shape[1]:
            raise ValueError(f"a persona's voice has shape (1, samples) at 24 kHz; got {tuple(self.voice.shape)}")


@dataclass(frozen=True, eq=False)
class PreparedPersona:
    """A prompt's K/V (1, 2, L, H, P, D) in one pipeline's weights: sessions that share a persona copy it.

    text: the words that it begins with. kv: never written to.
    """

    text: str
    kv: Tensor

    @property
    def num_tokens(self) -> int:
        return self.kv.shape[4]


def encode_reference(pipeline: StreamerPipeline, picture: Tensor, voice: Tensor) -> Reference:
    """Picture (3, H, W), held still, and voice (1, N), padded to whole units, as the pipeline's latents.

    Raises:
        ValueError: the pipeline lacks a VAE to encode with, or the picture gives another grid than its latents have.
    """
    for name in ("audio_vae", "video_vae"):
        if getattr(pipeline, name) is None:
            raise ValueError(
                f"a persona with picture and voice needs the pipeline's {name}; load the checkpoint with it"
            )
    config, device = pipeline.streamer.config, pipeline.streamer.device
    num_units = -(-voice.shape[1] // SAMPLES_PER_UNIT)
    audio = F.pad(voice, (0, num_units * SAMPLES_PER_UNIT - voice.shape[1]))[None].to(device)
    video = picture[None, :, None].expand(-1, -1, FRAMES_PER_UNIT * num_units, -1, -1).to(device)
    coded = (pipeline.audio_vae, audio), (pipeline.video_vae, video)
    latents = [vae.encode(x.to(vae.dtype))[0].mean.to(pipeline.streamer.dtype) for vae, x in coded]
    grid = config.video_latent_height, config.video_latent_width
    if tuple(latents[1].shape[-2:]) != grid:
        raise ValueError(
            f"a picture of {picture.shape[1]}x{picture.shape[2]} has a grid of {tuple(latents[1].shape[-2:])} latents; "
            f"this agent is drawn in {grid}"
        )
    return Reference(pack_audio(latents[0], config), pack_video(latents[1], config))
