"""The checkpoint that ships: there, small, offline, and alive."""

import pytest
import torch
from streamer_pipeline import StreamerPipeline, UserUnit, bundled_checkpoint


@pytest.fixture(scope="module")
def pipeline():
    return StreamerPipeline.from_pretrained()


def user_unit(seed: int) -> UserUnit:
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(1, 3840, generator=generator).clamp(-3, 3)
    return UserUnit(0.01 * noise, torch.zeros(3, 4, 192, 336))


def test_it_is_small_and_never_a_pickle():
    files = [file for file in bundled_checkpoint().rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) < 25 * 2**20
    assert {file.suffix for file in files} <= {".safetensors", ".json", ".md", ".txt", ".jinja"}


def test_it_idles_as_a_living_silent_face(pipeline):
    """With nobody there it says nothing, does not freeze, and does not drift away within 4 seconds."""
    session = pipeline.open_session(seed=0)
    units = [session.step(user_unit(seed)) for seed in range(25)]
    frames = torch.cat([unit.video for unit in units], dim=1)
    assert frames.shape == (3, 100, 192, 336) and frames.abs().max() <= 1
    sound = torch.cat([unit.audio for unit in units], dim=1)[:, 3840 * 3 :]
    assert sound.square().mean().sqrt() < 0.01
    assert (frames[:, 40:] - frames[:, 39:-1]).abs().amax() > 0.02
    mean_picture = pipeline.video_vae.encoder.picture.mean[0]
    assert (frames - mean_picture).square().mean() < 0.02


def test_by_name_and_by_default_it_is_the_same(pipeline):
    named = StreamerPipeline.from_pretrained("wan-streamer-tiny")
    first, second = (p.open_session(seed=1).step(user_unit(0)) for p in (pipeline, named))
    assert torch.equal(first.audio, second.audio) and torch.equal(first.video, second.video)
