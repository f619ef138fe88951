"""What must not change a conversation: how old it is, mixed precision, and whose class the solver is of."""

import pytest
import torch
from causal_vae import flatten_state
from diffusers import FlowMatchEulerDiscreteScheduler
from streamer_core import FlowMatchScheduler
from tiny_parts import open_session, random_units, tiny_pipeline


class SameNoise:
    """A solver whose noise follows from how often it was asked, and not from the session's clock."""

    def __init__(self) -> None:
        self.generator = torch.Generator().manual_seed(0)

    def solve(self, velocity, noise, num_steps):
        noise = {name: torch.randn(z.shape, generator=self.generator) for name, z in noise.items()}
        return FlowMatchScheduler().solve(velocity, noise, num_steps)


def listen(pipeline, num_units: int, age: int = 0):
    """What a session without a prompt says, whose clock was moved to unit `age`, a multiple of both rings' sizes."""
    pipeline.scheduler = SameNoise()
    session = open_session(pipeline, prompt="")
    with torch.inference_mode():
        for kv in (session.state["thinker"]["kv"], session.state["performer"]):
            assert kv["prompt_length"].item() == 0  # or its distance would grow with the age
            kv["unit"] += age
    session.num_units += age
    return [session.step(unit) for unit in random_units(num_units)]


def test_a_session_sounds_at_any_age_as_at_first():
    pipeline = tiny_pipeline()  # rings of 7 and 4 units
    young, old = listen(pipeline, 24, 28 * 4), listen(pipeline, 24, 28 * 357_143)
    assert (young[-1].index, old[-1].index) == (135, 10_000_027)
    for one, other in zip(young, old, strict=True):
        assert one.text == other.text and one.state == other.state
        torch.testing.assert_close(other.audio, one.audio, rtol=0, atol=1e-5)
        torch.testing.assert_close(other.video, one.video, rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_step_under_autocast_comes_near(dtype):
    pipeline, units = tiny_pipeline(), random_units(9)  # past the rings' ends
    plain, mixed = open_session(pipeline), open_session(pipeline)
    expected = [plain.step(unit) for unit in units]
    with torch.autocast("cpu", dtype=dtype):
        found = [mixed.step(unit) for unit in units]
    for name in ("audio", "video"):
        ours, theirs = (torch.cat([getattr(unit, name) for unit in side], dim=1) for side in (found, expected))
        assert 0 < (ours - theirs).norm() < 0.1 * theirs.norm()
    for name, leaf in flatten_state(plain.state).items():
        assert flatten_state(mixed.state)[name].dtype == leaf.dtype, name


def test_a_scheduler_of_diffusers_serves_as_ours_does():
    pipeline, units = tiny_pipeline(), random_units(3)
    spoken = {}
    for shift in (1.0, 5.0):
        for scheduler in (FlowMatchScheduler, FlowMatchEulerDiscreteScheduler):
            pipeline.scheduler = scheduler(shift=shift)
            session = open_session(pipeline)
            spoken[scheduler, shift] = torch.cat([session.step(unit).audio for unit in units])
        assert torch.equal(spoken[FlowMatchScheduler, shift], spoken[FlowMatchEulerDiscreteScheduler, shift])
    assert not torch.equal(spoken[FlowMatchScheduler, 1.0], spoken[FlowMatchScheduler, 5.0])
