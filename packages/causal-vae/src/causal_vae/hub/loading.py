"""Loading that refuses what it cannot load, where the libraries below would carry on with random weights."""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import json
import os
from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from diffusers import ConfigMixin
from safetensors import SafetensorError, safe_open
from torch import nn

from ..config_fields import check_values
from .cards import ModelCardMixin

COMPUTED = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
# What diffusers' or transformers' `from_pretrained` of a model takes besides the fields of its config.
LOADING_OPTIONS = {
    "revision", "cache_dir", "token", "local_files_only", "force_download", "proxies", "trust_remote_code",
    "subfolder", "variant", "use_safetensors", "weights_only", "disable_mmap", "use_flashpack", "config", "state_dict",
    "dtype", "torch_dtype", "quantization_config", "key_mapping", "adapter_kwargs", "ignore_mismatched_sizes",
    "device_map", "max_memory", "offload_folder", "offload_state_dict", "offload_buffers", "low_cpu_mem_usage",
    "parallel_config", "distributed_config", "device_mesh", "tp_plan", "tp_size", "output_loading_info",
    "attn_implementation", "experts_implementation", "use_kernels", "kernel_config",
}  # fmt: skip
COPY_AGAIN = "download or copy it again"


def as_dtype(value: torch.dtype | str) -> torch.dtype:
    """`torch.bfloat16`, "bfloat16" or "torch.bfloat16" as a torch.dtype.

    Raises:
        TypeError: neither a torch.dtype nor a string.
        ValueError: weights cannot be computed in it, or nothing is called so.
    """
    if not isinstance(value, torch.dtype | str):
        raise TypeError(f"a dtype is a torch.dtype or its name; got {value!r}")
    dtype = getattr(torch, str(value).removeprefix("torch."), None)
    if not isinstance(dtype, torch.dtype) or dtype not in COMPUTED:
        names = ", ".join(str(known).removeprefix("torch.") for known in COMPUTED)
        raise ValueError(f"weights cannot be loaded as {str(value)!r}; a dtype is one of {names}")
    return dtype


def take_dtype(options: dict[str, Any]) -> torch.dtype | dict[str, torch.dtype] | None:
    """Remove `dtype` and its older name `torch_dtype` from the options; what they ask for, or None.

    A dictionary names parts of a pipeline, and "default" for the others. "auto" is None: the class that loads chooses.

    Raises:
        TypeError, ValueError: both are given and differ, or it is no dtype (see `as_dtype`).
    """
    given = {name: options.pop(name, None) for name in ("dtype", "torch_dtype")}
    given = {name: value for name, value in given.items() if value is not None and value != "auto"}
    read = [
        {part: as_dtype(one) for part, one in value.items()} if isinstance(value, dict) else as_dtype(value)
        for value in given.values()
    ]
    if len(read) == 2 and read[0] != read[1]:
        raise ValueError(f"dtype={given['dtype']} and torch_dtype={given['torch_dtype']} differ; give one of them")
    return read[0] if read else None


def refuse_unknown(names: Iterable[str], known: Iterable[str], taker: str) -> None:
    """Raise TypeError if `taker` does not know one of the keywords; it says which name is nearest.

    Names with an underscore in front are what the libraries tell each other.
    """
    known = set(known)
    for name in names:
        if name not in known and not name.startswith("_"):
            nearest = difflib.get_close_matches(name, sorted(known), 1)
            hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
            raise TypeError(f"{taker} knows no {name!r}{hint}")


