"""Loading that refuses what it cannot load, where the libraries below would carry on with random weights."""

from __future__ import annotations

import json
import os
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from .cards import BringsCard


def as_dtype(value: str | torch.dtype | None) -> torch.dtype | None:
    """A floating dtype by itself or by its name, "bfloat16" or "torch.bfloat16"; None is None.

    Raises:
        ValueError: it is no floating dtype of torch.
    """
    dtype = getattr(torch, value.removeprefix("torch."), None) if isinstance(value, str) else value
    if value is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise ValueError(f"dtype must be a floating torch.dtype or its name, such as 'bfloat16'; got {value!r}")
    return dtype


def take_dtype(options: dict[str, Any]) -> torch.dtype | None:
    """Take `dtype`, or `torch_dtype` as diffusers spells it, out of keyword arguments.

    None where neither is given, or "auto", which leaves it to the class that loads.
    """
    values = [options.pop(name, None) for name in ("dtype", "torch_dtype")]
    return as_dtype(next((value for value in values if value not in (None, "auto")), None))


class CheckedLoading(BringsCard):
    """Mixin before diffusers' `ModelMixin` or transformers' `PreTrainedModel`: clear errors, and a card.

    diffusers loads the folder of another class silently, and both libraries keep random weights where a file has none.
    """

    saved_as: ClassVar[str | None] = None
    """The class that a folder's config names, where it is not this one."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike, *args: Any, **kwargs: Any):
        """As the base class's, for a local folder or a hub id.

        Raises:
            ValueError: the folder holds another class, lacks its config, or its weights are damaged or do not fit.
        """
        folder = Path(pretrained_model_name_or_path, kwargs.get("subfolder") or "")
        if Path(pretrained_model_name_or_path).is_dir():
            check_folder_holds(folder, cls.saved_as or cls.__name__)
        if (dtype := take_dtype(kwargs)) is not None:
            kwargs["dtype"] = dtype
        wants_info = kwargs.pop("output_loading_info", False)
        kwargs |= {"output_loading_info": True, "ignore_mismatched_sizes": True}  # reported below, all at once
        model, info = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        _check_weights_fit(info, f"the weights in {folder} do not fit {cls.__name__} with the config.json beside them")
        _own_memory(model)
        return (model, info) if wants_info else model

    def register_to_config(self, **fields: Any) -> None:
        """As diffusers' `ConfigMixin`, without the path that weights came from: it is nobody's business elsewhere."""
        fields.pop("_name_or_path", None)
        super().register_to_config(**fields)


def _check_weights_fit(info: dict[str, Any], problem: str) -> None:
    """Raise ValueError if the libraries' report names weights that are missing, left over or of another size."""
    kinds = {"missing": "missing_keys", "left over": "unexpected_keys", "of another size": "mismatched_keys"}
    found = []
    for kind, key in kinds.items():
        names = sorted(name if isinstance(name, str) else name[0] for name in info[key])
        if names:
            found.append(f"{kind}: {', '.join(names[:3])}" + (f" and {len(names) - 3} more" if len(names) > 3 else ""))
    if found:
        raise ValueError(f"{problem} ({'; '.join(found)}); take both files from one save_pretrained")


@torch.no_grad()
def _own_memory(model: nn.Module) -> None:
    """Copy weights out of the mapped file.

    Tensors in a safetensors file start at any multiple of their item size; vector units round differently (and run
    slower) on unaligned data, so the same weights would not give the same bits in every process.
    """
    for tensor in chain(model.parameters(), model.buffers()):
        if tensor.device.type == "cpu":
            tensor.data = tensor.data.clone()


def check_folder_holds(folder: Path, class_name: str) -> None:
    """Raise ValueError unless `folder` is what `save_pretrained` of the class `class_name` writes."""
    config_file = folder / "config.json"
    if not config_file.is_file():
        raise ValueError(f"{folder} has no config.json: it is not a folder that {class_name}.save_pretrained wrote")
    try:
        config = json.loads(config_file.read_text())
    except ValueError as error:
        raise ValueError(f"{config_file} is damaged or incomplete ({error}); download or copy it again") from error
    found = config.get("_class_name") or next(iter(config.get("architectures") or []), None)
    if found != class_name:
        found = found or "model of unknown class"
        raise ValueError(f"{folder} holds a {found}, not a {class_name}; load it with its own class")
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        raise ValueError(f"{folder} has no *.safetensors file: the weights of {class_name} are missing")
    for file in weights:
        try:
            with safe_open(file, "pt"):
                pass
        except SafetensorError as error:
            raise ValueError(f"{file} is damaged or incomplete ({error}); download or copy it again") from error
