"""Keys and values of a conversation as state: allocated once, written in place, masked by one predicate.

One buffer per session holds three regions side by side: the prompt (the never-evicted sink), a ring of context units
and a ring of response units. The ring slot of unit k is k modulo the ring's size, so the unit that a slot holds follows
from the session's own clock and no bookkeeping is stored. A ring has room for its window plus the current unit: a ring
of exactly the window would drop keys that the first query of a chunk still needs.

The K/V of unit k becomes part of history only when the clock passes k; until then every pass over unit k (each solver
step, or the passes of a paused row) overwrites the same slots and leaves no trace.

Shape legend: B session, T tokens, S slots, L layers, H key-value heads, D head width.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from causal_vae import State
from torch import Tensor

from .config import StreamerConfig
from .layout import UnitLayout


@dataclass(frozen=True)
class CacheSpec:
    """The sizes of a session's key-value buffer.

    Args:
        prompt_capacity: slots of the prompt.
        context_units, response_units: units that the two rings hold.
    """

    layout: UnitLayout
    prompt_capacity: int
    context_units: int
    response_units: int

    @classmethod
    def for_policy(cls, config: StreamerConfig, prompt_capacity: int = 64, capacity_units: int = 64) -> CacheSpec:
        """Rings of the checkpoint's windows; where a window is None (full history), `capacity_units` until it grows."""

        def ring(window: int | None) -> int:
            return capacity_units if window is None else window + 1

        return cls(UnitLayout(config), prompt_capacity, ring(config.context_window), ring(config.response_window))

    @property
    def num_slots(self) -> int:
        layout = self.layout
        contexts = self.context_units * layout.num_context_tokens
        return self.prompt_capacity + contexts + self.response_units * layout.num_response_tokens

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Prompt slots, context units, response units: what a layout is besides its checkpoint."""
        return self.prompt_capacity, self.context_units, self.response_units

    @property
    def regions(self) -> tuple[slice, slice, slice]:
        """Slots of the prompt, of the context ring and of the response ring."""
        contexts = self.prompt_capacity + self.context_units * self.layout.num_context_tokens
        return slice(0, self.prompt_capacity), slice(self.prompt_capacity, contexts), slice(contexts, self.num_slots)

    def union(self, other: CacheSpec) -> CacheSpec:
        """The smallest layout that holds histories of both."""
        return CacheSpec(self.layout, *map(max, self.sizes, other.sizes))

    def with_room_for(self, num_units: int) -> CacheSpec:
        """This layout, full histories doubled until `num_units` units fit; windows always have room."""
        layout = self
        while (limit := layout.max_units()) is not None and num_units > limit:
            c = layout.layout.config
            layout = replace(
                layout,
                context_units=layout.context_units * (2 if c.context_window is None else 1),
                response_units=layout.response_units * (2 if c.response_window is None else 1),
            )
        return layout

    def nbytes(self, batch_size: int = 1, bytes_per_number: int = 4) -> int:
        """Bytes of keys and values, known before a session is admitted."""
        c = self.layout.config
        per_slot = 2 * c.num_hidden_layers * c.num_key_value_heads * c.head_dim * bytes_per_number
        return batch_size * self.num_slots * per_slot

    def max_units(self) -> int | None:
        """Units after which `grow` is due; None when every window is finite and the rings never fill."""
        c = self.layout.config
        limits = [self.context_units] if c.context_window is None else []
        limits += [self.response_units] if c.response_window is None else []
        return min(limits, default=None)

    def slots(self, unit: Tensor, region: slice) -> Tensor:
        """(B, T) slots of the token indices `region` (all context, or all response) of units `unit` (B,)."""
        layout = self.layout
        tokens = layout.indices(region, unit.device)
        _, contexts, responses = self.regions
        if region.start < layout.num_context_tokens:
            base, ring, width = contexts.start, self.context_units, layout.num_context_tokens
        else:
            base, ring, width = responses.start, self.response_units, layout.num_response_tokens
            tokens = tokens - layout.num_context_tokens
        return base + (unit % ring)[:, None] * width + tokens

    def mask(self, unit: Tensor, prompt_length: Tensor, region: slice) -> Tensor:
        """(B, T, S): what the tokens `region` of units `unit` (B,) see, by `UnitLayout.visible`."""
        layout, device = self.layout, unit.device
        prompt = torch.arange(self.prompt_capacity, device=device) < prompt_length[:, None]
        query = layout.indices(region, device)
        seen = [prompt[:, None].expand(-1, len(query), -1)]
        for part, ring in ((layout.context, self.context_units), (layout.response, self.response_units)):
            key = layout.indices(part, device).repeat(ring)  # (slots of the ring)
            place = torch.arange(ring, device=device).repeat_interleave(part.stop - part.start)
            distance = ((unit[:, None] - place) % ring)[:, None]  # (B, 1, slots): units in the past that a slot holds
            seen.append(layout.visible(distance, query[:, None], key) & (distance <= unit.view(-1, 1, 1)))
        return torch.cat(seen, dim=2)


def init_kv_state(
    cache_spec: CacheSpec,
    batch_size: int,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
) -> State:
    """Empty history: keys and values (B, L, H, S, D), `unit` (B,) the session's clock, `prompt_length` (B,)."""
    c = cache_spec.layout.config
    shape = (batch_size, c.num_hidden_layers, c.num_key_value_heads, cache_spec.num_slots, c.head_dim)
    return {
        "keys": torch.zeros(shape, device=device, dtype=dtype),
        "values": torch.zeros(shape, device=device, dtype=dtype),
        "unit": torch.zeros(batch_size, dtype=torch.int64, device=device),
        "prompt_length": torch.zeros(batch_size, dtype=torch.int64, device=device),
    }


