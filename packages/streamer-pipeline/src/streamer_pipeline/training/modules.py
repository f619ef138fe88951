"""Training of the streaming Transformer together with its perception encoders (extra `[train]`)."""

from __future__ import annotations

from typing import Any, NamedTuple

import lightning
import torch
import torch.distributed as dist
from causal_codec import CausalAudioEncoder, CausalVideoEncoder
from causal_vae.training import adamw_with_cosine
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from streamer_core import (
    FlowMatchScheduler,
    StreamerModel,
    StreamerOutput,
    UnitStreams,
    WeightedMean,
    pack_audio,
    pack_video,
    sample_logit_normal,
    streamer_loss,
)
from torch import Tensor
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method

from ..data.duplex_batch import DuplexBatch


class NoisyResponses(NamedTuple):
    """N noisy copies of every response: audio, video (B, N, K, tokens, dim), their eps and noise levels (B, N, K)."""

    audio: Tensor
    video: Tensor
    audio_noise: Tensor
    video_noise: Tensor
    audio_sigma: Tensor
    video_sigma: Tensor


def means_over_ranks(terms: dict[str, WeightedMean]) -> dict[str, Tensor]:
    """This process's part of each term's mean over the rows of all processes.

    The average of the parts, and so of their gradients, is what one process with all rows would have, however many
    words and units count in each process. All of them must call it, with the same terms.
    """
    weights = torch.stack([term.weight for term in terms.values()])
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(weights)
        weights = weights / dist.get_world_size()
    return {
        name: WeightedMean(term.total, weight).mean()
        for (name, term), weight in zip(terms.items(), weights, strict=True)
    }


def log_training(module: lightning.LightningModule, batch: DuplexBatch, terms: dict[str, WeightedMean]) -> Tensor:
    """The loss of a training step, the sum of its terms; logged, and each term by the kind of batch."""
    means = means_over_ranks(terms)
    loss = torch.stack(list(means.values())).sum()
    kind = "language" if batch.audio_latents is None else "media"
    shared: dict[str, Any] = {"batch_size": len(batch.state), "sync_dist": True}
    module.log_dict({f"train/{kind}_{name}": mean for name, mean in means.items()}, **shared)
    module.log("train/loss", loss, prog_bar=True, **shared)
    return loss


def log_validation(module: lightning.LightningModule, terms: dict[str, WeightedMean], **options: Any) -> None:
    """Log each term as its mean over all that counts in an epoch, and none of which nothing does."""
    for name, term in terms.items():
        if weight := float(term.weight):
            size: Any = weight  # Lightning declares an int, and takes any number
            module.log(name, term.mean(), batch_size=size, add_dataloader_idx=False, **options)


