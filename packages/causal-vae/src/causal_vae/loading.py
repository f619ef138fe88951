"""Loading that refuses what it cannot load, where the libraries below would carry on with random weights."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open


class CheckedLoading:
    """Mixin before diffusers' `ModelMixin` or transformers' `PreTrainedModel`: `from_pretrained` with clear errors.

    diffusers loads the folder of another class silently, with random weights for whatever does not match.
    """

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike, *args: Any, **kwargs: Any):
        """As the base class's, for a local folder or a hub id.

        Raises:
            ValueError: the folder holds another class, lacks its config, or its weights are damaged or do not fit.
        """
        folder = Path(pretrained_model_name_or_path, kwargs.get("subfolder") or "")
        if Path(pretrained_model_name_or_path).is_dir():
            check_folder_holds(folder, cls.__name__)
        return super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)


def check_folder_holds(folder: Path, class_name: str) -> None:
    """Raise ValueError unless `folder` is what `save_pretrained` of the class `class_name` writes."""
    config_file = folder / "config.json"
    if not config_file.is_file():
        raise ValueError(f"{folder} has no config.json: it is not a folder that {class_name}.save_pretrained wrote")
    config = json.loads(config_file.read_text())
    found = config.get("_class_name") or next(iter(config.get("architectures") or []), None)
    if found != class_name:
        raise ValueError(f"{folder} holds a {found or 'model of unknown class'}, not a {class_name}; load it with its own class")
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        raise ValueError(f"{folder} has no *.safetensors file: the weights of {class_name} are missing")
    for file in weights:
        try:
            with safe_open(file, "pt"):
                pass
        except SafetensorError as error:
            raise ValueError(f"{file} is damaged or incomplete ({error}); download or copy it again") from error
