"""The solvers on a flow whose exact solution is known, and the absence of hidden counters."""

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler
from streamer_core import FlowMatchScheduler, UniPCFlowScheduler, as_solver

MEAN, SPREAD = 0.7, 0.5  # the data: a normal distribution, for which the velocity is linear


def exact_velocity(latents, sigma):
    """E[eps - z0 | z_sigma] for z0 ~ N(MEAN, SPREAD^2)."""

    def one(z):
        s = sigma.view(-1, *[1] * (z.dim() - 1))
        variance = (1 - s) ** 2 * SPREAD**2 + s**2
        centred = z - (1 - s) * MEAN
        return centred * (s - (1 - s) * SPREAD**2) / variance - MEAN

    return {name: one(z) for name, z in latents.items()}


def noise():
    torch.manual_seed(0)
    return {"audio": torch.randn(64, 2, 5), "video": torch.randn(64, 3, 7)}


def error(solver, num_steps):
    start = noise()
    found = solver.solve(exact_velocity, start, num_steps)
    return max((found[name] - (MEAN + SPREAD * start[name])).square().mean().sqrt().item() for name in start)


def test_euler_converges_to_the_exact_solution():
    errors = [error(FlowMatchScheduler(), steps) for steps in (4, 16, 64)]
    assert errors[0] > 3 * errors[1] > 9 * errors[2]


def test_unipc_is_more_accurate_at_equal_passes():
    assert error(UniPCFlowScheduler(), 8) < 0.3 * error(FlowMatchScheduler(), 8)


@pytest.mark.parametrize("scheduler", [FlowMatchScheduler, UniPCFlowScheduler])
def test_a_solve_leaves_no_trace(scheduler):
    solver = scheduler()
    first = solver.solve(exact_velocity, noise(), 4)
    solver.solve(exact_velocity, noise(), 7)
    again = solver.solve(exact_velocity, noise(), 4)

    def disturbed(latents, sigma):
        """Between two steps of one conversation, another one is served."""
        solver.solve(exact_velocity, noise(), 3)
        return exact_velocity(latents, sigma)

    between = solver.solve(disturbed, noise(), 4)
    assert all(torch.equal(first[name], other[name]) for name in first for other in (again, between))


@pytest.mark.parametrize(
    ("scheduler", "fields"),
    [(FlowMatchScheduler, {"shift": 2.0}), (UniPCFlowScheduler, {"solver_order": 1})],
)
def test_save_and_load(tmp_path, scheduler, fields):
    scheduler(**fields).save_pretrained(tmp_path)
    assert error(scheduler.from_pretrained(tmp_path), 4) == error(scheduler(**fields), 4) != error(scheduler(), 4)


def steps_of_diffusers(scheduler, num_steps):
    """Noise levels and endpoint of diffusers' own loop, as its flow-matching pipelines run it."""
    scheduler.set_timesteps(sigmas=np.linspace(1, 1 / num_steps, num_steps))
    latents = noise()
    for timestep, sigma in zip(scheduler.timesteps, scheduler.sigmas, strict=False):
        velocities = exact_velocity(latents, sigma.expand(64))
        index = scheduler.step_index
        for name in latents:
            scheduler._step_index = index  # one step of the clock for both
            latents[name] = scheduler.step(velocities[name], timestep, latents[name], return_dict=False)[0]
    return scheduler.sigmas, latents


@pytest.mark.parametrize("shift", [0.5, 1, 5.0])
@pytest.mark.parametrize("ours", [True, False])
def test_shift_is_that_of_diffusers(ours, shift):
    """By our class or theirs, and also where `set_shift` gave it."""
    visited = []

    def spied(latents, sigma):
        visited.append(sigma[0])
        return exact_velocity(latents, sigma)

    scheduler = (FlowMatchScheduler if ours else FlowMatchEulerDiscreteScheduler)(shift=shift)
    found = as_solver(scheduler).solve(spied, noise(), 4)
    sigmas, expected = steps_of_diffusers(FlowMatchEulerDiscreteScheduler(shift=shift), 4)
    torch.testing.assert_close(torch.stack(visited), sigmas[:-1])
    for name in found:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-5, atol=1e-5)
    scheduler = type(scheduler)()
    scheduler.set_shift(shift)
    again = as_solver(scheduler).solve(exact_velocity, noise(), 4)
    assert all(torch.equal(again[name], found[name]) for name in found)


def test_unipc_is_shifted_too(tmp_path):
    visited = []

    def spied(latents, sigma):
        visited.append(sigma[0])
        return exact_velocity(latents, sigma)

    UniPCFlowScheduler(flow_shift=3.0).save_pretrained(tmp_path)
    UniPCFlowScheduler.from_pretrained(tmp_path).solve(spied, noise(), 4)
    torch.testing.assert_close(
        torch.stack(visited), FlowMatchScheduler.noise_levels(4, shift=3.0)[:-1], rtol=0, atol=2e-3
    )


@pytest.mark.parametrize(
    "wrong",
    [{"shift": 0}, {"shift": -1.0}, {"shift": float("nan")}, {"shift": float("inf")}, {"shift": "5"}]
    + [{"num_train_timesteps": 0}, {"use_dynamic_shifting": True}, {"shift_terminal": 0.1}, {"invert_sigmas": True}]
    + [{f"use_{name}_sigmas": True} for name in ("karras", "exponential", "beta")]
    + [{"stochastic_sampling": True}, {"time_shift_type": "x"}],
)
def test_a_schedule_that_would_not_be_obeyed_is_refused_when_built(wrong):
    (field,) = wrong
    with pytest.raises(ValueError, match=field):
        FlowMatchScheduler(**wrong)
    with pytest.raises(ValueError, match=field):
        FlowMatchScheduler.from_config(FlowMatchScheduler().config, **wrong)


@pytest.mark.parametrize("wrong", [{"flow_shift": 0}, {"solver_order": 0}, {"num_train_timesteps": 1.5}])
def test_unipc_refuses_alike(wrong):
    (field,) = wrong
    with pytest.raises(ValueError, match=field):
        UniPCFlowScheduler(**wrong)


def test_what_cannot_solve_is_refused():
    for other in (DDIMScheduler(), None):
        with pytest.raises(TypeError, match=rf"{type(other).__name__} cannot solve.*FlowMatchEulerDiscreteScheduler"):
            as_solver(other)
    with pytest.raises(ValueError, match="use_dynamic_shifting"):
        as_solver(FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True))
    for solver in (FlowMatchScheduler(shift=2.0), UniPCFlowScheduler()):
        assert as_solver(solver) is solver


def test_noise_levels_run_from_noise_to_clean():
    assert FlowMatchScheduler.noise_levels(4).tolist() == [1.0, 0.75, 0.5, 0.25, 0.0]
    for num_steps in (0, 2.5, True):
        with pytest.raises(ValueError, match="at least 1"):
            FlowMatchScheduler.noise_levels(num_steps)
    with pytest.raises(ValueError, match="shift"):
        FlowMatchScheduler.noise_levels(4, shift=float("nan"))
    clean, eps = torch.randn(3, 2, 4), torch.randn(3, 2, 4)
    sigma = torch.tensor([1.0, 0.5, 0.25])
    noisy = FlowMatchScheduler.add_noise(clean, eps, sigma)
    assert torch.equal(noisy[0], eps[0])
    velocity = FlowMatchScheduler.velocity_from_sample(noisy, clean, sigma, 0.05)
    torch.testing.assert_close(velocity, FlowMatchScheduler.velocity_target(clean, eps))
