"""The laws of the streaming contract as measurements: each is a function of a `Subject` that returns a `Finding`.

`causal_vae.testing` asserts them and `certificate` lists them; what a law says is written here, once.

Shape legend: B session, T time steps; a chunk is `stride` input steps.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterable

import safetensors.torch
import torch
from torch import Tensor, nn

from ..streaming import (
    clone_state,
    flatten_state,
    index_state,
    map_state,
    reset_state,
    select_state,
    stack_states,
    unflatten_state,
)
from .findings import (
    Finding,
    Law,
    Subject,
    count,
    difference,
    fingerprints,
    random_partition,
    stream,
    worst,
)

# ---- output and rates ----


def finite(subject: Subject) -> Finding:
    """Numbers stay numbers: on the example, on silence, and after many steps."""
    outputs = {
        "the output of the example": subject.whole[0],
        "the output of silence": subject.run(torch.zeros_like(subject.x))[0],
        "the output of a long run": subject.long_run[0],
    }
    values = {f"{name} is not finite": float((~torch.isfinite(y)).sum()) for name, y in outputs.items()}
    return worst(values, 0, "values")


def lengths(subject: Subject) -> Finding:
    """`T_out == T_in // stride * upsample`, for the first chunk like any other."""
    first = subject.start(subject.x, 1)
    calls = {
        "the whole example": (subject.num_chunks, subject.whole[0]),
        "a first chunk": (1, subject.run(first)[0]),
        "a later chunk": (1, subject.run(first, clone_state(subject.middle))[0]),
        "the rest of a stream": (subject.num_chunks - 1, subject.rest_of_output),
    }
    errors, axis = {}, subject.module.out_time_axis
    for name, (num_chunks, y) in calls.items():
        expected = num_chunks * subject.module.upsample
        errors[f"{name} gave {y.shape[axis]} output steps, not {expected}"] = abs(y.shape[axis] - expected)
    return worst(errors, 0, "steps")


def refusal(subject: Subject) -> Finding:
    """A length that is not a positive multiple of the stride is a ValueError, never a guess."""

    def taken(length: int) -> bool:
        try:
            subject.run(subject.x.narrow(subject.module.time_axis, 0, length))
        except ValueError:
            return False
        return True

    illegal = sorted({0, subject.stride + 1} if subject.stride > 1 else {0})
    legal = f"legal are positive multiples of {subject.stride}"
    return count((f"a chunk of {length} steps was taken; {legal}" for length in illegal if taken(length)), "lengths")


# ---- law 1: the start of a stream ----


def start_of_stream(subject: Subject) -> Finding:
    """None, the all-zero state, a reset state and `init_state` all mean the start of a stream."""
    whole, last = subject.whole
    everyone = torch.ones(subject.batch_size, dtype=torch.bool, device=whole.device)
    starts = {
        "the all-zero state is not the start of a stream": map_state(torch.zeros_like, last),
        "a reset state is not the start of a stream": reset_state(clone_state(last), everyone),
    }
    size = {"height": subject.x.shape[3], "width": subject.x.shape[4]} if subject.x.dim() == 5 else {}
    with contextlib.suppress(NotImplementedError):  # a part that leaves `chunk_shape` open has no `init_state`
        starts["init_state is not the start of a stream"] = subject.module.init_state(subject.batch_size, **size)
    return worst({name: difference(subject.run(subject.x, state)[0], whole) for name, state in starts.items()}, 0)


# ---- law 2: chunks ----


def chunk_invariance(subject: Subject) -> Finding:
    """Any partition into legal chunks gives the same output: of the example, and of a long run."""
    generator = random.Random(subject.seed)
    smallest = [subject.stride] * subject.num_chunks
    ragged = [random_partition(subject.length, subject.stride, generator) for _ in range(subject.num_partitions)]
    errors = {
        f"chunks {pieces} differ from the whole": difference(
            stream(subject.module, subject.x, pieces)[0], subject.whole[0]
        )
        for pieces in [smallest, *ragged]
    }
    pieces = random_partition(subject.num_steps * subject.stride, subject.stride, generator, subject.num_chunks)
    y = stream(subject.module, subject.long, pieces)[0]
    errors[f"after {subject.num_steps} chunks, the partition matters"] = difference(y, subject.long_run[0])
    return worst({name: error / subject.scale for name, error in errors.items()}, subject.tolerance, "relative")


# ---- law 3: the state is a tree of tensors of one shape, in memory of its own ----


def state_layout(subject: Subject) -> Finding:
    """Leaves are tensors, session first, contiguous, of constant shape and dtype, whatever the chunks."""
    generator = random.Random(subject.seed)
    ragged = stream(subject.module, subject.x, random_partition(subject.length, subject.stride, generator))[2]
    reference = flatten_state(subject.middle)
    offences: dict[str, None] = {}
    for state in [*subject.long_run[2], *ragged, subject.whole[1]]:
        leaves = flatten_state(state)
        if leaves.keys() != reference.keys():
            offences[f"leaves {sorted(leaves)} became of {sorted(reference)}"] = None
        for name, leaf in leaves.items():
            like = reference.get(name, leaf)
            if leaf.shape != like.shape or leaf.dtype != like.dtype:
                offences[f"leaf {name!r} changed shape or dtype"] = None
            if not leaf.dim() or leaf.shape[0] != subject.batch_size:
                offences[f"leaf {name!r} does not begin with the session axis"] = None
    for name, leaf in flatten_state(subject.run(subject.x)[1]).items():
        if not leaf.is_contiguous():
            offences[f"leaf {name!r} is not contiguous"] = None
    return count(offences, "leaves")


def state_memory(subject: Subject) -> Finding:
    """A state holds its own bytes and no more: not a view of a chunk, of an output, of weights or of another leaf."""
    foreign = {tensor.untyped_storage().data_ptr() for tensor in _weights(subject.module)}
    wasted: dict[str, float] = {"": 0.0}
    state = None
    for chunk in subject.x.split([subject.stride, subject.length - subject.stride], dim=subject.module.time_axis):
        given = chunk.clone()
        y, state = subject.module(given, state)
        taken = foreign | {tensor.untyped_storage().data_ptr() for tensor in (given, y)}
        for name, leaf in flatten_state(state).items():
            storage = leaf.untyped_storage()
            if leaf.numel() and storage.data_ptr() in taken:
                wasted[f"leaf {name!r} shares memory with an input, an output, a weight or another leaf"] = leaf.nbytes
            elif storage.nbytes() > leaf.nbytes:
                wasted[f"leaf {name!r} is a view that keeps more alive"] = storage.nbytes() - leaf.nbytes
            taken.add(storage.data_ptr())
    return worst(wasted, 0, "bytes")


# ---- law 4: rows ----


def row_independence(subject: Subject) -> Finding:
    """Row i depends on row i only: alone, permuted, put together from single rows and from streams of other ages."""
    middle, tail, rest = subject.middle, subject.tail, subject.rest_of_output
    rows = range(subject.batch_size)
    errors = {}
    for row in rows:
        by_itself, _ = subject.run(tail[row : row + 1], index_state(middle, row))
        errors[f"row {row} depends on its batch"] = difference(by_itself, rest[row : row + 1])
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(subject.seed)).to(tail.device)
    shuffled, _ = subject.run(tail[order], select_state(middle, order))
    errors["rows of a reordered batch differ"] = difference(shuffled, rest[order])
    joined, _ = subject.run(tail, stack_states([index_state(middle, row) for row in rows]))
    errors["a batch put together from single rows differs"] = difference(joined, rest)

    ages = [1 + row % 2 for row in rows]  # chunks that each session has lived when they meet
    states = [subject.run(subject.start(subject.x[row : row + 1], age))[1] for row, age in zip(rows, ages, strict=True)]
    chunks = [
        subject.start(subject.rest(subject.x[row : row + 1], age), 1) for row, age in zip(rows, ages, strict=True)
    ]
    alone = [subject.run(chunk, clone_state(state))[0] for chunk, state in zip(chunks, states, strict=True)]
    together, _ = subject.run(torch.cat(chunks), stack_states(states))
    errors["sessions of different ages disturb each other"] = difference(together, torch.cat(alone))

    poisoned = tail.clone()
    poisoned[0] = float("nan")
    beside, _ = subject.run(poisoned, clone_state(middle))
    errors["not-a-numbers of row 0 reach other rows"] = difference(beside[1:], rest[1:])
    return worst({name: error / subject.scale for name, error in errors.items()}, subject.tolerance, "relative")


# ---- law 5: consumed and forked states, files; nothing on the module ----


def fork(subject: Subject) -> Finding:
    """A clone continues alike, bit for bit, whatever the original and other streams do in between."""
    first, second = clone_state(subject.middle), clone_state(subject.middle)
    expected = subject.rest_of_output
    subject.run(subject.rest(subject.noise, 1), first)
    subject.run(subject.noise)
    y, _ = subject.run(subject.tail, second)
    return worst({"the same state continued differently": difference(y, expected)}, 0)


def no_trace(subject: Subject) -> Finding:
    """A step that is not kept leaves no trace: the state it was given still gives the same bits (a denoising pass)."""
    chunk, other = (subject.start(subject.rest(x, 1), 1) for x in (subject.x, subject.noise))
    expected, _ = subject.run(chunk, clone_state(subject.middle))
    state = clone_state(subject.middle)
    subject.run(other, state)
    y, _ = subject.run(chunk, state)
    return worst({"a step wrote into the state that it was given": difference(y, expected)}, 0)


def hand_over(subject: Subject) -> Finding:
    """A state survives `safetensors` mid-stream and goes on, bit for bit, in a copy that has never seen the stream."""
    stored = safetensors.torch.load(safetensors.torch.save(flatten_state(subject.middle)))
    names = sorted(stored, reverse=True)  # a file does not keep the tree's order, so nothing may rest on it
    state = unflatten_state({name: stored[name].clone().to(subject.x.device) for name in names})
    y, _ = subject.twin()(subject.tail.clone(), state)
    return worst({"a state that went through a file differs": difference(y, subject.rest_of_output)}, 0)


def nothing_on_the_module(subject: Subject) -> Finding:
    """Attributes, buffers and weights are the same after streams of other content and length."""
    module = subject.twin()
    stream(module, subject.x, [subject.stride] * subject.num_chunks)  # whatever is made once is made by now
    before = fingerprints(module)
    stream(module, subject.rest(subject.noise, 1), [subject.stride] * (subject.num_chunks - 1))
    after = fingerprints(module)
    changed = [name for name in before | after if before.get(name) != after.get(name)]
    return count((f"{name} changed while streaming" for name in changed), "attributes")


def inputs_and_outputs_stay(subject: Subject) -> Finding:
    """A step writes neither into its input nor into outputs that were given out before."""
    given, later = subject.start(subject.x, 1).clone(), subject.start(subject.tail, 1).clone()
    kept = given.clone()
    y, state = subject.module(given, None)
    handed_out = y.clone()
    subject.module(later, state)
    errors = {
        "the module wrote into its input": difference(given, kept),
        "an earlier output changed during a later step": difference(y, handed_out),
    }
    return worst(errors, 0)


# ---- law 7: randomness ----


def randomness(subject: Subject) -> Finding:
    """The same input gives the same bits whatever the global generator's seed, and does not move that generator."""
    with torch.random.fork_rng():
        torch.manual_seed(subject.seed)
        first, _ = subject.run(subject.tail, clone_state(subject.middle))
        torch.manual_seed(subject.seed + 1)
        before = torch.get_rng_state()
        second, _ = subject.run(subject.tail, clone_state(subject.middle))
        moved = not torch.equal(before, torch.get_rng_state())
    errors = {"two runs differ": difference(second, first), "the global random generator moved": float(moved)}
    return worst(errors, 0)


STATE_LAWS: dict[str, Law] = {
    "finite": finite,
    "lengths": lengths,
    "ragged chunks refused": refusal,
    "start of stream": start_of_stream,
    "chunk invariance": chunk_invariance,
    "state layout": state_layout,
    "state memory": state_memory,
    "row independence": row_independence,
    "fork": fork,
    "no trace": no_trace,
    "hand-over by file": hand_over,
    "nothing on the module": nothing_on_the_module,
    "inputs and outputs stay": inputs_and_outputs_stay,
    "randomness": randomness,
}


def _weights(module: nn.Module) -> Iterable[Tensor]:
    yield from module.parameters()
    yield from module.buffers()
