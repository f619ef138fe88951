"""A dtype is obeyed in whichever way it is spelled, by every part that loads, or it is refused by name."""

import pytest
import torch
from causal_codec import SiglipVideoEncoder, VoxtralAudioEncoder
from causal_vae import MimiAudioVAE, WanVideoVAE, as_dtype
from diffusers import AutoencoderKLWan
from duplex_world.public_stand_ins import STAND_INS
from streamer_core import StreamerConfig, StreamerModel
from test_contract import CASES

SPELLINGS = [
    {"torch_dtype": torch.bfloat16},
    {"dtype": torch.bfloat16},
    {"dtype": "bfloat16"},
    {"torch_dtype": "torch.bfloat16"},
]
NONE = [{"dtype": "float99"}, {"torch_dtype": "int64"}, {"dtype": torch.int64}, {"dtype": "torch.linspace"}]


def load_siglip(folder, **options):
    return SiglipVideoEncoder.from_siglip2(folder, image_height=48, image_width=48, **options)


def small_streamer():
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "head_dim": 12, "vocab_size": 8}
    return StreamerModel(StreamerConfig(**sizes, num_attention_heads=2, num_key_value_heads=1))


OURS = {name: build for name, (build, _) in CASES.items() if hasattr(build(), "save_pretrained")}
OURS["StreamerModel"] = small_streamer
PUBLIC = {
    "mimi": MimiAudioVAE.from_pretrained,
    "wan_vae": WanVideoVAE.from_pretrained,
    "voxtral": VoxtralAudioEncoder.from_voxtral,
    "siglip2": load_siglip,
    "qwen3": StreamerModel.from_qwen3,
}


@pytest.fixture(scope="module", params=[*OURS, *PUBLIC])
def load(request, tmp_path_factory):
    """Load one part out of its folder: of ours, or of the public class that it takes weights from."""
    name, folder = request.param, tmp_path_factory.mktemp(request.param)
    if name in PUBLIC:
        STAND_INS[name](folder)
        return lambda **options: PUBLIC[name](folder, **options)
    part = OURS[name]()
    part.save_pretrained(folder)
    return lambda **options: type(part).from_pretrained(folder, **options)


def dtypes(part: torch.nn.Module) -> set[torch.dtype]:
    return {weight.dtype for weight in part.parameters()}


def test_a_dtype_is_obeyed_in_either_spelling(load):
    assert dtypes(load()) == {torch.float32}
    for spelling in SPELLINGS:
        assert dtypes(load(**spelling)) == {torch.bfloat16}, spelling


def test_what_is_no_dtype_is_refused_by_name(load):
    for wrong in NONE:
        (value,) = wrong.values()
        with pytest.raises(ValueError, match=f"'{value}'; a dtype is one of float32, bfloat16"):
            load(**wrong)
    with pytest.raises(TypeError, match="got 16"):
        load(torch_dtype=16)


def test_a_keyword_with_a_slip_is_refused(load):
    with pytest.raises(TypeError, match="'revison'; did you mean 'revision'"):
        load(revison="main")


def test_dtypes_by_name():
    assert as_dtype("float16") == as_dtype("torch.float16") == as_dtype(torch.float16) == torch.float16


def test_a_copy_of_a_loaded_model_has_its_dtype(tmp_path):
    STAND_INS["wan_vae"](tmp_path)
    theirs = AutoencoderKLWan.from_pretrained(tmp_path, torch_dtype=torch.bfloat16)
    assert dtypes(WanVideoVAE.from_diffusers(theirs)) == {torch.bfloat16}
