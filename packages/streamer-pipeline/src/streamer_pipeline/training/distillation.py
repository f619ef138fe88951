"""Distillation into few solver steps without guidance (report, section 2.3, stage 3; extra `[train]`).

Two phases. `TrajectoryDistillation` regresses the student's few steps onto the path of a guided many-step teacher, on
the data's history (as the start of CausVid, Yin et al. 2024). `SelfForcing` lets the student roll out over consecutive
units on its own history, through the serving path, and matches what it makes there to the teacher's distribution (Self
Forcing, Huang et al. 2025; distribution matching, Yin et al. 2023, 2024).

Shape legend: B session, N noisy copies, S solver steps, K units. Latents are {"audio": (B, N, K, tokens, dim),
"video": ...}, noise levels (B, N, K).
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace
from itertools import islice
from typing import Any, NamedTuple

import lightning
import torch
from causal_vae.training import adamw_with_cosine
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from streamer_core import (
    CacheSpec,
    FlowMatchScheduler,
    Latents,
    StreamerModel,
    StreamerOutput,
    UnitStreams,
    WeightedMean,
    generate_unit,
    init_kv_state,
    sample_logit_normal,
    streamer_loss,
)
from torch import Tensor

from ..data.duplex_batch import DuplexBatch
from .modules import DuplexTraining, log_training, log_validation
from .teacher import Given, Teacher, Velocity, clean_samples, in_parallel, predict, trajectory, without_gradient


def valid_mean(error: Tensor, valid: Tensor) -> WeightedMean:
    """The mean of `error` (B, N, K, tokens, dim) over units that count, `valid` (B, K)."""
    return WeightedMean.of(error.mean(dim=(1, 3, 4)), valid)


class Distillation(lightning.LightningModule):
    """What both phases share: a student, its teacher, and the distance between them.

    Args:
        student: starts from the teacher, or from the phase before.
        stage2: the training that made the teacher, with the teacher's weights and the encoders.
        num_steps: the student's solver steps.
        guidance, teacher_steps: see `Teacher`.
        num_copies: noises per response and clean sequence; they share the history and so come cheap.
        shift: of the scheduler that will serve the student, so that it learns the very steps that it will take.
    """

    hparams: Any

    def __init__(
        self,
        student: StreamerModel,
        stage2: DuplexTraining,
        learning_rate: float,
        max_steps: int,
        num_steps: int = 2,
        guidance: float = 1.5,
        teacher_steps: int = 8,
        num_copies: int = 2,
        shift: float = 1.0,
        validation_names: tuple[str, ...] = (),
    ) -> None:
        super().__init__()
        if teacher_steps % num_steps:
            raise ValueError(f"teacher_steps must be a multiple of num_steps; got {teacher_steps} and {num_steps}")
        self.streamer, self.teacher = student, Teacher(stage2, guidance, teacher_steps, shift)
        self.save_hyperparameters(ignore=["student", "stage2"])

    def on_fit_start(self) -> None:
        self.teacher.stage2.to(self.device)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        h = self.hparams
        return adamw_with_cosine(
            self.parameters(), h.learning_rate, h.max_steps, betas=(0.9, 0.98), weight_decay=0.01, num_warmup_steps=20
        )

    def given(self, batch: DuplexBatch, history: UnitStreams) -> Given:
        """With a random place on the clock for each row, as in stage 2."""
        largest = self.teacher.stage2.hparams.max_clock_offset
        offset = torch.randint(largest + 1, (len(batch.state),), device=self.device)
        return Given(history, batch.prompt_ids, offset, batch.reference(self.streamer.config))

    def noise(self, like: UnitStreams, num_copies: int, generator: torch.Generator | None = None) -> Latents:
        def draw(z: Tensor | None) -> Tensor:
            assert z is not None
            return torch.randn(len(z), num_copies, *z.shape[1:], generator=generator).to(z)

        return {"audio": draw(like.audio), "video": draw(like.video)}

    def student_velocity(self, given: Given) -> Velocity:
        return in_parallel(lambda noisy, sigma: predict(self.streamer, noisy, sigma, given)[1])

    def noise_levels(self) -> Tensor:
        """Those of the student's steps, (num_steps + 1,)."""
        return FlowMatchScheduler.noise_levels(self.hparams.num_steps, self.device, self.hparams.shift)

    def student_trajectory(self, noise: Latents, given: Given) -> Iterator[Latents]:
        """The student's own points from `noise` to the endpoint."""
        return trajectory(self.student_velocity(given), noise, self.hparams.num_steps, self.hparams.shift)

    def counted(self, batch: DuplexBatch) -> dict[str, tuple[float, Tensor]]:
        """Stage 2's weights of sound and picture, and the units (B, K) in which each counts.

        A picture that is not in the data has no weight, and none counts where the agent was not filmed.
        """
        h, filmed = self.teacher.stage2.hparams, batch.video_valid
        video_weight = 0.0 if batch.video_latents is None else h.video_weight
        seen = batch.valid if filmed is None else batch.valid & filmed
        return {"audio": (h.audio_weight, batch.valid), "video": (video_weight, seen)}

    def language_terms(self, output: StreamerOutput, clean: UnitStreams, batch: DuplexBatch) -> dict[str, WeightedMean]:
        """Stage 2's cross-entropy of the agent's words, and of the user's where the model writes them down."""
        h = self.teacher.stage2.hparams
        terms = streamer_loss(
            replace(output, audio_velocity=None, video_velocity=None),
            clean,
            config=self.streamer.config,
            pad_weight=h.pad_weight,
            valid=batch.valid,
            heard=batch.user_heard,
            heard_weight=h.heard_weight,
        )
        return terms | {"text": terms["text"].scaled(h.text_weight)}

    def losses(self, batch: DuplexBatch) -> dict[str, WeightedMean]:
        """The phase's losses on a batch with latents."""
        raise NotImplementedError

    def language_losses(self, batch: DuplexBatch) -> dict[str, WeightedMean]:
        """Stage 2's cross-entropy on a batch of language alone: what was learned there is not forgotten here."""
        clean = self.teacher.perceive(batch)
        offset = self.given(batch, clean).clock_offset
        output = self.streamer(clean, prompt_ids=batch.prompt_ids, clock_offset=offset)
        return self.language_terms(output, clean, batch)

    def training_step(self, batch: DuplexBatch, batch_index: int) -> Tensor:
        terms = self.language_losses(batch) if batch.audio_latents is None else self.losses(batch)
        return log_training(self, batch, terms)

    def validation_step(self, batch: DuplexBatch, batch_index: int, dataloader_idx: int = 0) -> None:
        """RMS between endpoints of student and teacher from the same noise on the data's history, and the words."""
        terms = self.language_losses(batch) if batch.audio_latents is None else self.gaps(batch, batch_index)
        task = self.hparams.validation_names[dataloader_idx]
        log_validation(self, {f"val/{task}_{name}": term for name, term in terms.items()})

    def gaps(self, batch: DuplexBatch, seed: int) -> dict[str, WeightedMean]:
        """The terms of a validation step on a batch with latents, from the noise of `seed`."""
        clean = self.teacher.perceive(batch)
        reference = batch.reference(self.streamer.config)
        given = Given(clean, batch.prompt_ids, torch.zeros_like(batch.prompt_ids[:, 0]), reference)
        noise = self.noise(clean, 1, torch.Generator().manual_seed(seed))
        *_, expected = self.teacher.trajectory(noise, given)
        *_, reached = self.student_trajectory(noise, given)
        terms = {}
        for name, (weight, counts) in self.counted(batch).items():
            if weight:
                square = valid_mean((reached[name] - expected[name]).square(), counts)
                terms[f"{name}_gap"] = WeightedMean(square.mean().sqrt() * square.weight, square.weight)
        output, _ = predict(self.streamer, noise, torch.ones(noise["audio"].shape[:3], device=self.device), given)
        return terms | self.language_terms(output, clean, batch)