class DuplexTraining(lightning.LightningModule):
    """Training on interleaved streams (report, section 2.3): words and latents of the agent, with encoders.

    Stage 1 (tasks apart) and stage 2 (duplex) differ in their batches alone.

    Args:
        num_copies: noisy copies of each response per clean sequence; they share the history and so come cheap.
        history_noise: largest standard deviation of noise on the clean history, drawn per unit: at serving the history
            is the model's own, never quite the data.
        history_dropout: share of sequences in which the history of the sound, and apart from it of the picture, is
            noise alone (as in history guidance, Song et al. 2025): a unit must then follow its words and the prompt.
        sound_given: share of copies whose sound is clean while the picture is noisy: the face learns to follow it.
        language_dropout: share of sequences that hide the agent's words and states, so that guidance (Ho & Salimans
            2022) has a model without them.
        heard_weight: of the user's words, which a model with that head (`hears_words`) writes down as it hears them.
        max_clock_offset: largest random distance between prompt and unit 0, in ticks.
    """

    hparams: Any

    def __init__(
        self,
        streamer: StreamerModel,
        audio_encoder: CausalAudioEncoder,
        video_encoder: CausalVideoEncoder,
        learning_rate: float,
        max_steps: int,
        num_copies: int = 2,
        history_noise: float = 0.3,
        history_dropout: float = 0.0,
        sound_given: float = 0.15,
        language_dropout: float = 0.1,
        text_weight: float = 1.0,
        audio_weight: float = 1.0,
        video_weight: float = 1.0,
        heard_weight: float = 0.3,
        pad_weight: float = 0.3,
        max_clock_offset: int = 16_000,
        validation_names: tuple[str, ...] = (),
    ) -> None:
        super().__init__()
        self.streamer, self.audio_encoder, self.video_encoder = streamer, audio_encoder, video_encoder
        self.save_hyperparameters(ignore=["streamer", "audio_encoder", "video_encoder"])

    def streams(self, batch: DuplexBatch) -> UnitStreams:
        """Perceive the user and pack the agent's latents."""
        config, num_units = self.streamer.config, batch.state.shape[1]
        audio_tokens, _ = self.audio_encoder(batch.user_audio)
        video_tokens, _ = self.video_encoder.forward_frames(batch.user_frames)
        audio = video = None
        if batch.audio_latents is not None:
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

    def add_noise(self, clean: UnitStreams) -> NoisyResponses:
        """Fresh noisy copies; most share one noise level, some have the sound clean (`sound_given`)."""
        batch_size, num_units = clean.state.shape
        shape = batch_size, self.hparams.num_copies, num_units
        video_sigma = sample_logit_normal(shape).to(self.device)
        given = torch.rand(shape[:2], device=self.device)[..., None] < self.hparams.sound_given
        audio_sigma = torch.where(given, 0.0, video_sigma)
        noisy, noises = [], []
        for latents, sigma in ((clean.audio, audio_sigma), (clean.video, video_sigma)):
            assert latents is not None
            noise = torch.randn(*shape[:2], *latents.shape[1:], device=self.device)
            noises.append(noise)
            noisy.append(FlowMatchScheduler.add_noise(latents[:, None].expand_as(noise), noise, sigma))
        (audio, video), (audio_noise, video_noise) = noisy, noises
        return NoisyResponses(audio, video, audio_noise, video_noise, audio_sigma, video_sigma)

    def history(self, clean: UnitStreams) -> UnitStreams:
        """What later units see: latents with some noise, and in some sequences no words."""
        shape = clean.state.shape
        level = torch.rand(*shape, 1, 1, device=self.device) * self.hparams.history_noise
        responses = []
        for latents in (clean.audio, clean.video):
            dropped = torch.rand(shape[0], 1, 1, 1, device=self.device) < self.hparams.history_dropout
            assert latents is not None
            noise = torch.randn_like(latents)
            responses.append(torch.where(dropped, noise, latents + level * noise))
        pad = self.streamer.config.pad_token_id
        hidden = torch.rand(shape[0], 1, device=self.device) < self.hparams.language_dropout
        state = torch.where(hidden, pad, clean.state)
        text = torch.where(hidden[..., None], pad, clean.agent_text)
        return UnitStreams(clean.user_text, clean.user_audio, clean.user_video, state, text, *responses)

    def losses(self, batch: DuplexBatch) -> tuple[dict[str, WeightedMean], StreamerOutput]:
        """The report's losses on one batch, with fresh noise, and the output they were computed from."""
        h, config, clean = self.hparams, self.streamer.config, self.streams(batch)
        offset = torch.randint(h.max_clock_offset + 1, (len(batch.state),), device=self.device)
        common = {
            "config": config,
            "pad_weight": h.pad_weight,
            "valid": batch.valid,
            "heard": batch.user_heard,
            "heard_weight": h.heard_weight,
        }
        if clean.audio is None:
            output = self.streamer(
                clean, prompt_ids=batch.prompt_ids, clock_offset=offset, reference=batch.reference(config)
            )
            return streamer_loss(output, clean, **common), output
        noisy, seen = self.add_noise(clean), self.history(clean)
        output = self.streamer(
            seen,
            noisy.audio,
            noisy.video,
            noisy.audio_sigma,
            batch.prompt_ids,
            offset,
            noisy.video_sigma,
            batch.reference(config),
        )
        return streamer_loss(
            output,
            clean,
            noisy.audio_noise,
            noisy.video_noise,
            noisy.audio_sigma,
            audio_weight=h.audio_weight,
            video_weight=h.video_weight if batch.video_latents is not None else 0.0,
            video_sigma=noisy.video_sigma,
            video_valid=batch.video_valid,
            **common,
        ), output

    def training_step(self, batch: DuplexBatch, batch_index: int) -> Tensor:
        terms, _ = self.losses(batch)
        terms["text"] = terms["text"].scaled(self.hparams.text_weight)
        return log_training(self, batch, terms)

    def validation_step(self, batch: DuplexBatch, batch_index: int, dataloader_idx: int = 0) -> None:
        """Losses, and of the words due the share that comes in its slot; of silent slots the share with a word. Where
        the user's words are written down, the same of them."""
        terms, output = self.losses(batch)
        pad = self.streamer.config.pad_token_id
        said, valid = batch.agent_text != pad, batch.valid[..., None]
        words = output.logits[:, :, 1:].argmax(-1)
        terms["words"] = WeightedMean.of((words == batch.agent_text).float(), said & valid)
        terms["false_words"] = WeightedMean.of((words != pad).float(), ~said & valid)
        if output.heard_logits is not None and batch.user_heard is not None:
            heard, spoken = output.heard_logits.argmax(-1), batch.user_heard != pad
            terms["heard_words"] = WeightedMean.of((heard == batch.user_heard).float(), spoken & valid)
            terms["false_heard"] = WeightedMean.of((heard != pad).float(), ~spoken & valid)
        task = self.hparams.validation_names[dataloader_idx]
        log_validation(self, {f"val/{task}_{name}": term for name, term in terms.items()})

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        h, trained = self.hparams, [p for p in self.parameters() if p.requires_grad]
        return adamw_with_cosine(
            trained, h.learning_rate, h.max_steps, betas=(0.9, 0.98), weight_decay=0.01, num_warmup_steps=100
        )


class ShardedDuplexTraining(DuplexTraining):
    """The same, with weights, gradients and optimiser state split over processes (FSDP2, Zhao et al. 2023).

    For Lightning's `ModelParallelStrategy`: the layers of the Transformer are gathered one by one as they are needed.
    """

    def configure_model(self) -> None:
        if isinstance(self.streamer, FSDPModule):
            return
        assert self.device_mesh is not None
        mesh = self.device_mesh["data_parallel"]
        for module in (*self.streamer.model.layers, self.streamer, self.audio_encoder, self.video_encoder):
            fully_shard(module, mesh=mesh)
        register_fsdp_forward_method(self.video_encoder, "forward_frames")


def gather_weights(module: torch.nn.Module) -> dict[str, Any]:
    """The whole state dict of a module that may be sharded, on the first process; all processes must call it."""
    return get_model_state_dict(module, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