def read_json(file: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        ValueError: the file is not there, is damaged, or holds something else.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ValueError(f"{file} is missing; {COPY_AGAIN}") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is damaged or incomplete ({error}); {COPY_AGAIN}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{file} is damaged: it holds {json.dumps(content)[:40]}, not an object; {COPY_AGAIN}")
    return content


def check_is_place_for_folder(path: str | os.PathLike[str]) -> None:
    """Raise OSError if a folder cannot be at `path`, because a file is there or above."""
    for place in (Path(path), *Path(path).parents):
        if place.is_dir():
            return
        if place.exists():
            raise NotADirectoryError(f"cannot save to {path}: {place} is a file; give the name of a folder")


class CheckedFiles(ModelCardMixin):
    """Mixin before a scheduler or tokenizer: the files that it reads are there and whole, and a card."""

    checked_files: ClassVar[tuple[str, ...]] = ()
    saved_as: ClassVar[tuple[str, ...]] = ()
    """The classes that the first of these files may name as its own; empty: it names none."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike[str], *args: Any, **kwargs: Any) -> Any:
        """As the base class's, for a local folder or a hub id.

        Raises:
            ValueError: a file is missing or damaged, or another class wrote it.
        """
        if not Path(pretrained_model_name_or_path).is_dir():
            return super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        found = [Path(pretrained_model_name_or_path, kwargs.get("subfolder") or "", name) for name in cls.checked_files]
        contents = [read_json(file) for file in found]
        if cls.saved_as and contents[0].get("_class_name") not in cls.saved_as:
            writer = contents[0].get("_class_name") or "class that it does not name"
            raise ValueError(f"{found[0]} is of a {writer}, not of a {' or a '.join(cls.saved_as)}")
        try:
            return super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        except (OSError, ValueError):
            raise
        except Exception as error:  # tokenizers raises nothing more exact
            raise ValueError(f"{found[0]} is damaged: no {cls.__name__} can be made of it ({error!r})") from error

    def save_pretrained(self, save_directory: str | os.PathLike[str], *args: Any, **kwargs: Any) -> Any:
        """As the base class's.

        Raises:
            OSError: a file is in the way.
        """
        check_is_place_for_folder(save_directory)
        return super().save_pretrained(save_directory, *args, **kwargs)


class CheckedLoading(ModelCardMixin):
    """Mixin before diffusers' `ModelMixin` or transformers' `PreTrainedModel`: clear errors, and a card.

    diffusers loads the folder of another class silently, and both libraries keep random weights where a file has none.
    """

    saved_as: ClassVar[str | None] = None
    """The class that a folder's config names, where it is not this one."""
    floors: ClassVar[dict[str, int]] = {}
    """The least values of a diffusers config's fields, where they are not those of `check_values`."""

    if TYPE_CHECKING:  # the libraries' classes give a model its config and more

        def __getattr__(self, name: str) -> Any: ...

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike[str], *args: Any, **kwargs: Any) -> Any:
        """As the base class's, for a local folder or a hub id; `dtype` may be a name, and may be called `torch_dtype`.

        Raises:
            ValueError: the folder holds another class, lacks its config, or its weights are damaged, do not fit or are
                not numbers; or the dtype is none.
            TypeError: a keyword is neither an option of loading nor a field of the config.
        """
        refuse_unknown(kwargs, LOADING_OPTIONS | _config_fields(cls), f"{cls.__name__}.from_pretrained")
        refuse_pickles(kwargs.get("use_safetensors", True), "use_safetensors")
        if (dtype := take_dtype(kwargs)) is not None:
            kwargs["dtype"] = dtype
        folder = Path(pretrained_model_name_or_path, kwargs.get("subfolder") or "")
        whole: dict[str, str] = {}
        if is_local := Path(pretrained_model_name_or_path).is_dir():
            whole = check_folder_holds(folder, cls.saved_as or cls.__name__)
        wants_info = kwargs.pop("output_loading_info", False)
        kwargs |= {"output_loading_info": True, "ignore_mismatched_sizes": True}  # reported below, all at once
        try:
            model, info = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        except (TypeError, AttributeError, KeyError, ZeroDivisionError) as error:
            if not is_local:
                raise
            problem = f"{folder / 'config.json'} describes no {cls.__name__} that can be built"
            raise ValueError(f"{problem} ({error}); {COPY_AGAIN}") from error
        _check_weights_fit(info, f"the weights in {folder} do not fit {cls.__name__} with the config.json beside them")
        _own_memory(model)
        _check_values(model, whole, folder)
        return (model, info) if wants_info else model

    def save_pretrained(
        self,
        save_directory: str | os.PathLike[str],
        *args: Any,
        safe_serialization: bool = True,
        variant: str | None = None,
        max_shard_size: int | str | None = None,
        **kwargs: Any,
    ) -> Any:
        """As the base class's.

        Raises:
            ValueError: `safe_serialization=False`, which would write a pickle; no loading here reads one.
            OSError: a file is in the way, or the weights cannot be written.
        """
        refuse_pickles(safe_serialization, "safe_serialization")
        check_is_place_for_folder(save_directory)
        if max_shard_size is not None:
            kwargs["max_shard_size"] = max_shard_size
        try:
            return super().save_pretrained(save_directory, *args, variant=variant, **kwargs)
        except SafetensorError as error:
            raise OSError(f"the weights cannot be written to {save_directory}: {error}") from error

    def register_to_config(self, **fields: Any) -> None:
        """As diffusers' `ConfigMixin`, which calls it before anything is built, but what a field cannot be is refused.

        The path that weights came from is left out: it is nobody's business elsewhere.

        Raises:
            ValueError: as `check_values`.
        """
        fields.pop("_name_or_path", None)
        check_values(type(self).__name__, inspect.get_annotations(type(self).__init__), fields, self.floors)
        super().register_to_config(**fields)


