"""Flow matching without hidden counters: one scheduler serves both modalities and all sessions.

Convention of the report (eq. 2): z_sigma = (1 - sigma) z0 + sigma eps, velocity = eps - z0, sigma from 1 (noise) to 0.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from causal_vae import CheckedFiles
from diffusers import FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler
from diffusers.configuration_utils import register_to_config
from diffusers.schedulers.scheduling_utils import SchedulerMixin  # noqa: F401  (pipelines look the base class up here)
from torch import Tensor

Latents = dict[str, Tensor]


def _expand(sigma: Tensor, like: Tensor) -> Tensor:
    return sigma.view(*sigma.shape, *[1] * (like.dim() - sigma.dim()))


class FlowMatchScheduler(CheckedFiles, FlowMatchEulerDiscreteScheduler):
    """diffusers' flow-match Euler scheduler plus pure functions for joint denoising.

    `noise_levels`, `add_noise`, `velocity_target`, `euler_step` and `solve` touch no attribute that changes; the
    parent's stepping interface remains for those who swap it into other pipelines.
    """

    checked_files = ("scheduler_config.json",)

    @staticmethod
    def noise_levels(num_steps: int, device: torch.device | str | None = None) -> Tensor:
        """(num_steps + 1,) noise levels 1, ..., 0, evenly spaced."""
        if num_steps < 1:
            raise ValueError(f"num_steps must be at least 1; got {num_steps}")
        return torch.linspace(1, 0, num_steps + 1, device=device)

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
    def euler_step(latents: Latents, velocities: Latents, sigma: Tensor, next_sigma: Tensor) -> Latents:
        """One joint step of every modality by the same noise levels."""
        return {name: z + (next_sigma - sigma) * velocities[name] for name, z in latents.items()}

    def solve(self, velocity: Callable[[Latents, Tensor], Latents], noise: Latents, num_steps: int) -> Latents:
        """Integrate from noise to clean latents: `velocity(latents, sigma (B,)) -> velocities`, `num_steps` calls."""
        first = next(iter(noise.values()))
        sigmas = self.noise_levels(num_steps, first.device).to(first.dtype)
        latents = noise
        for sigma, next_sigma in pairwise(sigmas):
            velocities = velocity(latents, sigma.expand(first.shape[0]))
            latents = self.euler_step(latents, velocities, sigma, next_sigma)
        return latents


class UniPCFlowScheduler(CheckedFiles, UniPCMultistepScheduler):
    """diffusers' UniPC multistep solver (Zhao et al. 2023) behind `solve`: more accurate than Euler at equal passes.

    UniPC counts its own steps, so every solve runs on a fresh copy; both modalities go through it as one tensor,
    which keeps one noise level and one history of derivatives for both.
    """

    checked_files = ("scheduler_config.json",)

    @register_to_config
    def __init__(self, num_train_timesteps: int = 1000, solver_order: int = 2) -> None:
        super().__init__(
            num_train_timesteps=num_train_timesteps,
            solver_order=solver_order,
            prediction_type="flow_prediction",
            use_flow_sigmas=True,
        )

    def solve(self, velocity: Callable[[Latents, Tensor], Latents], noise: Latents, num_steps: int) -> Latents:
        """As `FlowMatchScheduler.solve`."""
        solver = type(self)(self.config.num_train_timesteps, self.config.solver_order)
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


def sample_logit_normal(shape: tuple[int, ...], generator: torch.Generator | None = None) -> Tensor:
    """Noise levels for training, logit-normal(0, 1) as in Stable Diffusion 3 (Esser et al. 2024)."""
    return torch.sigmoid(torch.randn(shape, generator=generator))