class TrajectoryDistillation(Distillation):
    """Every step of the student shall land where the teacher passes that noise level.

    The student starts each step where it really is: at noise, then at its own Euler points.
    """

    def losses(self, batch: DuplexBatch) -> dict[str, WeightedMean]:
        h, clean = self.hparams, self.teacher.perceive(batch)
        seen = replace(self.teacher.stage2.history(clean), state=clean.state, agent_text=clean.agent_text)
        given, noise = self.given(batch, seen), self.noise(clean, h.num_copies)
        with without_gradient():
            targets = self.teacher.trajectory(noise, given)[:: self.teacher.num_steps // h.num_steps][1:]
            starts = list(islice(self.student_trajectory(noise, given), h.num_steps))
        noisy = {name: torch.cat([point[name] for point in starts], dim=1) for name in noise}
        target = {name: torch.cat([point[name] for point in targets], dim=1) for name in noise}
        levels = self.noise_levels()
        sigma, size = (of.repeat_interleave(h.num_copies)[:, None] for of in (levels[:-1], levels[:-1] - levels[1:]))
        sigma, size = sigma.expand(len(batch.state), -1, batch.state.shape[1]), size[..., None, None]
        output, velocities = predict(self.streamer, noisy, sigma, given)
        reached = FlowMatchScheduler.euler_step(noisy, velocities, size, 0.0)
        terms = {
            # A step covers a part of the way: scaled to the error of a whole one.
            name: valid_mean(((reached[name] - target[name]) / size).square(), counts).scaled(weight)
            for name, (weight, counts) in self.counted(batch).items()
        }
        return terms | self.language_terms(output, clean, batch)


class Rollout(NamedTuple):
    """What the student made on its own history: latents (B, K, tokens, dim), and what each solver step was given,
    (B, S, K, tokens, dim)."""

    latents: Latents
    inputs: Latents


class RecordingSolver:
    """`FlowMatchScheduler.solve` that keeps, unit by unit, the points it visits."""

    def __init__(self, shift: float) -> None:
        self.shift = shift
        self.visited: list[list[Latents]] = []

    def solve(self, velocity: Velocity, noise: Latents, num_steps: int) -> Latents:
        self.visited.append(list(trajectory(velocity, noise, num_steps, self.shift)))
        return self.visited[-1][-1]

    def rollout(self) -> Rollout:
        names = self.visited[0][0]
        points = {n: torch.stack([torch.stack([p[n] for p in unit], 1) for unit in self.visited], 2) for n in names}
        return Rollout({n: z[:, -1] for n, z in points.items()}, {n: z[:, :-1] for n, z in points.items()})


@torch.no_grad()
def roll_out(streamer: StreamerModel, given: Given, noise: Latents, num_steps: int, shift: float = 1.0) -> Rollout:
    """Answer unit by unit on the own history and in float32, by the passes that serve.

    Args:
        given: of its history, the user's streams and the agent's words are taken, the latents are not.
        noise: of one copy (B, 1, K, tokens, dim).
    """
    told = given.history
    batch, num_units = told.state.shape
    prompt = given.prompt_ids, given.reference
    cache_spec = CacheSpec.for_policy(streamer.config, streamer.embed_prompt(*prompt).shape[1], num_units)
    solver = RecordingSolver(shift)
    with torch.autocast(told.state.device.type, enabled=False):
        state = init_kv_state(cache_spec, batch, told.state.device)
        state = streamer.prefill(given.prompt_ids, state, cache_spec, given.reference)
        # The sink is full, so a longer prompt only moves the clock.
        state = {**state, "prompt_length": state["prompt_length"] + given.clock_offset}
        user = streamer.embed_user(told.user_text, told.user_audio, told.user_video)
        words = torch.cat([told.state[..., None], told.agent_text], -1)
        for unit in range(num_units):
            start = {name: z[:, 0, unit] for name, z in noise.items()}
            _, state = generate_unit(
                streamer, solver, user[:, unit], start, state, cache_spec, num_steps, told=words[:, unit]
            )
    return solver.rollout()


def matching_loss(samples: Tensor, real: Tensor, fake: Tensor, valid: Tensor) -> WeightedMean:
    """A loss whose gradient moves `samples` along the difference of scores (DMD, Yin et al. 2023, eq. 7 and 8).

    Args:
        samples: (B, 1, K, tokens, dim), with gradient.
        real, fake: (B, N, K, tokens, dim), what teacher and fake score take the re-noised samples for.
        valid: (B, K), units that count.
    """
    with torch.no_grad():
        scale = (samples - real).abs().mean(dim=(-2, -1), keepdim=True).clamp(min=1e-3)
        target = samples - ((fake - real) / scale).mean(dim=1, keepdim=True)
    return valid_mean((samples - target).square(), valid).scaled(0.5)


class SelfForcing(Distillation):
    """The student on its own history, matched to the teacher's distribution.

    The rollout leaves no gradient. One parallel pass over it repeats one solver step of each row, chosen at random,
    with gradient (Self Forcing, algorithm 1). The fake score learns flow matching on what comes out; its prediction
    serves the matching too, so both models learn from the same passes, the fake score at a higher rate in place of
    more updates (DMD2's two time scales).

    Args:
        fake_learning_rate: of the fake score, a trainable copy of the teacher.
        others: see `Distillation`.
    """

    def __init__(
        self,
        student: StreamerModel,
        stage2: DuplexTraining,
        *args: Any,
        fake_learning_rate: float = 1e-3,
        **others: Any,
    ) -> None:
        super().__init__(student, stage2, *args, **others)
        self.fake = deepcopy(stage2.streamer).requires_grad_(True)
        self.save_hyperparameters(ignore=["student", "stage2"])

    def losses(self, batch: DuplexBatch) -> dict[str, WeightedMean]:
        h, clean = self.hparams, self.teacher.perceive(batch)
        given, rows = self.given(batch, clean), torch.arange(len(batch.state), device=self.device)
        rollout = roll_out(self.streamer, given, self.noise(clean, 1), h.num_steps, h.shift)
        given = given._replace(history=replace(clean, **rollout.latents))
        step = torch.randint(h.num_steps, (len(rows),), device=self.device)
        noisy = {name: z[rows, step][:, None] for name, z in rollout.inputs.items()}
        levels = self.noise_levels()[step]
        sigma = levels[:, None, None].expand(-1, 1, batch.state.shape[1])
        output, velocities = predict(self.streamer, noisy, sigma, given)
        terms = self.match(clean_samples(noisy, velocities, sigma), given, batch)
        return terms | self.language_terms(output, clean, batch)

    def match(self, samples: Latents, given: Given, batch: DuplexBatch) -> dict[str, WeightedMean]:
        """Losses of student and fake score on samples (B, 1, K, tokens, dim) that were made from `given`."""
        num_copies, noise = self.hparams.num_copies, self.noise(given.history, self.hparams.num_copies)
        sigma = sample_logit_normal((len(batch.state), num_copies, batch.state.shape[1])).to(self.device)
        made = {name: z.detach().expand(-1, num_copies, -1, -1, -1) for name, z in samples.items()}
        noisy = {name: FlowMatchScheduler.add_noise(z, noise[name], sigma) for name, z in made.items()}
        real = clean_samples(noisy, self.teacher.velocities(noisy, sigma, given), sigma)
        fake = clean_samples(noisy, predict(self.fake, noisy, sigma, given)[1], sigma)
        terms: dict[str, WeightedMean] = {}
        for name, (weight, counts) in self.counted(batch).items():
            matched = matching_loss(samples[name], real[name], fake[name].detach(), counts)
            learned = valid_mean((fake[name] - made[name]).square(), counts)
            terms |= {name: matched.scaled(weight), f"fake_{name}": learned.scaled(weight)}
        return terms

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        h = self.hparams
        groups = [
            {"params": self.streamer.parameters(), "lr": h.learning_rate},
            {"params": self.fake.parameters(), "lr": h.fake_learning_rate},
        ]
        return adamw_with_cosine(
            groups, h.learning_rate, h.max_steps, betas=(0.9, 0.98), weight_decay=0.01, num_warmup_steps=20
        )

    def configure_gradient_clipping(
        self, optimizer: Any, gradient_clip_val: Any = None, gradient_clip_algorithm: Any = None
    ) -> None:
        """Each model by its own norm."""
        for model in (self.streamer, self.fake):
            torch.nn.utils.clip_grad_norm_(model.parameters(), gradient_clip_val or float("inf"))
