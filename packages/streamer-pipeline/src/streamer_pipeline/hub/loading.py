"""Loading and saving of a whole pipeline: folders, the Hub, other pipelines; what is wrong is said before weights move.

Components live in other packages, so `model_index.json` says `["causal_vae", "CausalVideoVAE"]`, and the stock hub
download, which knows only diffusers' own classes, is replaced.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any, Self

import causal_codec  # noqa: F401  (loading refuses classes of packages that are not imported yet)
import causal_vae  # noqa: F401
import streamer_core  # noqa: F401
import torch
from causal_vae import Certificate, take_dtype
from causal_vae.hub.cards import push_folder
from causal_vae.hub.loading import (
    COPY_AGAIN,
    check_is_place_for_folder,
    read_json,
    refuse_pickles,
    refuse_unknown,
)
from diffusers import DiffusionPipeline
from huggingface_hub import ModelCard, hf_hub_download, snapshot_download
from huggingface_hub.errors import GatedRepoError, HFValidationError, LocalEntryNotFoundError, RevisionNotFoundError

from ..checkpoints import BUNDLED, bundled_checkpoint
from ..checks.fit import check_contract
from .cards import pipeline_card

HUB_OPTIONS = ("cache_dir", "revision", "token", "local_files_only", "force_download")
PIPELINE_OPTIONS = {
    *HUB_OPTIONS, "dtype", "torch_dtype", "variant", "use_safetensors", "quantization_config", "disable_mmap",
    "device_map", "max_memory", "offload_folder", "offload_state_dict", "low_cpu_mem_usage",
}  # fmt: skip


class PipelineLoading(DiffusionPipeline):
    """The half of `StreamerPipeline` that loads and saves."""

    _loaded_from: Path | None = None

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike[str] = BUNDLED, **kwargs: Any) -> Self:
        """Load a folder, a hub id, or (with no argument, or "wan-streamer-tiny") the checkpoint that ships with us.

        Any component is replaced by keyword: `from_pretrained(..., video_vae=mine)`; so are `prompt` and
        `num_inference_steps`. `dtype` (or `torch_dtype`) is a torch.dtype or its name, or a dictionary of them by
        component, with "default" for the others; float32 without it. Where a component has no weights of the `variant`,
        its plain ones are loaded.

        Raises:
            TypeError: a keyword that nobody knows; the nearest one is named.
            ValueError: a part is missing, damaged, of another class than the index says, or does not fit the others.
            OSError: neither a folder here nor a repository that the Hub gives us.
        """
        components = cls._component_names()
        refuse_unknown(kwargs, PIPELINE_OPTIONS | cls._keywords(), f"{cls.__name__}.from_pretrained")
        refuse_pickles(kwargs.get("use_safetensors"), "use_safetensors")
        dtype = take_dtype(kwargs)
        if isinstance(dtype, dict):
            refuse_unknown(dtype, {*components, "default"}, "the dictionary of dtypes")
        if str(pretrained_model_name_or_path) == BUNDLED and not Path(BUNDLED).exists():
            pretrained_model_name_or_path = bundled_checkpoint()
        path = Path(pretrained_model_name_or_path)
        if path.exists() or str(path).startswith((".", "/")):
            cls._check_folder(path, kwargs)
        return super().from_pretrained(pretrained_model_name_or_path, dtype=dtype or torch.float32, **kwargs)

    @classmethod
    def from_pipe(cls, pipeline: DiffusionPipeline, **kwargs: Any) -> Self:
        """A second pipeline of the same parts: not copies, with the prompt and the solver steps of the first.

        Args:
            kwargs: components, prompt and num_inference_steps that replace the first one's; `dtype` moves all parts,
                the first pipeline's with them.

        Raises:
            TypeError: `pipeline` is of another class, or a keyword is unknown.
            ValueError: the parts do not fit each other.
        """
        if not isinstance(pipeline, cls):
            raise TypeError(f"from_pipe takes a {cls.__name__}; got a {type(pipeline).__name__}")
        dtype = take_dtype(kwargs)
        refuse_unknown(kwargs, {"dtype", "torch_dtype"} | cls._keywords(), f"{cls.__name__}.from_pipe")
        second = cls(**pipeline.components | pipeline.parameters | kwargs)
        second._loaded_from = pipeline._loaded_from
        return second if dtype is None else second.to(dtype=dtype)

    @classmethod
    def download(cls, pretrained_model_name: str, **kwargs: Any) -> str:
        """Fetch a pipeline repository's own parts, without those that are overridden by keyword: the local folder."""
        hub = {name: kwargs[name] for name in HUB_OPTIONS if kwargs.get(name) is not None}
        try:
            index_file = hf_hub_download(pretrained_model_name, cls.config_name, **hub)
        except GatedRepoError as error:
            raise OSError(
                f"{pretrained_model_name!r} is gated: ask for access on its page on the Hub, log in with "
                f"`hf auth login`, then load it again ({error})"
            ) from error
        except RevisionNotFoundError as error:
            raise OSError(f"{pretrained_model_name!r} has no revision {hub['revision']!r}: {error}") from error
        except LocalEntryNotFoundError as error:
            raise OSError(
                f"{pretrained_model_name!r} is not in the cache, and the Hub cannot be reached or must not be: load it "
                f"once with a connection ({error})"
            ) from error
        except (OSError, HFValidationError) as error:
            raise OSError(
                f"{pretrained_model_name!r} is not a folder here, and the Hub gives no pipeline of that name: {error}"
            ) from error
        parts = list(cls._parts_to_load(Path(index_file).parent, kwargs))

        def fetch(parts: list[str], variant: str | None) -> Path:
            patterns = ("*.json", "*.txt", "*.model", *_weight_patterns(variant))
            allow = [cls.config_name, *(f"{part}/{pattern}" for part in parts for pattern in patterns)]
            ignore = [] if variant else ["*.*.safetensors"]
            return Path(snapshot_download(pretrained_model_name, allow_patterns=allow, ignore_patterns=ignore, **hub))

        variant = kwargs.get("variant")
        folder = fetch(parts, variant)
        if variant is not None:
            models = [part for part in parts if (folder / part / "config.json").is_file()]
            lacking = [part for part in models if not _has_weights(folder / part, variant)]
            if lacking == models:
                raise ValueError(f"{pretrained_model_name!r} has no weights of the variant {variant!r}; leave it out")
            if lacking:
                fetch(lacking, None)
        cls._check_folder(folder, kwargs)
        return str(folder)

    def save_pretrained(
        self,
        save_directory: str | os.PathLike[str],
        safe_serialization: bool = True,
        variant: str | None = None,
        max_shard_size: int | str | None = None,
        push_to_hub: bool = False,
        **upload: Any,
    ) -> None:
        """Write every part to a folder of its own, and the index beside them.

        Args:
            safe_serialization: always; weights are safetensors.
            variant: "fp16" gives `*.fp16.safetensors`. max_shard_size: of a file, "5GB" or bytes.
            push_to_hub: do that, too; `upload` are its arguments, and `repo_id` is the folder's name if not given.

        Raises:
            ValueError: `safe_serialization=False`.
            OSError: a file is in the way, or a folder cannot be written.
        """
        refuse_pickles(safe_serialization, "safe_serialization")
        check_is_place_for_folder(save_directory)
        super().save_pretrained(save_directory, variant=variant, max_shard_size=max_shard_size)
        if push_to_hub:
            self.push_to_hub(upload.pop("repo_id", Path(save_directory).name), variant=variant, **upload)
        elif upload:
            known = ("safe_serialization", "variant", "max_shard_size", "push_to_hub")
            refuse_unknown(upload, known, f"{type(self).__name__}.save_pretrained")

    def push_to_hub(
        self,
        repo_id: str,
        card: ModelCard | str | None = None,
        score: Path | None = None,
        certificates: dict[str, Certificate] | None = None,
        **upload: Any,
    ) -> str:
        """Upload all parts and a card in one commit; returns its address.

        Args:
            card: the repository's card from now on; None keeps the one that is there, or takes the one beside the
                folder that this was loaded from, or writes that of `pipeline_card`.
            score, certificates: for the latter.
            upload: variant, commit_message, private, token, create_pr, revision.
        """

        def default_card() -> ModelCard | str:
            beside = self._loaded_from and self._loaded_from / "README.md"
            if score is None and certificates is None and beside and beside.is_file():
                return beside.read_text(encoding="utf-8")
            return pipeline_card(self, score, certificates)

        return push_folder(self, repo_id, card, default_card, **upload)

    def register_to_config(self, **kwargs: Any) -> None:
        """Short, stable names in the index: `["causal_vae", "CausalVideoVAE"]`, wherever in its package a class is.

        Where the pipeline was loaded from is kept, but not in the index: it is nobody's business elsewhere.
        """
        if origin := kwargs.pop("_name_or_path", None):
            self._loaded_from = Path(origin)
        for name, value in kwargs.items():
            if isinstance(value, tuple) and len(value) == 2 and value[0] and "." in value[0]:
                package = sys.modules[value[0].partition(".")[0]]
                if hasattr(package, value[1]):
                    kwargs[name] = (package.__name__, value[1])
        super().register_to_config(**kwargs)

    # ---- what a folder must be ----

    @classmethod
    def _component_names(cls) -> set[str]:
        return set(cls._get_signature_keys(cls)[0])

    @classmethod
    def _keywords(cls) -> set[str]:
        """Components, and what else a pipeline is built with."""
        components, others = cls._get_signature_keys(cls)
        return {*components, *others}

    @classmethod
    def _check_folder(cls, folder: Path, overrides: dict[str, Any]) -> None:
        """Raise ValueError, before any weight is read, unless `folder` is a pipeline with all its parts."""
        for name, part_class in cls._parts_to_load(folder, overrides).items():
            if not (folder / name).is_dir():
                raise ValueError(f"{folder} lacks the folder {name!r} of its index; copy it, or pass {name}=...")
            check_contract(name, part_class)

    @classmethod
    def _parts_to_load(cls, folder: Path, overrides: dict[str, Any]) -> dict[str, Any]:
        """The components in the folder's index that are not overridden, with the classes that it names.

        Raises:
            ValueError: it is not an index for us, or a class is not there.
        """
        index_file = folder / cls.config_name
        if not index_file.is_file():
            reason = f"it has no {cls.config_name}" if folder.is_dir() else "there is no such folder"
            raise ValueError(f"{folder} is not a pipeline folder: {reason}; save one with save_pretrained")
        index = read_json(index_file)
        if index.get("_class_name") != cls.__name__:
            raise ValueError(f"{folder} holds a {index.get('_class_name')}, not a {cls.__name__}")
        components = cls._component_names()
        listed = {name: value for name, value in index.items() if name in components or isinstance(value, list)}
        for name, value in listed.items():
            # A part that was None when it was saved is listed as [null, null].
            if value != [None, None] and not (_is_pair_of_names(value) and name in components):
                raise ValueError(
                    f"{index_file} is damaged: its {name} is {str(value)[:40]}, not the package and the class of a "
                    f"component; {COPY_AGAIN}"
                )
        listed = {name: value for name, value in listed.items() if value[0] is not None}
        needed = components - set(cls._optional_components)
        for name in sorted(needed - listed.keys() - overrides.keys()):
            raise ValueError(f"{folder} has no {name}, which a {cls.__name__} needs; pass {name}=...")
        return {name: _find_class(folder, name, *listed[name]) for name in listed if name not in overrides}


def _is_pair_of_names(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(isinstance(name, str) for name in value)


def _find_class(folder: Path, name: str, package: str, class_name: str) -> Any:
    """What the index calls `class_name` of `package`; nothing is imported because a folder says so."""
    if package not in sys.modules:
        raise ValueError(
            f"{folder} uses {class_name} of the package {package!r} as its {name}: install that package and import it "
            f"before loading"
        )
    if not hasattr(sys.modules[package], class_name):
        raise ValueError(f"{folder} uses {class_name} as its {name}: {package!r} has no class `{class_name}`")
    return getattr(sys.modules[package], class_name)


def _weight_patterns(variant: str | None) -> tuple[str, str]:
    """File names of whole weights and of shards."""
    middle = f".{variant}" if variant else ""
    return f"*{middle}.safetensors", f"*{middle}-*.safetensors"


def _has_weights(folder: Path, variant: str) -> bool:
    return any(next(folder.glob(pattern), None) for pattern in _weight_patterns(variant))
