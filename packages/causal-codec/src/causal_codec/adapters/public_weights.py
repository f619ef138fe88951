"""Reading one tower out of a public checkpoint with transformers' own class, so that no format is known here twice."""

from __future__ import annotations

import os
from typing import Any

import torch
from causal_vae import take_dtype
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel

HUB_OPTIONS = ("revision", "cache_dir", "token", "local_files_only", "force_download")


def read_config(
    pretrained_model_name_or_path: str | os.PathLike[str], whole: str, tower: str, options: dict[str, Any]
) -> PreTrainedConfig:
    """The config of a folder or hub id whose model type is `whole`, or `tower` for the tower alone.

    Raises:
        ValueError: it is another model.
    """
    hub = {name: options[name] for name in HUB_OPTIONS if name in options}
    config = AutoConfig.from_pretrained(pretrained_model_name_or_path, **hub)
    if config.model_type not in (whole, tower):
        raise ValueError(
            f"{pretrained_model_name_or_path} is a {config.model_type!r} checkpoint; expected {whole!r} or {tower!r}"
        )
    return config


def read_tower(
    tower_class: type[PreTrainedModel], pretrained_model_name_or_path: str | os.PathLike[str], **options: Any
) -> PreTrainedModel:
    """A `tower_class` from a checkpoint of it, or of a model that holds one; in float32 unless `dtype` is given.

    Raises:
        ValueError: `dtype` is none, or the weights are not those that the config asks for.
    """
    options |= {
        "dtype": take_dtype(options) or torch.float32,
        "output_loading_info": True,
        "ignore_mismatched_sizes": True,
    }
    tower, info = tower_class.from_pretrained(pretrained_model_name_or_path, **options)
    missing, mismatched = sorted(info["missing_keys"]), sorted(map(str, info["mismatched_keys"]))
    if missing or mismatched:
        raise ValueError(
            f"the weights in {pretrained_model_name_or_path} do not fit {tower_class.__name__} with the config.json "
            f"beside them (missing: {missing[:3]}; of another size: {mismatched[:3]}); take both from one place"
        )
    return tower
