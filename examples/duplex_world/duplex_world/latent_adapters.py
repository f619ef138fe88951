"""Teach a streamer the latents of another video VAE, on a few dyads, by the layers that take and give them alone."""

import torch
from rich.console import Console
from streamer_core import VIDEO_ADAPTERS
from streamer_pipeline import StreamerPipeline
from streamer_pipeline.data.duplex_batch import DuplexBatch
from streamer_pipeline.data.tasks import Mixture
from streamer_pipeline.training.modules import DuplexTraining

from .agent_voice import AgentVoice
from .conversations import WorldConversations
from .dyad import build_dyad
from .scenarios import SCENARIOS
from .training_tensors import encode_dyad

FIRST_HELD_OUT = 1_000_000
console = Console()


def train_adapters(pipeline: StreamerPipeline, num_dyads: int, num_steps: int) -> tuple[float, float]:
    """Fit the adapters alone to the pipeline's video VAE: the video loss on unseen dyads before and after."""
    training = DuplexTraining(
        pipeline.streamer, pipeline.audio_encoder, pipeline.video_encoder, learning_rate=1e-2, max_steps=num_steps
    )
    training.requires_grad_(False)
    adapters = [p for name in VIDEO_ADAPTERS for p in getattr(pipeline.streamer, name).requires_grad_().parameters()]
    optimizer = torch.optim.AdamW(adapters, training.hparams.learning_rate, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, num_steps)
    unseen, seen = (
        conversations(pipeline, max(1, num_dyads // 8), FIRST_HELD_OUT),
        conversations(pipeline, num_dyads, 0),
    )
    held_out = [unseen[step, 0] for step in range(4)]
    before = held_out_loss(training, held_out)
    for step in range(1, num_steps + 1):
        loss = training.losses(seen[step, 0])[0]["video"].mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 50 == 0:
            console.print(f"adapters, step {step} of {num_steps}: video loss {loss.item():.4f}")
    after = held_out_loss(training, held_out)
    num_trained = sum(p.numel() for p in adapters)
    console.print(f"adapters: {num_trained:,} parameters, video loss on unseen dyads {before:.4f} -> {after:.4f}")
    return before, after


@torch.no_grad()
def held_out_loss(training: DuplexTraining, held_out: list[DuplexBatch]) -> float:
    """The video loss on given batches, under the same noise each time."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return sum(training.losses(batch)[0]["video"].mean().item() for batch in held_out) / len(held_out)


def conversations(pipeline: StreamerPipeline, num_dyads: int, first_seed: int) -> WorldConversations:
    """Training batches of new dyads, in the pipeline's own latents."""
    voice, names, config = AgentVoice(), list(SCENARIOS), pipeline.streamer.config
    dyads = [build_dyad(first_seed + i, names[i % len(names)], voice, config.response_delay) for i in range(num_dyads)]
    stored = [encode_dyad(dyad, pipeline.tokenizer, pipeline.audio_vae, pipeline.video_vae) for dyad in dyads]
    mixture = Mixture({"duplex": 1.0})
    shape = {"num_units": 16, "batch_size": 2, "user_text_slots": config.user_text_slots}
    return WorldConversations(
        stored, stored, pipeline.tokenizer, mixture, response_delay=config.response_delay, **shape
    )
