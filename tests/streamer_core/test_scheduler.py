"""The solvers on a flow whose exact solution is known, and the absence of hidden counters."""

import pytest
import torch
from streamer_core import FlowMatchScheduler, UniPCFlowScheduler

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
    assert all(torch.equal(first[name], again[name]) for name in first)


@pytest.mark.parametrize("scheduler", [FlowMatchScheduler, UniPCFlowScheduler])
def test_save_and_load(tmp_path, scheduler):
    scheduler().save_pretrained(tmp_path)
    assert error(scheduler.from_pretrained(tmp_path), 4) == error(scheduler(), 4)


def test_noise_levels_run_from_noise_to_clean():
    assert FlowMatchScheduler.noise_levels(4).tolist() == [1.0, 0.75, 0.5, 0.25, 0.0]
    with pytest.raises(ValueError, match="at least 1"):
        FlowMatchScheduler.noise_levels(0)
    clean, eps = torch.randn(3, 2, 4), torch.randn(3, 2, 4)
    sigma = torch.tensor([1.0, 0.5, 0.25])
    noisy = FlowMatchScheduler.add_noise(clean, eps, sigma)
    assert torch.equal(noisy[0], eps[0])
    velocity = FlowMatchScheduler.velocity_from_sample(noisy, clean, sigma, 0.05)
    torch.testing.assert_close(velocity, FlowMatchScheduler.velocity_target(clean, eps))
