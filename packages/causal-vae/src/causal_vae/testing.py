"""The laws of the streaming contract as assertions, for any `StreamingModule`, ours or a stranger's.

check_streaming(module, x)      # state laws: partitions, batches, forks, hand-over
check_causal(module, x)         # no output depends on its future; returns the measured look-ahead
"""

from __future__ import annotations

import random

import safetensors.torch
import torch
from torch import Tensor

from .streaming import (
    State,
    StreamingModule,
    clone_state,
    flatten_state,
    index_state,
    map_state,
    reset_state,
    select_state,
    stack_states,
    unflatten_state,
)


def random_partition(length: int, stride: int, generator: random.Random) -> list[int]:
    """Random positive multiples of `stride` that sum to `length`."""
    pieces, left = [], length // stride
    while left:
        pieces.append(generator.randint(1, left))
        left -= pieces[-1]
    return [piece * stride for piece in pieces]


def stream(
    module: StreamingModule, x: Tensor, pieces: list[int], state: State | None = None
) -> tuple[Tensor, State, list[State]]:
    """Feed `x` in `pieces`: (joined output, last state, a copy of the state after each piece)."""
    outputs, states = [], []
    for chunk in x.split(pieces, dim=module.time_axis):
        y, state = module(chunk, state)
        outputs.append(y)
        states.append(clone_state(state))
    return torch.cat(outputs, dim=module.out_time_axis), state, states


@torch.no_grad()
def check_streaming(
    module: StreamingModule, x: Tensor, *, num_partitions: int = 8, tolerance: float = 1e-5, seed: int = 0
) -> None:
    """Assert the state laws of `causal_vae.streaming` on `x`, a batch of at least 2 streams of several chunks.

    Args:
        tolerance: largest allowed difference between partitions, relative to the output's largest magnitude (or 1).
    """
    generator = random.Random(seed)
    stride, length = module.stride, x.shape[module.time_axis]
    assert x.shape[0] >= 2 and length >= 3 * stride, "give at least 2 streams of 3 chunks"
    whole, last = module(x)
    scale = tolerance * max(1.0, whole.abs().max().item())

    expected = length // stride * module.upsample
    found = whole.shape[module.out_time_axis]
    assert found == expected, f"{length} steps gave {found} output steps, not {expected} (stride, upsample)"
    _assert_refuses_ragged(module, x)

    # 1. None is the all-zero state, and resetting a state gives it back.
    zero = map_state(torch.zeros_like, last)
    _assert_equal(module(x, zero)[0], whole, "the all-zero state is not the start of a stream")
    reset = reset_state(clone_state(last), torch.ones(x.shape[0], dtype=torch.bool, device=x.device))
    _assert_equal(module(x, reset)[0], whole, "a reset state is not the start of a stream")

    # 2. Any partition gives the same output; 3. its states keep shape, dtype and layout.
    for partition in [
        [stride] * (length // stride),
        *(random_partition(length, stride, generator) for _ in range(num_partitions)),
    ]:
        y, _, states = stream(module, x, partition)
        _assert_close(y, whole, scale, f"chunks {partition} differ from the whole")
        for state in states:
            _assert_same_layout(state, last, x.shape[0])

    # 4. Rows are independent, in any company.
    head, tail = x.split([stride, length - stride], dim=module.time_axis)
    _, middle = module(head)
    rest, _ = module(tail, clone_state(middle))
    for row in range(x.shape[0]):
        alone, _ = module(tail[row : row + 1], index_state(middle, row))
        _assert_close(alone, rest[row : row + 1], scale, f"row {row} depends on its batch")
    order = torch.randperm(x.shape[0], generator=torch.Generator().manual_seed(seed)).to(x.device)
    shuffled, _ = module(tail[order], select_state(middle, order))
    _assert_close(shuffled, rest[order], scale, "rows of a reordered batch differ")
    rows = [index_state(middle, row) for row in range(x.shape[0])]
    _assert_close(module(tail, stack_states(rows))[0], rest, scale, "a batch put together from single rows differs")

    # 5. and 7. A fork continues alike, bit for bit: nothing of the stream is on the module, nothing is random inside.
    module(torch.randn_like(x))  # another stream in between must not matter
    _assert_equal(module(tail, clone_state(middle))[0], rest, "the same state continued differently")

    # A state survives a file.
    stored = safetensors.torch.load(safetensors.torch.save(flatten_state(middle)))
    _assert_equal(module(tail, unflatten_state(stored))[0], rest, "a state that went through a file differs")


@torch.no_grad()
def check_causal(module: StreamingModule, x: Tensor) -> int:
    """Poison every future input with NaN and measure the look-ahead, in input steps; it must equal the declared one.

    For every chunk border, all inputs from there on become NaN; outputs that belong to earlier chunks must not change.
    """
    stride, length = module.stride, x.shape[module.time_axis]
    whole, _ = module(x)
    assert torch.isfinite(whole).all(), "the clean output is not finite, so poison could not be told from it"
    measured = 0
    for border in range(stride, length, stride):
        poisoned = x.clone()
        poisoned.narrow(module.time_axis, border, length - border).fill_(float("nan"))
        steps_before = border // stride * module.upsample
        y = module(poisoned)[0].narrow(module.out_time_axis, 0, steps_before)
        clean = whole.narrow(module.out_time_axis, 0, steps_before)
        other_axes = [axis for axis in range(y.dim()) if axis != module.out_time_axis]
        changed = ((y - clean).abs() > 1e-6) | ~torch.isfinite(y)
        hit = changed.sum(dim=other_axes).nonzero()
        if len(hit):
            first_chunk_end = (hit[0].item() // module.upsample + 1) * stride
            measured = max(measured, border - first_chunk_end + 1)
    assert measured == module.lookahead, (
        f"{type(module).__name__} declares a look-ahead of {module.lookahead} input steps; measured {measured}"
    )
    return measured


def _assert_refuses_ragged(module: StreamingModule, x: Tensor) -> None:
    for length in {0, module.stride + 1} if module.stride > 1 else {0}:
        try:
            module(x.narrow(module.time_axis, 0, length))
        except ValueError:
            continue
        raise AssertionError(f"a chunk of {length} steps was taken; legal are positive multiples of {module.stride}")


def _assert_same_layout(state: State, reference: State, batch_size: int) -> None:
    leaves, expected = flatten_state(state), flatten_state(reference)
    assert leaves.keys() == expected.keys(), f"state leaves changed: {sorted(leaves)} against {sorted(expected)}"
    for name, leaf in leaves.items():
        like = expected[name]
        assert leaf.shape == like.shape and leaf.dtype == like.dtype, f"state leaf {name!r} changed shape or dtype"
        assert leaf.shape[0] == batch_size, f"state leaf {name!r} does not begin with the session axis"
        assert leaf.is_contiguous(), f"state leaf {name!r} is not contiguous"


def _assert_equal(found: Tensor, expected: Tensor, message: str) -> None:
    assert torch.equal(found, expected), f"{message}: largest difference {(found - expected).abs().max().item():.2e}"


def _assert_close(found: Tensor, expected: Tensor, tolerance: float, message: str) -> None:
    difference = (found - expected).abs().max().item()
    assert difference <= tolerance, f"{message}: largest difference {difference:.2e}, allowed {tolerance:.2e}"
