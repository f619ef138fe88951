"""The outer class that both perception encoders share."""

from __future__ import annotations

from causal_vae import CheckedLoading, StreamingModule
from torch import nn
from transformers import PreTrainedModel


class PerceptionEncoder(CheckedLoading, PreTrainedModel, StreamingModule):
    """The user's media -> tokens (B, T, output_dim): a transformers model that keeps the streaming contract."""

    out_time_axis = 1

    def _init_weights(self, module: nn.Module) -> None:
        """Nothing: layers keep torch's own initialisation, and loading never leaves a weight to be initialised."""
