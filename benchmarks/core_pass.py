"""One pass of the Transformer over a long history, against transformers' Qwen3 with the same weights and keys."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from harness import Row, Setting, alternate, median, ratio
from streamer_core import StreamerModel
from torch import Tensor
from transformers import DynamicCache, Qwen3Config, Qwen3ForCausalLM, StaticCache

NUM_TOKENS = 40
NUM_KEYS = (1_000, 5_000, 20_000)
TOLERANCE = 1e-4  # of outputs about 3 in size, float32, sums in another order


def same_model_twice() -> tuple[Qwen3ForCausalLM, StreamerModel]:
    """Eight layers of width 256 with random weights, as Qwen3 and as ours."""
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=64,
        hidden_size=256,
        intermediate_size=768,
        num_hidden_layers=8,
        num_attention_heads=8,
        num_key_value_heads=4,
        head_dim=32,
        max_position_embeddings=32_768,
    )
    theirs = Qwen3ForCausalLM(config).eval()
    with tempfile.TemporaryDirectory() as folder:
        theirs.save_pretrained(folder)
        return theirs, StreamerModel.from_qwen3(folder, perception_dim=8, pad_token_id=0, state_token_ids=[1, 2]).eval()


@dataclass
class Contestants:
    """The same tokens after the same keys, by three caches; each call leaves the history as it was."""

    theirs: Qwen3ForCausalLM
    ours: StreamerModel
    embeddings: Tensor  # (1, T, D)
    history: Tensor  # (2, L, 1, H, S, head width)

    def __post_init__(self) -> None:
        config, num_keys = self.theirs.config, self.history.shape[4]
        capacity = num_keys + NUM_TOKENS
        self.dynamic, self.static = DynamicCache(config=config), StaticCache(config=config, max_cache_len=capacity)
        for layer in range(config.num_hidden_layers):
            for cache in (self.dynamic, self.static):
                cache.update(*self.history[:, layer].unbind(0), layer)
        shape = 1, config.num_hidden_layers, config.num_key_value_heads, capacity, config.head_dim
        self.keys, self.values = torch.zeros(shape), torch.zeros(shape)
        for buffer, past in zip((self.keys, self.values), self.history, strict=True):
            buffer[:, :, :, :num_keys] = past.transpose(0, 1)
        self.where = torch.arange(num_keys, capacity)

    def run_ours(self) -> Tensor:
        mask = torch.arange(self.keys.shape[3]) <= self.where[:, None]
        positions, slots = self.where.expand(1, 3, -1), self.where.expand(1, -1)
        attention_inputs = self.ours.model.attention_inputs(positions, mask[None], self.keys.dtype, slots=slots)
        return self.ours.model(self.embeddings, attention_inputs, (self.keys, self.values))

    def run_dynamic(self) -> Tensor:
        hidden = self._run_theirs(self.dynamic)
        self.dynamic.crop(-NUM_TOKENS)
        return hidden

    def run_static(self) -> Tensor:
        hidden = self._run_theirs(self.static)
        for layer in self.static.layers:
            layer.cumulative_length.sub_(NUM_TOKENS)
        return hidden

    def _run_theirs(self, cache: DynamicCache | StaticCache) -> Tensor:
        return self.theirs.model(
            inputs_embeds=self.embeddings, position_ids=self.where[None], past_key_values=cache, use_cache=True
        ).last_hidden_state


@torch.inference_mode()
def core_pass(setting: Setting) -> list[Row]:
    """40 tokens against 1,000, 5,000 and 20,000 keys, all in turn; the outputs must agree."""
    theirs, ours = same_model_twice()
    sizes = NUM_KEYS if not setting.quick else (100, 200, 400)
    sides: dict[str, Callable[[], Tensor]] = {}
    differences = {}
    for num_keys in sizes:
        torch.manual_seed(1)
        history = torch.randn(2, 8, 1, 4, num_keys, 32)
        contestants = Contestants(theirs, ours, torch.randn(1, NUM_TOKENS, 256), history)
        calls = {"ours": contestants.run_ours, "dynamic": contestants.run_dynamic, "static": contestants.run_static}
        outputs = {name: call() for name, call in calls.items()}
        difference = max((outputs["ours"] - outputs[name]).abs().max().item() for name in ("dynamic", "static"))
        if not difference <= TOLERANCE:
            raise RuntimeError(f"outputs differ by {difference:.1e} at {num_keys} keys: this would compare two models")
        sides |= {f"{name} {num_keys}": call for name, call in calls.items()}
        differences[num_keys] = difference
    times = alternate(sides, setting.count(30, 2), warm_up=setting.count(3, 1))
    rows, ratios = [], {}
    for num_keys in sizes:
        mine = {name: times[f"{name} {num_keys}"] for name in ("ours", "dynamic", "static")}
        details = {f"{name}_ms": median(values) for name, values in mine.items()}
        details["difference"] = differences[num_keys]
        for name in ("dynamic", "static"):
            ratios[name, num_keys] = mine[name] / mine["ours"]
            label = f"core pass, {num_keys:,} keys: Qwen3 + {name.capitalize()}Cache / ours"
            rows.append(Row(label, float(np.median(ratios[name, num_keys])), "x", ">= 1.5", details))
    growth = min(
        ratio(ratios[name, longer], ratios[name, shorter])
        for name in ("dynamic", "static")
        for shorter, longer in pairwise(sizes)
    )
    rows.append(Row("core pass: smallest growth of the ratio with history", growth, "x", ">= 1"))
    return rows
