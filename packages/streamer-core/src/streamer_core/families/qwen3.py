"""Qwen3's weights and words as a `StreamerModel`: what is shared and refused, and which ids control tokens take."""

from __future__ import annotations

import os
from dataclasses import fields
from typing import Any

from causal_vae import CheckedLoading, take_dtype
from causal_vae.hub.loading import LOADING_OPTIONS, refuse_unknown
from transformers import AutoConfig, AutoTokenizer, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

from ..config import StreamerConfig
from ..tokenizer import StreamerTokenizer

HUB_OPTIONS = {"revision", "token", "cache_dir", "local_files_only", "force_download", "subfolder"}
SHARED_FIELDS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "rms_norm_eps",
    "attention_bias",
    "tie_word_embeddings",
    "initializer_range",
)


def load_qwen3(
    model_class: type[PreTrainedModel],
    source: str | os.PathLike[str],
    tokenizer: PreTrainedTokenizerFast | None,
    **kwargs: Any,
) -> PreTrainedModel:
    """`StreamerModel.from_qwen3`."""
    overrides, options = _split(kwargs)
    dtype = take_dtype(options)
    hub = {name: value for name, value in options.items() if name in HUB_OPTIONS}
    shared = _shared_fields(AutoConfig.from_pretrained(source, **hub), source)
    if tokenizer is not None or not {"pad_token_id", "state_token_ids"} <= set(overrides):
        if tokenizer is None:
            tokenizer = AutoTokenizer.from_pretrained(source, **hub)
        shared |= _control_ids(tokenizer, source, shared["vocab_size"])
    config = StreamerConfig(**shared | overrides)
    # Past CheckedLoading, which would refuse that our own layers are not in the file.
    load = super(CheckedLoading, model_class).from_pretrained
    model, info = load(source, config=config, dtype=dtype, output_loading_info=True, **options)
    ours = {name for name, _ in model.named_children()} - {"model", "lm_head"}
    foreign = [name for name in info["missing_keys"] if name.split(".")[0] not in ours]
    if foreign or info["unexpected_keys"] or info["mismatched_keys"]:
        raise ValueError(
            f"{source} does not fit: missing {foreign}, unexpected {list(info['unexpected_keys'])}, mismatched "
            f"{list(info['mismatched_keys'])}"
        )
    return model


def _split(kwargs: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Fields of `StreamerConfig`, and options of loading; TypeError for what is neither."""
    own = {field.name for field in fields(StreamerConfig)} - {"dtype"}
    refuse_unknown(kwargs, own | LOADING_OPTIONS, "from_qwen3")
    overrides = {name: value for name, value in kwargs.items() if name in own}
    return overrides, {name: value for name, value in kwargs.items() if name not in own}


def _shared_fields(config: PreTrainedConfig, source: str | os.PathLike[str]) -> dict[str, Any]:
    """The fields of `StreamerConfig` that a Qwen3 config gives; ValueError for another model or an unknown variant."""
    if config.model_type != "qwen3":
        raise ValueError(f"{source} is a {config.model_type!r} checkpoint; expected 'qwen3'")
    rope = config.rope_parameters or {}
    if config.sliding_window is not None or rope.get("rope_type", "default") != "default":
        raise ValueError(
            f"{source} has a sliding window ({config.sliding_window}) or scaled rotary positions ({rope}); Qwen3 with "
            "plain attention is needed"
        )
    return {name: getattr(config, name) for name in SHARED_FIELDS} | {"rope_theta": rope["rope_theta"]}


def _control_ids(
    tokenizer: PreTrainedTokenizerFast, source: str | os.PathLike[str], vocab_size: int
) -> dict[str, int | list[int]]:
    """Control ids of the words of `source`, which has `vocab_size` rows for them; ValueError where they do not fit."""
    if not set(tokenizer.get_vocab()) - set(tokenizer.get_added_vocab()):  # transformers' guess where no file is
        raise ValueError(
            f"{source} has no tokenizer, so nothing says which words are control tokens: give tokenizer=..., or "
            "pad_token_id and state_token_ids"
        )
    if not isinstance(tokenizer, StreamerTokenizer):
        tokenizer = StreamerTokenizer.extend(tokenizer)
    if len(tokenizer) > vocab_size:
        raise ValueError(
            f"the tokenizer has {len(tokenizer)} words with its control tokens, but {source} has {vocab_size} rows for "
            "them: enlarge its table, or name pad_token_id and state_token_ids among its words"
        )
    return tokenizer.control_ids
