"""The teacher of distillation, and how student and teacher are asked: one parallel pass over all units and copies.

Shape legend: B session, N noisy copies, K units. Latents are {"audio": (B, N, K, tokens, dim), "video": ...}, noise
levels (B, N, K).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from typing import NamedTuple

import torch
from streamer_core import FlowMatchScheduler, Latents, Reference, StreamerModel, StreamerOutput, UnitStreams
from torch import Tensor

from ..data.duplex_batch import DuplexBatch
from .modules import DuplexTraining

Velocity = Callable[[Latents, Tensor], Latents]


class Given(NamedTuple):
    """What responses are denoised from: the history they see, the prompt (B, P) with its reference, and ticks (B,) from
    it to unit 0."""

    history: UnitStreams
    prompt_ids: Tensor
    clock_offset: Tensor
    reference: Reference | None = None


@contextmanager
def without_gradient() -> Iterator[None]:
    """`torch.no_grad`, after which autocast forgets the weights that it cast, without gradient in older torch."""
    with torch.no_grad():
        yield
    torch.clear_autocast_cache()


def predict(streamer: StreamerModel, noisy: Latents, sigma: Tensor, given: Given) -> tuple[StreamerOutput, Latents]:
    """One parallel pass over all units and copies: its output, and the velocities by name."""
    output = streamer(
        given.history,
        noisy["audio"],
        noisy["video"],
        sigma,
        given.prompt_ids,
        given.clock_offset,
        reference=given.reference,
    )
    return output, {"audio": output.audio_velocity, "video": output.video_velocity}


def clean_samples(noisy: Latents, velocities: Latents, sigma: Tensor) -> Latents:
    """Where the velocities lead to: z0 = z - sigma v."""
    return {name: z - sigma[..., None, None] * velocities[name] for name, z in noisy.items()}


def trajectory(velocity: Velocity, noise: Latents, num_steps: int, shift: float = 1.0) -> Iterator[Latents]:
    """The num_steps + 1 points that `FlowMatchScheduler.solve` visits, noise first, each computed when asked for."""
    first = next(iter(noise.values()))
    latents = noise
    yield latents
    for sigma, next_sigma in pairwise(FlowMatchScheduler.noise_levels(num_steps, first.device, shift)):
        velocities = velocity(latents, sigma.expand(first.shape[0]))
        latents = FlowMatchScheduler.euler_step(latents, velocities, sigma, next_sigma)
        yield latents


def in_parallel(predict_velocities: Callable[[Latents, Tensor], Latents]) -> Velocity:
    """A velocity field of noise levels (B, N, K) as one of levels (B,), as solvers call it."""

    def velocity(latents: Latents, sigma: Tensor) -> Latents:
        return predict_velocities(latents, sigma[:, None, None].expand(latents["audio"].shape[:3]))

    return velocity


class Teacher:
    """The frozen model of stage 2 under classifier-free guidance (Ho & Salimans 2022), with many solver steps.

    No `nn.Module`, so that whoever holds it neither trains, averages nor stores it.

    Args:
        stage2: the training it comes from; its history noise and clock offsets go on.
        guidance: velocities are v_null + guidance (v - v_null), with v_null from a history without the agent's words
            and states (`language_dropout` of stage 2). 1 is no guidance and half the work.
        num_steps, shift: solver steps, and the scheduler's shift of their noise levels.
    """

    def __init__(self, stage2: DuplexTraining, guidance: float, num_steps: int, shift: float = 1.0) -> None:
        self.stage2 = stage2.eval().requires_grad_(False)
        self.guidance, self.num_steps, self.shift = guidance, num_steps, shift

    @torch.no_grad()
    def perceive(self, batch: DuplexBatch) -> UnitStreams:
        """The streams of a batch, in float32."""
        clean = self.stage2.streams(batch)
        return replace(clean, user_audio=clean.user_audio.float(), user_video=clean.user_video.float())

    @torch.no_grad()
    def velocities(self, noisy: Latents, sigma: Tensor, given: Given) -> Latents:
        streamer, seen = self.stage2.streamer, given.history
        _, told = predict(streamer, noisy, sigma, given)
        if self.guidance == 1:
            return told
        state, text = (torch.full_like(ids, streamer.config.pad_token_id) for ids in (seen.state, seen.agent_text))
        wordless = replace(seen, state=state, agent_text=text)
        _, untold = predict(streamer, noisy, sigma, given._replace(history=wordless))
        return {name: untold[name] + self.guidance * (told[name] - untold[name]) for name in told}

    def trajectory(self, noise: Latents, given: Given) -> list[Latents]:
        """Every point from `noise` to the endpoint."""
        field = in_parallel(lambda noisy, sigma: self.velocities(noisy, sigma, given))
        return list(trajectory(field, noise, self.num_steps, self.shift))
