"""Flow matching without hidden counters: one scheduler serves both modalities and all sessions.

Convention of the report (eq. 2): z_sigma = (1 - sigma) z0 + sigma eps, velocity = eps - z0, sigma from 1 (noise) to 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any, Protocol

import torch
from causal_vae import CheckedFiles
from diffusers import FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler
from diffusers.configuration_utils import register_to_config
from diffusers.schedulers.scheduling_utils import SchedulerMixin  # noqa: F401  (pipelines look the base class up here)
from torch import Tensor

Latents = dict[str, Tensor]
Velocity = Callable[[Latents, Tensor], Latents]

# What diffusers' config can ask for beside `shift`, and `solve` does not do.
_FOREIGN_SCHEDULES = (
    "use_dynamic_shifting",
    "invert_sigmas",
    "shift_terminal",
    "use_karras_sigmas",
    "use_exponential_sigmas",
    "use_beta_sigmas",
    "stochastic_sampling",
)


class Solver(Protocol):
    """Anything that integrates a velocity field from noise to clean latents, `FlowMatchScheduler` for one."""

    def solve(self, velocity: Velocity, noise: Latents, num_steps: int) -> Latents: ...


def _expand(sigma: Tensor, like: Tensor) -> Tensor:
    return sigma.view(*sigma.shape, *[1] * (like.dim() - sigma.dim()))


def _check_shift(name: str, shift: float) -> None:
    is_number = isinstance(shift, int | float) and not isinstance(shift, bool)
    if not (is_number and math.isfinite(shift) and shift > 0):
        raise ValueError(f"{name} must be a finite number above 0 (1 is no shift); got {shift!r}")


def _check_at_least_one(name: str, count: int) -> None:
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise ValueError(f"{name} must be a whole number, at least 1; got {count!r}")


class FlowMatchScheduler(CheckedFiles, FlowMatchEulerDiscreteScheduler):
    """diffusers' flow-match Euler scheduler plus pure functions for joint denoising.

    `noise_levels`, `add_noise`, `velocity_target`, `euler_step` and `solve` touch no attribute that changes; the
    parent's stepping interface remains for those who swap it into other pipelines.

    Raises:
        ValueError: `shift` is not a positive number, or another field asks for a schedule that `solve` does not have.
    """

    checked_files = ("scheduler_config.json",)
    saved_as = ("FlowMatchScheduler", "FlowMatchEulerDiscreteScheduler")

    def register_to_config(self, **fields: Any) -> None:
        """As diffusers' `ConfigMixin`, after a look at every field: `solve` obeys it, or it is refused here."""
        if "shift" in fields:
            _check_shift("FlowMatchScheduler: shift", fields["shift"])
        if "num_train_timesteps" in fields:
            _check_at_least_one("FlowMatchScheduler: num_train_timesteps", fields["num_train_timesteps"])
        for name in _FOREIGN_SCHEDULES:
            if fields.get(name):
                raise ValueError(
                    f"FlowMatchScheduler: {name} must be off; got {fields[name]!r}. Noise levels here are evenly "
                    "spaced, then shifted by `shift`"
                )
        super().register_to_config(**fields)

    @staticmethod
    def noise_levels(num_steps: int, device: torch.device | str | None = None, shift: float = 1.0) -> Tensor:
        """(num_steps + 1,) noise levels 1, ..., 0: evenly spaced, then shifted (Esser et al. 2024, eq. 23).

        Args:
            shift: above 1, more of the steps are spent near noise: sigma' = shift sigma / (1 + (shift - 1) sigma).

        Raises:
            ValueError: `num_steps` is not a whole number above 0, or `shift` not a finite one.
        """
        _check_at_least_one("num_steps", num_steps)
        _check_shift("shift", shift)
        sigmas = torch.linspace(1, 0, num_steps + 1, device=device)
        return sigmas if shift == 1 else shift * sigmas / (1 + (shift - 1) * sigmas)

    @staticmethod
    def add_noise(clean: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
        """z_sigma; `sigma` has the leading axes of `clean`."""
        sigma = _expand(sigma, clean)
        return (1 - sigma) * clean + sigma * noise

    @staticmethod
    def velocity_target(clean: Tensor, noise: Tensor) -> Tensor:
        return noise - clean

    @staticmethod
    def velocity_from_sample(noisy: Tensor, sample: Tensor, sigma: Tensor, min_sigma: float) -> Tensor:
        """The velocity that leads from `noisy` to the predicted clean `sample`: (z - z0) / sigma."""
        return (noisy - sample) / _expand(sigma, noisy).clamp(min=min_sigma)

    @staticmethod
    def euler_step(latents: Latents, velocities: Latents, sigma: Tensor, next_sigma: Tensor | float) -> Latents:
        """One joint step of every modality by the same noise levels."""
        return {name: z + (next_sigma - sigma) * velocities[name] for name, z in latents.items()}

    def solve(self, velocity: Velocity, noise: Latents, num_steps: int) -> Latents:
        """Integrate from noise to clean latents: `velocity(latents, sigma (B,)) -> velocities`, `num_steps` calls."""
        first = next(iter(noise.values()))
        sigmas = self.noise_levels(num_steps, first.device, self.shift).to(first.dtype)
        latents = noise
        for sigma, next_sigma in pairwise(sigmas):
            velocities = velocity(latents, sigma.expand(first.shape[0]))
            latents = self.euler_step(latents, velocities, sigma, next_sigma)
        return latents


class UniPCFlowScheduler(CheckedFiles, UniPCMultistepScheduler):
    """diffusers' UniPC multistep solver (Zhao et al. 2023) behind `solve`: more accurate than Euler at equal passes.

    UniPC counts its own steps, so every solve runs on a fresh copy; both modalities go through it as one tensor,
    which keeps one noise level and one history of derivatives for both.

    Args:
        flow_shift: `shift` of `FlowMatchScheduler`, under the name that diffusers gives it here.

    Raises:
        ValueError: a field is not a number of its range.
    """

    checked_files = ("scheduler_config.json",)
    saved_as = ("UniPCFlowScheduler",)

    @register_to_config
    def __init__(self, num_train_timesteps: int = 1000, solver_order: int = 2, flow_shift: float = 1.0) -> None:
        _check_at_least_one("UniPCFlowScheduler: num_train_timesteps", num_train_timesteps)
        _check_at_least_one("UniPCFlowScheduler: solver_order", solver_order)
        _check_shift("UniPCFlowScheduler: flow_shift", flow_shift)
        super().__init__(
            num_train_timesteps=num_train_timesteps,
            solver_order=solver_order,
            prediction_type="flow_prediction",
            use_flow_sigmas=True,
            flow_shift=flow_shift,
        )

    def solve(self, velocity: Velocity, noise: Latents, num_steps: int) -> Latents:
        """As `FlowMatchScheduler.solve`."""
        _check_at_least_one("num_steps", num_steps)
        c = self.config
        solver = type(self)(c.num_train_timesteps, c.solver_order, c.flow_shift)
        first = next(iter(noise.values()))
        solver.set_timesteps(num_steps, device=first.device)
        shapes = {name: z.shape for name, z in noise.items()}
        sizes = [z[0].numel() for z in noise.values()]

        def split(joint: Tensor) -> Latents:
            parts = joint.split(sizes, dim=1)
            return {name: part.reshape(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}

        joint = torch.cat([z.flatten(1) for z in noise.values()], dim=1)
        for timestep, sigma in zip(solver.timesteps, solver.sigmas, strict=False):
            velocities = velocity(split(joint), sigma.to(first).expand(first.shape[0]))
            flat = torch.cat([velocities[name].flatten(1) for name in shapes], dim=1)
            joint = solver.step(flat, timestep, joint, return_dict=False)[0]
        return split(joint)


def as_solver(scheduler: Any) -> Solver:
    """What solves with `scheduler`: itself if it has `solve`; for diffusers' flow-match Euler, our own of its config.

    Raises:
        TypeError: it is neither.
        ValueError: its config asks for what `FlowMatchScheduler` refuses.
    """
    if callable(getattr(scheduler, "solve", None)):
        return scheduler
    if isinstance(scheduler, FlowMatchEulerDiscreteScheduler):
        return FlowMatchScheduler.from_config(scheduler.config, shift=scheduler.shift)
    raise TypeError(
        f"a {type(scheduler).__name__} cannot solve: give a FlowMatchScheduler, a UniPCFlowScheduler, diffusers' "
        "FlowMatchEulerDiscreteScheduler, or any object with solve(velocity, noise, num_steps)"
    )


def sample_logit_normal(shape: tuple[int, ...], generator: torch.Generator | None = None) -> Tensor:
    """Noise levels for training, logit-normal(0, 1) as in Stable Diffusion 3 (Esser et al. 2024)."""
    return torch.sigmoid(torch.randn(shape, generator=generator))
