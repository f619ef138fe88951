"""What training and serving ask of any encoder, of ours and of those with public weights alike."""

import inspect

import causal_codec
import pytest
import streamer_core
import torch
from test_contract import CASES
from transformers import PreTrainedModel

ENCODERS = [name for name in CASES if name.endswith("Encoder")]
EYES = [name for name in ENCODERS if "Video" in name]
MODELS = [
    value
    for package in (causal_codec, streamer_core)
    for name in package.__all__
    if inspect.isclass(value := getattr(package, name)) and issubclass(value, PreTrainedModel)
]


def build(name: str) -> PreTrainedModel:
    torch.manual_seed(0)
    return CASES[name][0]().eval()


@pytest.mark.parametrize("name", ENCODERS)
def test_a_unit_gives_the_tokens_that_the_config_tells(name):
    encoder = build(name)
    unit = torch.randn((2, 3, 4, 20, 30) if name in EYES else (2, 1, 3840))
    tokens, _ = encoder(unit)
    assert tokens.shape == (2, encoder.config.tokens_per_unit, encoder.config.output_dim)


@pytest.mark.parametrize("name", EYES)
def test_frames_that_are_picked_and_small_give_the_same_tokens(name):
    encoder = build(name)
    height, width = encoder.config.image_height, encoder.config.image_width
    video = torch.rand(2, 3, 12, height, width) * 2 - 1
    frames = video[:, :, encoder.stride - 1 :: encoder.stride]
    tokens, state = encoder(video)
    assert torch.equal(encoder.forward_frames(frames)[0], tokens)
    first, state = encoder.forward_frames(frames[:, :, :1])
    later, _ = encoder.forward_frames(frames[:, :, 1:], state)
    torch.testing.assert_close(torch.cat([first, later], dim=1), tokens)
    with pytest.raises(ValueError, match=f"must be {height} x {width}; got {height + 1} x {width}"):
        encoder.forward_frames(torch.zeros(2, 3, 1, height + 1, width))


@pytest.mark.parametrize("model", MODELS)
def test_the_main_input_is_an_argument_of_forward(model):
    assert model.main_input_name in inspect.signature(model.forward).parameters


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize(
    "wrong", [{"output_dim": 0}, {"output_dim": 2.5}, {"tokens_per_unit": None}, {"output_dmi": 8}]
)
def test_wrong_fields_are_refused(name, wrong):
    (field,) = wrong
    if name == "SiglipVideoEncoder" and field == "tokens_per_unit":
        field = "frames_per_look"  # of which its tokens per unit follow
    with pytest.raises(ValueError, match=f"{name}Config.*{field}"):
        getattr(causal_codec, f"{name}Config")(**{field: next(iter(wrong.values()))})


@pytest.mark.parametrize("name", ENCODERS)
def test_weights_can_wait_on_disk(name, tmp_path):
    """Any layer of an encoder may be read when it is called, and not before."""
    encoder, shape = build(name), CASES[name][1]
    encoder.save_pretrained(tmp_path)
    device_map = {child: "cpu" if child == "norm" else "disk" for child, _ in encoder.named_children()}
    placed = type(encoder).from_pretrained(tmp_path, device_map=device_map, offload_folder=tmp_path / "disk").eval()
    assert placed.project.weight.device.type == "meta"
    media = torch.rand(shape)
    with torch.no_grad():
        torch.testing.assert_close(placed(media)[0], encoder(media)[0])
