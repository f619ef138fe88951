"""What both perception encoders share: the outer class, and loading that accepts complete weights only."""

from __future__ import annotations

import os
from typing import Any

from causal_vae import CheckedLoading, StreamingModule
from torch import nn
from transformers import PreTrainedModel


class PerceptionEncoder(CheckedLoading, PreTrainedModel, StreamingModule):
    """The user's media -> tokens (B, T, output_dim): a transformers model that keeps the streaming contract."""

    out_time_axis = 1

    def _init_weights(self, module: nn.Module) -> None:
        """Nothing: layers keep torch's own initialisation, and loading never leaves a weight to be initialised."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike, *args: Any, **kwargs: Any):
        """As transformers', but weights that are missing or of another shape are an error, not a warning.

        Raises:
            ValueError: the folder holds another class, or its weights are damaged, incomplete or of other sizes.
        """
        wants_info = kwargs.pop("output_loading_info", False)
        kwargs |= {"output_loading_info": True, "ignore_mismatched_sizes": True}  # reported below, all at once
        model, info = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        if info["missing_keys"] or info["mismatched_keys"]:
            raise ValueError(
                f"the weights in {pretrained_model_name_or_path} do not fit its configuration: "
                f"missing {sorted(info['missing_keys'])}, of another size {sorted(map(str, info['mismatched_keys']))}"
            )
        return (model, info) if wants_info else model
