"""Public language models as a `StreamerModel`: whose weights fit, what is refused, and which ids control tokens take.

All families are one Transformer with other fields of `StreamerConfig`, and its parameter names are theirs.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from causal_vae import CheckedLoading, take_dtype
from causal_vae.hub.loading import LOADING_OPTIONS, refuse_unknown
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from ..config import StreamerConfig
from ..tokenizer import StreamerTokenizer

HUB_OPTIONS = {"revision", "token", "cache_dir", "local_files_only", "force_download", "subfolder"}
# model_type of transformers -> the fields in which a family differs from Qwen3.
FAMILIES: dict[str, Callable[[PreTrainedConfig], dict[str, Any]]] = {
    "qwen3": lambda theirs: {"attention_bias": theirs.attention_bias},
    "qwen2": lambda theirs: {"qk_norm": False, "attention_bias": True, "attention_output_bias": False},
    "llama": lambda theirs: {
        "qk_norm": False,
        "attention_bias": theirs.attention_bias,
        "mlp_bias": theirs.mlp_bias,
    },
    "smollm3": lambda theirs: {
        "qk_norm": False,
        "attention_bias": theirs.attention_bias,
        "mlp_bias": theirs.mlp_bias,
        # Their 1 is a layer with rotary positions.
        "layers_without_rope": [layer for layer, rotates in enumerate(theirs.no_rope_layers) if not rotates],
    },
}
SHARED_FIELDS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "rms_norm_eps",
    "tie_word_embeddings",
    "initializer_range",
)
_TABLES = ("model.embed_tokens.weight", "lm_head.weight")


def load_language_model(
    model_class: type[PreTrainedModel],
    source: str | os.PathLike[str],
    tokenizer: PreTrainedTokenizerFast | None,
    gguf_file: str | None = None,
    **kwargs: Any,
) -> PreTrainedModel:
    """`StreamerModel.from_language_model`."""
    overrides, options = _split(kwargs)
    dtype = take_dtype(options)
    hub = {name: value for name, value in options.items() if name in HUB_OPTIONS}
    if gguf_file or (gguf_file := _only_gguf(source)):
        hub["gguf_file"] = options["gguf_file"] = gguf_file
    shared = shared_fields(AutoConfig.from_pretrained(source, **hub), source)
    num_rows = shared["vocab_size"]
    if tokenizer is not None or not {"pad_token_id", "state_token_ids"} <= set(overrides):
        if tokenizer is None:
            tokenizer = AutoTokenizer.from_pretrained(source, **hub)
        tokenizer = _with_control_tokens(tokenizer, source)
        shared |= {"vocab_size": max(num_rows, len(tokenizer)), **tokenizer.control_ids}
    config = StreamerConfig(**shared | overrides)
    if gguf_file or config.vocab_size > num_rows:
        return _copied(model_class(config), source, dtype, options)
    # Past CheckedLoading, which would refuse that our own layers are not in the file.
    load = super(CheckedLoading, model_class).from_pretrained
    model, info = load(source, config=config, dtype=dtype, output_loading_info=True, **options)
    _check_fits(model, source, info["missing_keys"], info["unexpected_keys"], info["mismatched_keys"])
    return model


def shared_fields(theirs: PreTrainedConfig, source: str | os.PathLike[str]) -> dict[str, Any]:
    """The fields of `StreamerConfig` that a language model's config gives.

    Raises:
        ValueError: it is of no family of `FAMILIES`, or has something that this Transformer does not.
    """
    if theirs.model_type not in FAMILIES:
        raise ValueError(
            f"{source} is a {theirs.model_type!r} checkpoint; this Transformer reads {', '.join(FAMILIES)} (Qwen3, "
            "Qwen2 and 2.5, Llama and SmolLM2, SmolLM3): others have norms, layers or positions of another kind"
        )
    rope = dict(theirs.rope_parameters or {})
    theta, kind = rope.pop("rope_theta"), rope.get("rope_type", "default")
    is_windowed = getattr(theirs, "use_sliding_window", True) and getattr(theirs, "sliding_window", None) is not None
    refused = {
        "a sliding window": is_windowed or set(getattr(theirs, "layer_types", None) or []) - {"full_attention"},
        f"rotary positions scaled by {kind!r}": kind not in ("default", "linear", "llama3"),
        "rotary positions on a part of each head": rope.get("partial_rotary_factor", 1.0) != 1.0,
        f"the activation {theirs.hidden_act!r}": theirs.hidden_act != "silu",
    }
    if found := [what for what, is_there in refused.items() if is_there]:
        raise ValueError(f"{source} has {' and '.join(found)}, which this Transformer does not have")
    head_dim = getattr(theirs, "head_dim", None) or theirs.hidden_size // theirs.num_attention_heads
    return {
        **{name: getattr(theirs, name) for name in SHARED_FIELDS},
        **FAMILIES[theirs.model_type](theirs),
        "head_dim": head_dim,
        "rope_theta": float(theta),
        "rope_scaling": rope if kind != "default" else None,
    }


def _split(kwargs: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Fields of `StreamerConfig`, and options of loading; TypeError for what is neither."""
    own = {field.name for field in fields(StreamerConfig)} - {"dtype"}
    refuse_unknown(kwargs, own | LOADING_OPTIONS, "from_language_model")
    overrides = {name: value for name, value in kwargs.items() if name in own}
    return overrides, {name: value for name, value in kwargs.items() if name not in own}


