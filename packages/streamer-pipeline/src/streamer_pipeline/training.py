"""Training of the streaming Transformer together with its perception encoders (extra `[train]`)."""

from __future__ import annotations

from typing import NamedTuple

import lightning
import torch
from causal_codec import CausalAudioEncoder, CausalVideoEncoder
from causal_vae.training import adamw_with_cosine
from streamer_core import (
    FlowMatchScheduler,
    StreamerModel,
    UnitStreams,
    pack_audio,
    pack_video,
    sample_logit_normal,
    streamer_loss,
)
from torch import Tensor

from .units import SAMPLES_PER_UNIT


class DuplexBatch(NamedTuple):
    """Both sides of B conversations over K units; agent's unit k already answers user's unit k (DESIGN section 4).

    user_audio (B, 1, K * 3840); user_frames (B, 3, K * looks, h, w) at the video encoder's own rate and size;
    user_text (B, K, slots); state (B, K); agent_text (B, K, slots); audio_latents (B, C, K * n);
    video_latents (B, C, K, h, w) or None while the picture is not trained; valid (B, K): units that count.
    """

    user_audio: Tensor
    user_frames: Tensor
    user_text: Tensor
    state: Tensor
    agent_text: Tensor
    audio_latents: Tensor
    video_latents: Tensor | None
    valid: Tensor


class DuplexTraining(lightning.LightningModule):
    """End-to-end duplex training (report, section 2.3, stage 2): all losses of the report on interleaved streams.

    Args:
        num_copies: noisy copies of each response per clean sequence; they share the history and so come cheap.
        history_noise: largest standard deviation of noise on the clean history, drawn per unit: at serving the history
            is the model's own, never quite the data.
        max_clock_offset: largest random distance between prompt and unit 0, in ticks.
        prompt_ids: (P,) the system prompt before every sequence.
    """

    def __init__(
        self,
        streamer: StreamerModel,
        audio_encoder: CausalAudioEncoder,
        video_encoder: CausalVideoEncoder,
        prompt_ids: Tensor,
        learning_rate: float,
        max_steps: int,
        num_copies: int = 2,
        history_noise: float = 0.3,
        text_weight: float = 1.0,
        audio_weight: float = 1.0,
        video_weight: float = 1.0,
        pad_weight: float = 0.3,
        max_clock_offset: int = 4000,
    ) -> None:
        super().__init__()
        self.streamer, self.audio_encoder, self.video_encoder = streamer, audio_encoder, video_encoder
        self.register_buffer("prompt_ids", prompt_ids, persistent=False)
        self.save_hyperparameters(ignore=["streamer", "audio_encoder", "video_encoder", "prompt_ids"])

    def streams(self, batch: DuplexBatch) -> UnitStreams:
        """Perceive the user and pack the agent's latents."""
        config, num_units = self.streamer.config, batch.state.shape[1]
        audio_tokens, _ = self.audio_encoder(batch.user_audio)
        video_tokens, _ = self.video_encoder.forward_frames(batch.user_frames)
        audio = pack_audio(batch.audio_latents, config)
        if batch.video_latents is None:
            video = audio.new_zeros(*audio.shape[:2], config.agent_video_tokens, config.video_token_dim)
        else:
            video = pack_video(batch.video_latents, config)
        return UnitStreams(
            batch.user_text,
            audio_tokens.unflatten(1, (num_units, -1)),
            video_tokens.unflatten(1, (num_units, -1)),
            batch.state,
            batch.agent_text,
            audio,
            video,
        )

    def losses(self, batch: DuplexBatch) -> dict[str, Tensor]:
        """The report's losses on one batch, with fresh noise."""
        h, clean = self.hparams, self.streams(batch)
        batch_size, num_units = batch.state.shape
        sigma = sample_logit_normal((batch_size, h.num_copies, num_units)).to(self.device)
        noises, noisy, history = [], [], []
        level = torch.rand(batch_size, num_units, 1, 1, device=self.device) * h.history_noise
        for latents in (clean.audio, clean.video):
            noise = torch.randn(batch_size, h.num_copies, *latents.shape[1:], device=self.device)
            noises.append(noise)
            noisy.append(FlowMatchScheduler.add_noise(latents[:, None].expand_as(noise), noise, sigma))
            history.append(latents + level * torch.randn_like(latents))
        seen = UnitStreams(**{**vars(clean), "audio": history[0], "video": history[1]})
        prompt = self.prompt_ids.expand(batch_size, -1)
        offset = torch.randint(h.max_clock_offset + 1, (batch_size,), device=self.device)
        output = self.streamer(seen, *noisy, sigma, prompt, offset)
        return streamer_loss(
            output,
            clean,
            *noises,
            sigma,
            audio_weight=h.audio_weight,
            video_weight=h.video_weight if batch.video_latents is not None else 0.0,
            pad_weight=h.pad_weight,
            pad_token_id=self.streamer.config.pad_token_id,
            valid=batch.valid,
        )

    def training_step(self, batch: DuplexBatch, batch_index: int) -> Tensor:
        terms = self.losses(batch)
        terms["text"] = self.hparams.text_weight * terms["text"]
        loss = torch.stack(list(terms.values())).sum()
        size = len(batch.state)
        self.log_dict({f"train/{name}": term for name, term in terms.items()}, batch_size=size)
        self.log("train/loss", loss, prog_bar=True, batch_size=size)
        return loss

    def validation_step(self, batch: DuplexBatch, batch_index: int) -> None:
        terms = self.losses(batch)
        self.log_dict({f"val/{name}": term for name, term in terms.items()}, prog_bar=True, batch_size=len(batch.state))

    def configure_optimizers(self) -> dict:
        h = self.hparams
        return adamw_with_cosine(
            self.parameters(), h.learning_rate, h.max_steps, betas=(0.9, 0.98), weight_decay=0.01, num_warmup_steps=100
        )


def duplex_batch(
    user_audio: Tensor,
    user_frames: Tensor,
    state: Tensor,
    text: Tensor,
    audio_latents: Tensor,
    video_latents: Tensor | None,
    valid: Tensor,
    *,
    user_text_slots: int,
    pad_token_id: int,
) -> DuplexBatch:
    """Collated integers of stored dyads -> a batch; nothing was typed. user_audio (B, K * 3840) int16, frames uint8."""
    assert user_audio.shape[1] == state.shape[1] * SAMPLES_PER_UNIT
    return DuplexBatch(
        user_audio[:, None].float() / 32767,
        user_frames.transpose(1, 2).float() / 127.5 - 1,
        torch.full((*state.shape, user_text_slots), pad_token_id, device=state.device),
        state,
        text,
        audio_latents,
        video_latents,
        valid,
    )
