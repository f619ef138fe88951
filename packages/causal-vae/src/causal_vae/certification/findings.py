"""Examining a part: what a law is given (`Subject`), what it returns (`Finding`), and the helpers that laws share.

A law that cannot be measured because the part raises is a broken law, with the error as its note.
"""

from __future__ import annotations

import copy
import hashlib
import math
import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from ..streaming import (
    State,
    StreamingModule,
    clone_state,
)


@dataclass(frozen=True)
class Finding:
    """What a law found.

    measured, allowed: numbers in `unit`; None where nothing could be measured, or where the law asks for no number.
    note: what broke, in words; empty if nothing did.
    """

    law: str
    passed: bool
    measured: float | None
    allowed: float | None
    unit: str
    note: str = ""


Law = Callable[[Any], Finding]  # of a `Subject`, or of a `PoisonedSubject`


class Subject:
    """A part under examination: the module, its example input, and the reference runs that several laws share.

    Args:
        module: anything with the attributes and the `forward` of a `StreamingModule`.
        x: at least 2 streams of at least 3 chunks.
        num_partitions: random partitions to try.
        num_steps: chunks of the long run, made of pieces of `x`.
        tolerance: largest allowed difference where sums may be taken in another order, relative to the output's
            largest magnitude (or 1).

    Raises:
        ValueError: `x` is too small to tell anything, or not a whole number of chunks.
    """

    def __init__(
        self,
        module: StreamingModule,
        x: Tensor,
        *,
        num_partitions: int = 8,
        num_steps: int = 48,
        tolerance: float = 1e-5,
        seed: int = 0,
    ) -> None:
        self.module, self.x = module, x.detach()
        self.stride, self.batch_size = module.stride, x.shape[0]
        self.length = x.shape[module.time_axis]
        if self.batch_size < 2 or self.length < 3 * self.stride or self.length % self.stride:
            raise ValueError(
                f"the example must hold at least 2 streams of 3 chunks of {self.stride} steps; got {self.batch_size} "
                f"of {self.length} steps (shape {tuple(x.shape)}, time on axis {module.time_axis})"
            )
        self.num_chunks, self.num_steps = self.length // self.stride, num_steps
        self.num_partitions, self.tolerance, self.seed = num_partitions, tolerance, seed
        self._pristine = copy.deepcopy(module)
        self.noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(seed)).to(x)

    def twin(self) -> StreamingModule:
        """The same part as it was before the examination, as in another process: it has never seen a stream."""
        return copy.deepcopy(self._pristine)

    def run(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        return self.module(x.clone(), state)

    def start(self, x: Tensor, num_chunks: int) -> Tensor:
        return x.narrow(self.module.time_axis, 0, num_chunks * self.stride)

    def rest(self, x: Tensor, num_chunks: int) -> Tensor:
        start = num_chunks * self.stride
        return x.narrow(self.module.time_axis, start, x.shape[self.module.time_axis] - start)

    @cached_property
    def whole(self) -> tuple[Tensor, State]:
        return self.run(self.x)

    @cached_property
    def middle(self) -> State:
        """The state after one chunk. Clone it: a state that is passed is consumed."""
        return self.run(self.start(self.x, 1))[1]

    @cached_property
    def tail(self) -> Tensor:
        return self.rest(self.x, 1)

    @cached_property
    def rest_of_output(self) -> Tensor:
        return self.run(self.tail, clone_state(self.middle))[0]

    @cached_property
    def long(self) -> Tensor:
        """`num_steps` chunks: `x` again and again, rolled in time by random amounts and with alternating sign."""
        generator, axis = random.Random(self.seed), self.module.time_axis
        tiles = [
            (-1) ** i * self.x.roll(self.stride * generator.randrange(self.num_chunks), axis)
            for i in range(-(-self.num_steps // self.num_chunks))
        ]
        return self.start(torch.cat(tiles, axis), self.num_steps)

    @cached_property
    def long_run(self) -> tuple[Tensor, State, list[State]]:
        return stream(self.module, self.long, [self.stride] * self.num_steps)

    @property
    def scale(self) -> float:
        return max(1.0, self.whole[0].abs().max().item())


@torch.no_grad()
def examine(subject: Subject, laws: dict[str, Law]) -> list[Finding]:
    """Every law on the subject, in order; an error inside a law breaks that law only."""
    findings = []
    for name, law in laws.items():
        try:
            findings.append(replace(law(subject), law=name))
        except Exception as error:  # whatever a stranger's part may raise
            message = " ".join(str(error).split())[:200]
            findings.append(Finding(name, False, None, None, "", f"{type(error).__name__}: {message}"))
    return findings


def difference(found: Tensor, expected: Tensor) -> float:
    """Largest absolute difference; infinite between other shapes or where one is not a number."""
    if found.shape != expected.shape:
        return float("inf")
    if not found.numel():
        return 0.0
    largest = (found - expected).abs().max().item()
    return float("inf") if math.isnan(largest) else largest


def worst(differences: Mapping[str, float], allowed: float, unit: str = "difference") -> Finding:
    """One finding of several comparisons named by what differs: the largest counts."""
    name = max(differences, key=lambda name: differences[name])
    passed = differences[name] <= allowed
    return Finding("", passed, differences[name], allowed, unit, "" if passed else name)


def count(offences: Iterable[str], unit: str) -> Finding:
    """A finding that allows no offence; the note names the first ones."""
    offences = list(offences)
    return Finding("", not offences, len(offences), 0, unit, "; ".join(offences[:3]))


def random_partition(length: int, stride: int, generator: random.Random, largest: int | None = None) -> list[int]:
    """Random positive multiples of `stride` that sum to `length`, none longer than `largest` chunks."""
    pieces, left = [], length // stride
    while left:
        pieces.append(generator.randint(1, min(left, largest or left)))
        left -= pieces[-1]
    return [piece * stride for piece in pieces]


def stream(module: StreamingModule, x: Tensor, pieces: list[int]) -> tuple[Tensor, State, list[State]]:
    """Feed `x` in `pieces`: (joined output, last state, a copy of the state after each piece)."""
    outputs: list[Tensor] = []
    states: list[State] = []
    state: State = None
    for chunk in x.split(pieces, dim=module.time_axis):
        y, state = module(chunk.clone(), state)
        outputs.append(y)
        states.append(clone_state(state))
    return torch.cat(outputs, dim=module.out_time_axis), state, states


def fingerprints(module: nn.Module) -> dict[str, str]:
    """A digest of every attribute, buffer and weight of a module and of its children, by dotted name."""
    found = {}
    own = "_parameters", "_buffers", "_modules"
    for path, child in module.named_modules():
        plain = {name: value for name, value in vars(child).items() if name not in own}
        for name, value in (plain | child._parameters | child._buffers).items():
            found[f"{path}.{name}".lstrip(".")] = _digest(value, depth=4)
    return found


def _digest(value: object, depth: int) -> str:
    """Text that changes when the value does; modules, functions and what lies below `depth` count by identity."""
    if isinstance(value, torch.Generator):
        value = value.get_state()
    if isinstance(value, Tensor):
        data = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        digest = f"{tuple(value.shape)} {value.dtype} {hashlib.blake2b(data.data).hexdigest()}"
    elif value is None or isinstance(value, bool | int | float | complex | str | bytes):
        digest = repr(value)
    elif depth == 0 or isinstance(value, nn.Module | type) or callable(value):
        digest = str(id(value))
    elif isinstance(value, dict):
        digest = repr([(repr(key), _digest(item, depth - 1)) for key, item in value.items()])
    elif isinstance(value, list | tuple | set | frozenset):
        digest = repr([_digest(item, depth - 1) for item in value])
    else:
        digest = f"{id(value)} {_digest(getattr(value, '__dict__', None), depth - 1)}"
    return digest
