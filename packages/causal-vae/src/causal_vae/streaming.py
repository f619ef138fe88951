"""The streaming contract: a module is a function of (input, state), and a state is a tree of tensors.

What is unusual here: nothing about a stream is ever stored on a module. `module(x)` is the offline result,
`module(chunk, state)` the live one, and both run the same code, because an absent state means "start of stream".

Shape legend: B session, C channels, T time steps, H x W picture.

The laws every `StreamingModule` keeps (asserted by `causal_vae.testing`):

1. `None` and the all-zero state both mean "start of stream".
2. Any partition of the input into legal chunks gives the same output.
3. State leaves are tensors: session first, contiguous, of constant shape and dtype.
4. Row i of output and state depends on row i of the input only.
5. A state that was passed is consumed; `clone_state` forks a stream.
6. No data-dependent shapes or Python counters inside a step.
7. Randomness is an argument.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

State: TypeAlias = Any
"""A tensor, or a dict of states by name. A type checker takes it for Any: only the module knows its own tree."""


class StreamingModule(nn.Module):
    """A causal map over time whose memory goes in and comes out as `State`.

    Attributes:
        stride: smallest legal chunk, in input steps; input lengths are positive multiples of it.
        upsample: output steps per `stride` input steps: `T_out == T_in // stride * upsample`.
        lookahead: input steps past the end of its own chunk that an output step may depend on. 0 is strictly causal.
        time_axis, out_time_axis: the axis of time in input and output (2 for channels-first media, 1 for tokens).
    """

    stride: int = 1
    upsample: int = 1
    lookahead: int = 0
    time_axis: int = 2
    out_time_axis: int = 2

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        raise NotImplementedError

    def chunk_shape(self, *_: Any, **size: Any) -> tuple[int, ...]:
        """Shape, without the session axis, of the smallest legal chunk; `size` names what the module leaves open.

        A module declares the names that it knows, and no others.
        """
        raise NotImplementedError

    def init_state(self, batch_size: int, **size: int) -> State:
        """The all-zero state of `batch_size` new streams (`size`: as in `chunk_shape`, for example height and width).

        Shapes are read off one step on silence, so that a module states its memory in one place: its `forward`.
        """
        reference = next(chain(self.parameters(), self.buffers()))
        silence = reference.new_zeros(batch_size, *self.chunk_shape(**size), device=execution_device(self))
        with torch.no_grad():
            _, state = self(silence)
        return map_state(torch.zeros_like, state)

    def check_length(self, x: Tensor) -> None:
        """Raise ValueError unless `x` lasts a positive multiple of `stride` steps."""
        length = x.shape[self.time_axis]
        if length == 0 or length % self.stride:
            raise ValueError(
                f"{type(self).__name__} takes chunks whose length is a positive multiple of {self.stride} steps; "
                f"got {length}. Buffer ragged input before it reaches the module (see UnitBuffer)."
            )


def execution_device(module: nn.Module) -> torch.device:
    """Where a module computes, also while its weights wait elsewhere (accelerate's offloading to CPU or disk)."""
    for part in module.modules() if hasattr(module, "_hf_hook") else ():
        device = getattr(getattr(part, "_hf_hook", None), "execution_device", None)
        if device is not None:
            return torch.device(device)
    return next(chain(module.parameters(), module.buffers())).device


class StreamingSequential(StreamingModule):
    """Layers in a row; streaming ones keep their state under their index, plain modules pass through."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        for index, layer in enumerate(layers):
            self.add_module(str(index), layer)
        streaming = [layer for layer in layers if isinstance(layer, StreamingModule)]
        # The smallest chunk that every layer receives whole: walk the rates from the input to the output.
        self.stride, self.upsample = _compose_rates((layer.stride, layer.upsample) for layer in streaming)

    def chunk_shape(self, **size: int) -> tuple[int, ...]:
        first: Any = next(self.children())
        channels, _, *rest = first.chunk_shape(**size)
        return (channels, self.stride, *rest)

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        past, new = substates(state), {}
        for name, layer in self.named_children():
            if isinstance(layer, StreamingModule):
                x, new[name] = layer(x, past[name])
            else:
                x = layer(x)
        return x, new


def _compose_rates(rates: Iterable[tuple[int, int]]) -> tuple[int, int]:
    stride, upsample = 1, 1  # `upsample` steps leave the layers so far for every `stride` steps that enter
    for layer_stride, layer_upsample in rates:
        repeat = layer_stride // math.gcd(upsample, layer_stride)
        stride, upsample = stride * repeat, upsample * repeat // layer_stride * layer_upsample
    return stride, upsample


class _StartOfStream(dict[str, None]):
    """Stands in for an absent state: every child is at the start of its stream, too."""

    def __missing__(self, name: str) -> None:
        return None


def substates(state: State | None) -> dict[str, State | None]:
    """The children's states by name; at the start of a stream every one is None."""
    return _StartOfStream() if state is None else state


def map_state(function: Callable[..., Tensor], state: State, *others: State) -> State:
    """Apply `function` to every leaf (and the matching leaves of `others`), keeping the tree."""
    if isinstance(state, Tensor):
        return function(state, *others)
    return {name: map_state(function, child, *(other[name] for other in others)) for name, child in state.items()}


def flatten_state(state: State) -> dict[str, Tensor]:
    """The leaves under dotted names, in the order of the tree: what `safetensors` stores. A bare leaf is named ""."""
    return dict(_leaves(state, ""))


def _leaves(state: State, prefix: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(state, Tensor):
        yield prefix, state
    else:
        for name, child in state.items():
            yield from _leaves(child, f"{prefix}.{name}" if prefix else name)


def unflatten_state(leaves: dict[str, Tensor]) -> State:
    """The inverse of `flatten_state`."""
    if set(leaves) == {""}:
        return leaves[""]
    tree: dict[str, State] = {}
    for name, leaf in leaves.items():
        *path, last = name.split(".")
        node = tree
        for key in path:
            node = node.setdefault(key, {})
        node[last] = leaf
    return tree


def clone_state(state: State) -> State:
    """A fork: two streams that continue independently from the same past."""
    return map_state(torch.clone, state)


def stack_states(states: list[State]) -> State:
    """Several states as one batch, in order."""
    return map_state(lambda *leaves: torch.cat(leaves), states[0], *states[1:])


def select_state(state: State, rows: Tensor) -> State:
    """The sessions `rows` (an index tensor), in that order, as a batch of their own."""
    return map_state(lambda leaf: leaf.index_select(0, rows), state)


def index_state(state: State, row: int) -> State:
    """Session `row` alone, as a batch of one."""
    return map_state(lambda leaf: leaf[row : row + 1].clone(), state)


def reset_state(state: State, rows: Tensor) -> State:
    """The sessions where the boolean `rows` (B,) holds start anew; the others are untouched."""
    return map_state(lambda leaf: leaf.masked_fill(rows.view(-1, *[1] * (leaf.dim() - 1)), 0), state)


def state_nbytes(state: State) -> int:
    """Bytes that the state holds."""
    return sum(leaf.numel() * leaf.element_size() for leaf in flatten_state(state).values())