def _only_gguf(source: str | os.PathLike[str]) -> str | None:
    """The file of a folder that holds one GGUF and no other weights; ValueError where there are several."""
    folder = Path(source)
    found = sorted(path.name for path in folder.glob("*.gguf")) if folder.is_dir() else []
    if not found or (folder / "config.json").exists():
        return None
    if len(found) > 1:
        raise ValueError(f"{source} holds several GGUF files, {', '.join(found)}: name one with gguf_file=...")
    return found[0]


def _with_control_tokens(tokenizer: PreTrainedTokenizerFast, source: str | os.PathLike[str]) -> StreamerTokenizer:
    """The words of `source` and our control tokens; ValueError where it has no words."""
    if not set(tokenizer.get_vocab()) - set(tokenizer.get_added_vocab()):  # transformers' guess where no file is
        raise ValueError(
            f"{source} has no tokenizer, so nothing says which words are control tokens: give tokenizer=..., or "
            "pad_token_id and state_token_ids"
        )
    return tokenizer if isinstance(tokenizer, StreamerTokenizer) else StreamerTokenizer.extend(tokenizer)


def _copied(
    model: PreTrainedModel, source: str | os.PathLike[str], dtype: Any, options: dict[str, Any]
) -> PreTrainedModel:
    """`model` with the weights that transformers reads from `source`; rows for control tokens come after its words."""
    if options.get("device_map") is not None:
        raise ValueError(
            f"{source} is read on the CPU first, because it is a GGUF file or its table of words must grow: leave "
            "device_map out, and save_pretrained the model, which then loads with one"
        )
    theirs = AutoModelForCausalLM.from_pretrained(source, dtype=dtype, **options)
    weights = theirs.state_dict()
    ours = model.to(theirs.dtype).state_dict()
    for name in _TABLES:
        if name in weights:
            weights[name] = torch.cat([weights[name], ours[name][len(weights[name]) :]])
    missing, unexpected = model.load_state_dict(weights, strict=False)
    _check_fits(model, source, missing, unexpected)
    model.tie_weights()
    return model.eval()


def _check_fits(model: PreTrainedModel, source: object, missing: Any, unexpected: Any, mismatched: Any = ()) -> None:
    """Raise ValueError unless only what a language model does not have is new."""
    ours = {name for name, _ in model.named_children()} - {"model", "lm_head"}
    is_tied = model.config.tie_word_embeddings
    foreign = [name for name in missing if name.split(".")[0] not in ours and not (is_tied and name == _TABLES[1])]
    if foreign or unexpected or mismatched:
        raise ValueError(
            f"{source} does not fit: missing {foreign}, unexpected {list(unexpected)}, mismatched {list(mismatched)}"
        )