def _config_fields(cls: Any) -> set[str]:
    """The fields of the config of a model of diffusers or transformers."""
    if issubclass(cls, ConfigMixin):
        return set(cls._get_init_keys(cls)) - {"self"}
    return {field.name for field in dataclasses.fields(cls.config_class)}


def refuse_pickles(safe: bool | None, option: str) -> None:
    """Raise ValueError if the value of `option` asks for another format than safetensors; None does not."""
    if safe is not None and not safe:
        raise ValueError(f"{option}=False asks for pickles, which are never read or written here; leave it out")


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


@torch.no_grad()
def _check_values(model: nn.Module, whole: dict[str, str], folder: Path) -> None:
    """Raise ValueError, naming the tensor, where a weight is not finite or was stored as a whole number.

    Args:
        whole: the folder's tensors of whole numbers, which the libraries turn into floats, and their types.
    """
    for name, tensor in model.state_dict().items():
        if tensor.dtype not in COMPUTED:
            continue
        if name in whole:
            raise ValueError(
                f"the weights in {folder} are damaged: {name} is stored as {whole[name]}, and a {type(model).__name__} "
                f"has numbers of floating point there"
            )
        # One pass without a copy; NaN and infinity both show in the ends.
        if tensor.numel() and not tensor.is_meta and not all(end.isfinite() for end in tensor.aminmax()):
            raise ValueError(
                f"the weights in {folder} are damaged: {name} holds NaN or infinity as {tensor.dtype}; export them "
                f"again, or load them in another dtype"
            )


def check_folder_holds(folder: Path, class_name: str) -> dict[str, str]:
    """Raise ValueError unless `folder` is what `save_pretrained` of the class `class_name` writes.

    Returns:
        The tensors that are stored as whole numbers, by name, with their types.
    """
    if not (folder / "config.json").is_file():
        raise ValueError(f"{folder} has no config.json: it is not a folder that {class_name}.save_pretrained wrote")
    config = read_json(folder / "config.json")
    architectures = config.get("architectures")
    found = config.get("_class_name") or (architectures[0] if isinstance(architectures, list) and architectures else "")
    if found != class_name:
        found = found or "model of unknown class"
        raise ValueError(f"{folder} holds a {found}, not a {class_name}; load it with its own class")
    weights = sorted(folder.glob("*.safetensors"))
    whole: dict[str, str] = {}
    if not weights:
        raise ValueError(f"{folder} has no *.safetensors file: the weights of {class_name} are missing")
    for file in weights:
        try:
            with safe_open(file, "pt") as tensors:
                types = {name: tensors.get_slice(name).get_dtype() for name in tensors.keys()}  # noqa: SIM118
        except SafetensorError as error:
            raise ValueError(f"{file} is damaged or incomplete ({error}); {COPY_AGAIN}") from error
        whole |= {name: kind for name, kind in types.items() if kind.startswith(("I", "U", "BOOL"))}
    return whole
