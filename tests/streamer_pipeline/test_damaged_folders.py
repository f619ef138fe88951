"""Folders that are broken: what is wrong is said in a sentence that names the file, the tensor or both numbers."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from streamer_core import StreamerTokenizer
from streamer_pipeline import StreamerPipeline
from tiny_parts import tiny_pipeline


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint") / "tiny"
    tiny_pipeline().save_pretrained(folder)
    return folder


@pytest.fixture
def copy(checkpoint, tmp_path):
    return Path(shutil.copytree(checkpoint, tmp_path / "copy"))


def edit_json(file: Path, **changes) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def swap(folder: Path, first: str, second: str) -> None:
    (folder / first).rename(folder / "swapping")
    (folder / second).rename(folder / first)
    (folder / "swapping").rename(folder / second)


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


def edit_weights(file: Path, edit) -> None:
    """`edit` takes the weights and the name of one of them."""
    weights = load_file(file)
    edit(weights, min(weights))
    save_file(weights, file, metadata={"format": "pt"})


def forget(weights, name):
    del weights[name]


def spoil(value):
    """Put `value` into a weight."""
    return lambda weights, name: weights[name].view(-1)[-1:].fill_(value)


def make_whole(weights, name):
    weights[name] = weights[name].to(torch.int32)


def swap_control_tokens(file: Path) -> None:
    text = file.read_text().replace("<|pad|>", "<|...|>").replace("<|listen|>", "<|pad|>")
    file.write_text(text.replace("<|...|>", "<|listen|>"))


def many_words() -> StreamerTokenizer:
    """More words than the tiny pipeline has, with the same control tokens."""
    return StreamerTokenizer.train([f"word{number}" for number in range(400)], vocab_size=662)


VAE, CORE = "video_vae/diffusion_pytorch_model.safetensors", "streamer/model.safetensors"
# What was done to the folder, and the error. Parts load in any order, so the first of two wrong ones may be either.
BROKEN = {
    "VAEs swapped": (
        lambda f: swap(f, "audio_vae", "video_vae"),
        "audio_vae holds a CausalVideoVAE, not a CausalAudioVAE|video_vae holds a CausalAudioVAE, not a CausalVideoVAE",
    ),
    "encoders swapped": (
        lambda f: swap(f, "audio_encoder", "video_encoder"),
        "holds a CausalVideoEncoder, not a CausalAudioEncoder|holds a CausalAudioEncoder, not a CausalVideoEncoder",
    ),
    "truncated VAE": (lambda f: truncate(f / VAE), f"{VAE} is damaged or incomplete.*copy it again"),
    "truncated core": (lambda f: truncate(f / CORE), f"{CORE} is damaged or incomplete.*copy it again"),
    "no weights": (lambda f: (f / VAE).unlink(), "video_vae has no .*safetensors"),
    "weight missing in VAE": (
        lambda f: edit_weights(f / VAE, forget),
        "do not fit CausalVideoVAE.*missing: decoder.fine.0.bias",
    ),
    "weight missing in core": (
        lambda f: edit_weights(f / CORE, forget),
        "do not fit StreamerModel.*missing: audio_in.bias",
    ),
    "other depth": (
        lambda f: edit_json(f / "video_vae/config.json", decoder_depth=0),
        r"do not fit CausalVideoVAE.*left over: decoder.*and \d+ more",
    ),
    "other width": (
        lambda f: edit_json(f / "streamer/config.json", intermediate_size=64),
        "do not fit StreamerModel.*of another size: model.layers.0.mlp",
    ),
    "config cut": (lambda f: truncate(f / "video_vae/config.json"), "video_vae/config.json is damaged or incomplete"),
    "no config": (lambda f: (f / "video_vae/config.json").unlink(), "video_vae has no config.json"),
    "part folder missing": (lambda f: shutil.rmtree(f / "video_decoder"), "lacks the folder 'video_decoder'"),
    "part is null": (
        lambda f: edit_json(f / "model_index.json", streamer=[None, None]),
        "has no streamer, which a StreamerPipeline needs; pass streamer=",
    ),
    "foreign package": (
        lambda f: edit_json(f / "model_index.json", video_vae=["some_lab.vae", "LabVAE"]),
        "LabVAE of the package 'some_lab.vae' as its video_vae: install that package and import it",
    ),
    "unknown class": (
        lambda f: edit_json(f / "model_index.json", video_vae=["causal_vae", "LabVAE"]),
        "no class `LabVAE`",
    ),
    "other pipeline": (lambda f: edit_json(f / "model_index.json", _class_name="WanPipeline"), "holds a WanPipeline"),
    "index cut": (lambda f: truncate(f / "model_index.json"), "model_index.json is damaged or incomplete"),
    "no index": (
        lambda f: (f / "model_index.json").unlink(),
        "copy is not a pipeline folder: it has no model_index.json",
    ),
    **{
        f"{file} holds {content[:4]!r}": (
            lambda f, file=file, content=content: (f / file).write_text(content),
            f"copy/{file} is damaged.*copy it again",
        )
        for file in (
            "model_index.json",
            "video_vae/config.json",
            "streamer/config.json",
            "scheduler/scheduler_config.json",
            "tokenizer/tokenizer.json",
            "tokenizer/tokenizer_config.json",
        )
        for content in ("", "[]", "null", "5", "[" * 100_000)
    },
    **{
        f"index says {value!r}": (
            lambda f, value=value: edit_json(f / "model_index.json", video_vae=value),
            "model_index.json is damaged: its video_vae is .*, not the package and the class of a component",
        )
        for value in (5, ["causal_vae"], ["causal_vae", "video_vae", "CausalVideoVAE"], [None, "CausalVideoVAE"])
    },
    "a function": (
        lambda f: edit_json(f / "model_index.json", video_vae=["transformers", "pipeline"]),
        "pipeline cannot be the video_vae: it has no .*encode, decode",
    ),
    "a part that forgets": (
        lambda f: edit_json(f / "model_index.json", video_vae=["diffusers", "AutoencoderKL"]),
        r"AutoencoderKL cannot be the video_vae: it has no stride, upsample, chunk_shape, init_state \(",
    ),
    "no scheduler": (
        lambda f: (f / "scheduler/scheduler_config.json").unlink(),
        "scheduler/scheduler_config.json is missing",
    ),
    "no words": (lambda f: (f / "tokenizer/tokenizer.json").unlink(), "tokenizer/tokenizer.json is missing"),
    "words that are none": (
        lambda f: (f / "tokenizer/tokenizer.json").write_text("{}"),
        "tokenizer/tokenizer.json is damaged: no StreamerTokenizer can be made of it",
    ),
    "control tokens moved": (
        lambda f: swap_control_tokens(f / "tokenizer/tokenizer.json"),
        r"<\|pad\|> is token 1 of the tokenizer and 0 of the streamer",
    ),
    "words beyond the vocabulary": (
        lambda f: many_words().save_pretrained(f / "tokenizer"),
        f"the tokenizer has {len(many_words())} words, the streamer a vocabulary of {len(tiny_pipeline().tokenizer)}",
    ),
    **{
        f"{field} is {value!r}": (
            lambda f, part=part, field=field, value=value: edit_json(f / part / "config.json", **{field: value}),
            f"{field} must be .*; got {re.escape(str(value))}",
        )
        for part, field, value in (
            ("video_vae", "spatial_strides", None),
            ("video_vae", "spatial_strides", [3]),
            ("video_vae", "picture_size", [-48, 96]),
            ("video_vae", "cell_channels", 0),
            ("video_decoder", "latent_width", -1),
            ("audio_vae", "sample_rate", None),
            ("audio_vae", "hop_length", 0),
            ("audio_vae", "decoder_depth", -1),
            ("audio_decoder", "dim", 2.5),
            ("audio_encoder", "num_mels", 0),
            ("video_encoder", "widths", [4, -8]),
            ("streamer", "hidden_size", -32),
            ("streamer", "attention_bias", 5),
        )
    },
    **{
        f"scheduler of {name}": (
            lambda f, content=content: (f / "scheduler/scheduler_config.json").write_text(json.dumps(content)),
            "scheduler_config.json is of a .*, not of a FlowMatchScheduler",
        )
        for name, content in {"nobody": {}, "another library": {"_class_name": "DDIMScheduler"}}.items()
    },
    **{
        f"{value} in {file.partition('/')[0]}": (
            lambda f, file=file, value=value: edit_weights(f / file, spoil(value)),
            f"{file.partition('/')[0]} are damaged: [a-z_.0-9]+ holds NaN or infinity as torch.float32",
        )
        for file in (VAE, CORE)
        for value in (float("nan"), float("inf"), float("-inf"))
    },
    "whole numbers in VAE": (
        lambda f: edit_weights(f / VAE, make_whole),
        "video_vae are damaged: decoder.fine.0.bias is stored as I32",
    ),
    "whole numbers in core": (
        lambda f: edit_weights(f / CORE, make_whole),
        "streamer are damaged: audio_in.bias is stored as I32",
    ),
    "no folder": (shutil.rmtree, "copy is not a pipeline folder: there is no such folder"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_folder_says_what_is_wrong(copy, name):
    damage, message = BROKEN[name]
    damage(copy)
    with pytest.raises(ValueError, match=message):
        StreamerPipeline.from_pretrained(copy)


def test_a_dtype_that_cannot_hold_the_weights_is_refused(copy):
    edit_weights(copy / CORE, spoil(1e9))
    StreamerPipeline.from_pretrained(copy)
    with pytest.raises(ValueError, match=r"audio_in\.bias holds NaN or infinity as torch\.float16"):
        StreamerPipeline.from_pretrained(copy, dtype="float16")