def read_kv(state: State, slots: Tensor) -> Tensor:
    """K/V at `slots` (B, T) as one packed tensor (B, 2, L, H, T, D): what thinker and performer send each other."""
    keys, values = state["keys"], state["values"]
    where = slots[:, None, None, :, None].expand(-1, keys.shape[1], keys.shape[2], -1, keys.shape[4])
    return torch.stack([keys.gather(3, where), values.gather(3, where)], dim=1)


def write_kv(state: State, slots: Tensor, packed: Tensor) -> None:
    """Write packed K/V into `slots` (B, T), in place: the receiving side of `read_kv`."""
    where = slots[:, None, None, :, None].expand_as(packed[:, 0])
    state["keys"].scatter_(3, where, packed[:, 0])
    state["values"].scatter_(3, where, packed[:, 1])


def start_history(prompt_kv: Tensor, cache_spec: CacheSpec) -> State:
    """History that begins with a prompt's K/V (B, 2, L, H, P, D), which every later token sees."""
    batch, length = prompt_kv.shape[0], prompt_kv.shape[4]
    state = init_kv_state(cache_spec, batch, prompt_kv.device, prompt_kv.dtype)
    write_kv(state, torch.arange(length, device=prompt_kv.device).expand(batch, -1), prompt_kv)
    return {**state, "prompt_length": state["prompt_length"] + length}


def advance(state: State) -> State:
    """Commit the current unit: the clock moves on and what was written for it becomes history."""
    return {**state, "unit": state["unit"] + 1}


def grow(state: State, old: CacheSpec, new: CacheSpec) -> State:
    """Move histories into a larger buffer: more room for the prompt, or rings of a full history that has not wrapped.

    Raises:
        ValueError: a region would shrink, or a window's ring, whose slots follow from its size, would change it.
    """
    if old == new:
        return state
    c = old.layout.config
    rings = (
        ("context", c.context_window, old.context_units, new.context_units),
        ("response", c.response_window, old.response_units, new.response_units),
    )
    if new.prompt_capacity < old.prompt_capacity or any(wanted < held for _, _, held, wanted in rings):
        raise ValueError(
            f"a key-value buffer cannot shrink: from {old.sizes} to {new.sizes} (prompt, context, response)"
        )
    for name, window, held, wanted in rings:
        if window is not None and wanted != held:
            raise ValueError(f"the {name} ring of a window keeps its {held} units; got {wanted}")

    def move(leaf: Tensor) -> Tensor:
        moved = leaf.new_zeros(*leaf.shape[:3], new.num_slots, leaf.shape[4])
        for source, target in zip(old.regions, new.regions, strict=True):
            length = source.stop - source.start
            moved[:, :, :, target.start : target.start + length] = leaf[:, :, :, source]
        return moved

    return {**state, "keys": move(state["keys"]), "values": move(state["values"])}
