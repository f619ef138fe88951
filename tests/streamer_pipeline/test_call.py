"""The pipeline as a function of a whole recording: what users of diffusers expect of a call."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from test_session import assert_units_equal
from tiny_parts import SIZE, open_session, random_units, tiny_pipeline


@pytest.fixture(scope="module")
def pipeline():
    return tiny_pipeline()


@pytest.fixture(scope="module")
def media():
    units = random_units(3)
    return {
        "audio": torch.cat([unit.audio for unit in units], dim=1),
        "video": torch.cat([unit.video for unit in units], dim=1),
    }


def test_every_kind_of_output_is_the_same_conversation(pipeline, media):
    tensors = pipeline(**media, seed=5)
    arrays = pipeline(**{name: x.numpy() for name, x in media.items()}, seed=5, output_type="np")
    images = pipeline(**media, seed=5, output_type="pil")
    assert tensors.audio.shape == (1, 3 * 3840) and tensors.video.shape[:2] == (3, 12)
    assert arrays.audio.shape == (3 * 3840,) and arrays.video.shape == (12, *tensors.video.shape[2:], 3)
    np.testing.assert_array_equal(arrays.audio, tensors.audio[0].numpy())
    np.testing.assert_allclose(2 * arrays.video - 1, tensors.video.permute(1, 2, 3, 0).numpy(), atol=1e-6)
    assert arrays.video.min() >= 0 and arrays.video.max() <= 1
    assert len(images.video) == 12 and images.video[0].size == (tensors.video.shape[3], tensors.video.shape[2])
    np.testing.assert_allclose(np.asarray(images.video[7]) / 255, arrays.video[7], atol=1 / 255)
    audio, video, text, units = pipeline(**media, seed=5, return_dict=False)
    assert torch.equal(audio, tensors.audio) and torch.equal(video, tensors.video)
    assert text == tensors.text and len(units) == 3


def test_a_generator_draws_the_seed_and_steps_are_obeyed(pipeline, media):
    def call(**options):
        return pipeline(**media, **options).units

    first, again, other = (call(generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert_units_equal(first, again)
    assert not torch.equal(first[0].audio, other[0].audio)
    session = open_session(pipeline, seed=5, num_inference_steps=1)
    assert_units_equal(call(seed=5, num_inference_steps=1), [session.step(unit) for unit in untyped_units()])
    assert not torch.equal(call(seed=5, num_inference_steps=1)[0].audio, call(seed=5, num_inference_steps=3)[0].audio)


def untyped_units():
    return [type(unit)(unit.audio, unit.video) for unit in random_units(3)]


def test_a_callback_sees_every_unit_may_replace_it_and_may_stop(pipeline, media):
    seen = []

    def watch(pipe, index, milliseconds, given):
        seen.append((index, milliseconds, given["unit"].index))
        pipe.interrupt = index == 1
        return {"unit": replace(given["unit"], text=" told")} if index == 0 else None

    output = pipeline(**media, callback_on_step_end=watch)
    assert seen == [(0, 160, 0), (1, 320, 1)] and len(output.units) == 2
    assert output.units[0].text == " told" and output.text.startswith("told")
    assert len(pipeline(**media).units) == 3  # the next call begins anew


@pytest.mark.parametrize(
    ("wrong", "kind", "sentence"),
    [
        ({"audio": None}, ValueError, "either a recording or both"),
        ({"recording": "film.mp4"}, ValueError, "either a recording or both"),
        ({"output_type": "jpg"}, ValueError, "output_type is one of pt, np, pil"),
        ({"tempratur": 1.0}, TypeError, "did you mean 'temperature'"),
        ({"num_steps": 1}, TypeError, "did you mean 'num_inference_steps'"),
        ({"seed": 1, "generator": torch.Generator()}, ValueError, "either a seed or a generator"),
        ({"num_inference_steps": 0}, ValueError, "num_inference_steps is at least 1"),
        ({"generator": 5}, TypeError, "one torch.Generator; got int"),
        ({"callback_on_step_end": 5}, TypeError, "called after every unit; got int"),
        ({"callback_on_step_end": lambda *_: 5}, TypeError, "returns a dict or None; got int"),
        ({"height": 64}, ValueError, f"video's height is {SIZE[0]}; got height=64"),
        ({"recording": 5, "audio": None}, TypeError, "path of a file; got int"),
        ({"video": torch.zeros(3, 4, 8)}, ValueError, "video has shape"),
        ({"video": [1, 2]}, TypeError, "tensor or a NumPy array"),
        ({"audio": torch.zeros(1, 0), "video": torch.zeros(3, 0, *SIZE)}, ValueError, "empty"),
        ({"audio": torch.zeros(1, 3840, dtype=torch.float64)}, ValueError, "float32"),
    ],
)
def test_a_call_that_cannot_be_is_refused_in_a_sentence(pipeline, media, wrong, kind, sentence):
    with pytest.raises(kind, match=sentence):
        pipeline(**media | wrong)
