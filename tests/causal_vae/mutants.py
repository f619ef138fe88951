"""Streaming parts with one planted fault each, the sound parts that they are mutants of, and the law that each breaks.

Every fault is one that real streaming code has had: the certificate must name it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from causal_vae import (
    AudioDecoder,
    CausalConv1d,
    CausalConvTranspose1d,
    InverseSTFT,
    LogMel,
    StreamingModule,
    StreamingSequential,
)
from torch import Tensor, nn


@dataclass(frozen=True)
class Case:
    """How to build a part, the shape of an example for it, and (of a mutant) the law that it must be caught by."""

    build: Callable[[], StreamingModule]
    shape: tuple[int, ...]
    law: str = ""


class RingAttention(StreamingModule):
    """Sliding-window attention over (B, T, 8) with a ring of keys and values; the first `sink` tokens stay for ever.

    A chunk is taken in pieces of at most `max_piece` tokens, so a ring of window + max_piece - 1 never drops a key that
    a query still needs. Keys and values are written in place; `length` says what is there.
    """

    time_axis = out_time_axis = 1

    def __init__(self, window: int = 5, sink: int = 2, max_piece: int = 3, dim: int = 8) -> None:
        super().__init__()
        self.window, self.sink, self.max_piece, self.dim = window, sink, max_piece, dim
        self.ring = window + max_piece - 1
        self.qkv = nn.Linear(dim, 3 * dim)

    def chunk_shape(self) -> tuple[int, ...]:
        return 1, self.dim

    def rotate(self, x: Tensor, positions: Tensor) -> Tensor:
        angles = positions[..., None] * torch.tensor([1.0, 0.3, 0.1, 0.03], device=x.device)
        first, second = x.chunk(2, dim=-1)
        cosine, sine = angles.cos(), angles.sin()
        return torch.cat([first * cosine - second * sine, second * cosine + first * sine], dim=-1)

    def slots(self, positions: Tensor) -> Tensor:
        return torch.where(positions < self.sink, positions, self.sink + (positions - self.sink) % self.ring)

    def held(self, length: Tensor) -> Tensor:
        """(B, slots): the position that each slot holds once `length` (B,) tokens are written; negative if none."""
        newest = length[:, None] - 1
        sink = torch.arange(self.sink, device=length.device).expand(len(length), -1)
        place = torch.arange(self.ring, device=length.device) + self.sink
        ring = newest - (newest - place) % self.ring
        return torch.cat([torch.where(sink <= newest, sink, -1), torch.where(ring >= self.sink, ring, -1)], dim=1)

    def visible(self, query: Tensor, key: Tensor) -> Tensor:
        recent = (key > query - self.window) | (key < self.sink)
        return (key >= 0) & (key <= query) & recent

    def project(self, x: Tensor, positions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        query, key, value = self.qkv(x).chunk(3, dim=-1)
        return self.rotate(query, positions), self.rotate(key, positions), value

    def positions(self, length: Tensor, num_tokens: int) -> Tensor:
        return length[:, None] + torch.arange(num_tokens, device=length.device)

    def new_state(self, x: Tensor):
        empty = x.new_zeros(x.shape[0], self.sink + self.ring, self.dim)
        length = torch.zeros(x.shape[0], dtype=torch.int64, device=x.device)
        return {"keys": empty, "values": empty.clone(), "length": length}

    def forward(self, x, state=None):
        self.check_length(x)
        state = self.new_state(x) if state is None else state
        outputs = []
        for piece in x.split(self.max_piece, dim=1):
            y, state = self.attend_piece(piece, state)
            outputs.append(y)
        return torch.cat(outputs, dim=1), state

    def attend_piece(self, x, state):
        length, num_tokens = state["length"], x.shape[1]
        there = torch.arange(num_tokens, device=x.device) + length[:, None]
        query, key, value = self.project(x, self.positions(length, num_tokens))
        where = self.slots(there)[..., None].expand_as(key)
        keys, values = state["keys"].scatter_(1, where, key), state["values"].scatter_(1, where, value)
        seen = self.visible(there[:, :, None], self.held(length + num_tokens)[:, None])
        y = F.scaled_dot_product_attention(query, keys, values, attn_mask=seen)
        return y, {"keys": keys, "values": values, "length": length + num_tokens}

    def offline(self, x: Tensor) -> Tensor:
        """As trained: the whole sequence under one mask, no cache."""
        index = torch.arange(x.shape[1], device=x.device)
        query, key, value = self.project(x, index.expand(x.shape[0], -1))
        return F.scaled_dot_product_attention(query, key, value, attn_mask=self.visible(index[:, None], index))


# ---- faults of convolutions ----


class PaddedOnTheWrongSide(CausalConv1d):
    def forward(self, x, state=None):
        self.check_length(x)
        return self.conv(F.pad(x, (0, self.num_past))), x.new_zeros(x.shape[0], 1)


class Centred(CausalConv1d):
    def forward(self, x, state=None):
        self.check_length(x)
        return self.conv(F.pad(x, (self.num_past // 2, self.num_past // 2))), x.new_zeros(x.shape[0], 1)


class DeclaresTooLittleLookahead(Centred):
    lookahead = 1


class DeclaresTooMuchLookahead(CausalConv1d):
    lookahead = 1


class KeepsStateOnTheModule(CausalConv1d):
    past = None

    def forward(self, x, state=None):
        y, self.past = super().forward(x, None if state is None else self.past)
        return y, self.past


class FirstChunkSpecial(CausalConv1d):
    """Starts a stream by repeating its first step."""

    def forward(self, x, state=None):
        self.check_length(x)
        return super().forward(x, x[:, :, :1].expand(-1, -1, self.num_past) if state is None else state)


class FirstChunkShort(CausalConv1d):
    """A first chunk gives one output less: what is not yet complete is left out."""

    def forward(self, x, state=None):
        y, past = super().forward(x, state)
        return (y[:, :, 1:], past) if state is None else (y, past)


class LearnedStart(CausalConv1d):
    """None is a learned past, zeros are zeros."""

    def __init__(self, *sizes: int) -> None:
        super().__init__(*sizes)
        self.initial = nn.Parameter(torch.randn(1, sizes[0], self.num_past))

    def forward(self, x, state=None):
        return super().forward(x, self.initial.expand(len(x), -1, -1) if state is None else state)


class WrongInitState(CausalConv1d):
    def init_state(self, batch_size, **size):
        return torch.ones(batch_size, self.conv.in_channels, self.num_past)


class StateIsAView(CausalConv1d):
    def forward(self, x, state=None):
        self.check_length(x)
        past = x.new_zeros(*x.shape[:2], self.num_past) if state is None else state
        extended = torch.cat([past, x], dim=2)
        return self.conv(extended), extended[:, :, -self.num_past :]


class StateAliasesTheInput(StreamingModule):
    """A one-step delay line whose state is a view of the input."""

    def forward(self, x, state=None):
        self.check_length(x)
        past = torch.zeros_like(x[:, :, :1]) if state is None else state
        return x + torch.cat([past, x[:, :, :-1]], dim=2), x[:, :, -1:]


class StateGrows(CausalConv1d):
    """Keeps all it has ever heard."""

    def forward(self, x, state=None):
        y, _ = super().forward(x, None if state is None else state[:, :, -self.num_past :])
        past = x.new_zeros(*x.shape[:2], self.num_past) if state is None else state
        return y, torch.cat([past, x], dim=2)


class StateOfAShortChunkShrinks(CausalConv1d):
    """Keeps the end of the chunk only, however short the chunk is."""

    def forward(self, x, state=None):
        self.check_length(x)
        past = x.new_zeros(*x.shape[:2], self.num_past) if state is None else state
        past = F.pad(past, (self.num_past - past.shape[2], 0))
        return self.conv(torch.cat([past, x], dim=2)), x[:, :, -self.num_past :].clone()


class StateChangesDtype(CausalConv1d):
    def forward(self, x, state=None):
        y, past = super().forward(x, None if state is None else state.to(x.dtype))
        return y, past if state is None else past.double()


class StateIsTransposed(CausalConv1d):
    def forward(self, x, state=None):
        y, past = super().forward(x, state)
        return y, past.transpose(1, 2).contiguous().transpose(1, 2)


class StateWithoutSessions(CausalConv1d):
    """Counts steps in a scalar beside the past."""

    def forward(self, x, state=None):
        y, past = super().forward(x, None if state is None else state["past"])
        steps = torch.zeros((), device=x.device) if state is None else state["steps"]
        return y, {"past": past, "steps": steps + x.shape[2]}


class StateHoldsAPythonNumber(CausalConv1d):
    def forward(self, x, state=None):
        y, past = super().forward(x, None if state is None else state["past"])
        return y, {"past": past, "steps": (0 if state is None else state["steps"]) + x.shape[2]}


class DilationForgotten(CausalConv1d):
    """Keeps k - 1 past steps although its taps are two steps apart; the rest is silence."""

    def forward(self, x, state=None):
        kept = self.conv.kernel_size[0] - 1
        past = None if state is None else F.pad(state, (self.num_past - kept, 0))
        y, past = super().forward(x, past)
        return y, past[:, :, -kept:].clone()


class WritesIntoTheStateItWasGiven(CausalConv1d):
    def forward(self, x, state=None):
        y, past = super().forward(x, state)
        return y, past if state is None else state.copy_(past)


class WritesIntoItsInput(CausalConv1d):
    def forward(self, x, state=None):
        return super().forward(x.mul_(0.5), state)


class SharedZeroState(CausalConv1d):
    """Every stream starts in the same buffer and writes there."""

    def __init__(self, *sizes: int) -> None:
        super().__init__(*sizes)
        self.register_buffer("empty", torch.zeros(3, sizes[0], self.num_past))

    def forward(self, x, state=None):
        state = self.empty[: len(x)] if state is None else state
        y, past = super().forward(x, state)
        return y, state.copy_(past)


class CountsSteps(CausalConv1d):
    """A Python counter fades the stream in."""

    def __init__(self, *sizes: int) -> None:
        super().__init__(*sizes)
        self.steps = 0

    def forward(self, x, state=None):
        self.steps = 0 if state is None else self.steps + 1
        return super().forward(x, state)


class LooksAtItsData(CausalConv1d):
    """Takes a shortcut through silence."""

    def forward(self, x, state=None):
        y, past = super().forward(x, state)
        return (y if x.abs().max().item() > 0 else y * 1.0), past


class AcceptsAnyLength(CausalConv1d):
    """Stride rounding drops the tail."""

    def forward(self, x, state=None):
        whole = max(1, x.shape[2] // self.stride) * self.stride
        return super().forward(x[:, :, :whole], state)


class OneStepLate(CausalConv1d):
    """Gives what it should have given one chunk before."""

    def forward(self, x, state=None):
        y, past = super().forward(x, None if state is None else state["past"])
        held = torch.zeros_like(y[:, :, :1]) if state is None else state["held"]
        return torch.cat([held, y[:, :, :-1]], dim=2), {"past": past, "held": y[:, :, -1:].clone()}


# ---- faults of norms and noise ----


class Wrapped(StreamingModule):
    """A causal convolution, then something that a stream cannot have."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = CausalConv1d(3, 4, 5)
        self.norm = nn.BatchNorm1d(4, track_running_stats=False)

    def chunk_shape(self):
        return self.conv.chunk_shape()

    def forward(self, x, state=None):
        y, past = self.conv(x, state)
        return self.after(y), past

    def after(self, y):
        return y


class BatchNorm(Wrapped):
    def after(self, y):
        return self.norm(y)


class GroupNormOverTime(Wrapped):
    def after(self, y):
        return F.group_norm(y, 2)


class GlobalMean(Wrapped):
    def after(self, y):
        return y - y.mean(dim=2, keepdim=True)


class UnitNorm(Wrapped):
    """Divides by what silence does not have."""

    def after(self, y):
        y = y - self.conv.conv.bias[:, None]
        return y / y.norm(dim=1, keepdim=True)


class MixesRows(Wrapped):
    def after(self, y):
        return y - 0.01 * y.mean(dim=0, keepdim=True)


class Noisy(Wrapped):
    def after(self, y):
        return y + 1e-3 * torch.randn_like(y)


class DropoutAlwaysOn(Wrapped):
    def after(self, y):
        return F.dropout(y, 0.1, training=True)


class RunningLevel(Wrapped):
    """Learns the stream's level in a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("level", torch.ones(()))

    def after(self, y):
        self.level.mul_(0.99).add_(0.01 * y.detach().abs().mean())
        return y / self.level


class RoundsByBatch(Wrapped):
    """Pads a batch to its loudest row."""

    def after(self, y):
        return y / y.abs().amax(dim=(0, 1), keepdim=True).clamp(min=1)


# ---- faults of spectra and decoders ----


class CentredSTFT(LogMel):
    """Frames centred on their hop, as `torch.stft` does by default."""

    def forward(self, x, state=None):
        self.check_length(x)
        half = (self.window_size - self.stride) // 2
        return super().forward(torch.cat([x[:, :, half:], torch.zeros_like(x[:, :, :half])], dim=2), state)


class OverlapForgotten(InverseSTFT):
    """Every chunk fades in anew."""

    def forward(self, x, state=None):
        y, carried = super().forward(x, None)
        return y, carried


class LosesFrames(CausalConvTranspose1d):
    """As Wan's first frame: n latents give 1 + (n - 1) * stride frames, on every call."""

    def forward(self, x, state=None):
        y, past = super().forward(x, state)
        return y[:, :, self.upsample - 1 :], past


class LosesFramesOnChunks(CausalConvTranspose1d):
    """A whole clip is complete; a chunk in mid-stream misses a frame, and silence takes its place."""

    def forward(self, x, state=None):
        y, past = super().forward(x, state)
        return (y if state is None else F.pad(y[:, :, 1:], (0, 1))), past


class ForgetsOneLayer(StreamingSequential):
    """Stores every layer's state but the last one's."""

    def forward(self, x, state=None):
        last = str(len(self._modules) - 1)
        if state is not None:
            state = {**state, last: torch.zeros_like(state[last])}
        return super().forward(x, state)


# ---- faults of attention with a cache ----


class RingOneShort(RingAttention):
    def __init__(self) -> None:
        super().__init__()
        self.ring -= 1


class LengthOffByOne(RingAttention):
    """Believes that one more token is in the cache than was written."""

    def held(self, length):
        return super().held(length + 1)


class NoMaskWithCache(RingAttention):
    """Tokens of a chunk all see each other: the causal mask is for training only."""

    def attend_piece(self, x, state):
        self.whole_piece = True
        y, state = super().attend_piece(x, state)
        self.whole_piece = False
        return y, state

    whole_piece = False

    def visible(self, query, key):
        seen = super().visible(query, key)
        return (key >= 0).expand_as(seen) if self.whole_piece else seen


class PositionsStartAnew(RingAttention):
    """Positions count from the beginning of each chunk."""

    def positions(self, length, num_tokens):
        return super().positions(torch.zeros_like(length), num_tokens)


class PositionsDrift(RingAttention):
    """Positions run 2 % fast against the clock that training had."""

    def positions(self, length, num_tokens):
        return super().positions(length, num_tokens) * 1.02


class PositionsOfTheOldest(RingAttention):
    """One clock for the batch: the oldest session's."""

    def positions(self, length, num_tokens):
        return super().positions(length.amax().expand_as(length), num_tokens)


class DropsTextOnRefresh(RingAttention):
    """When the ring wraps, the first tokens go with it."""

    def held(self, length):
        held = super().held(length)
        wrapped = (length > self.sink + self.ring)[:, None]
        return torch.where(wrapped & (held < self.sink), -1, held)


class TrainedWithTheFuture(RingAttention):
    """The training mask lets every token see the next one."""

    def offline(self, x):
        return super().offline(torch.cat([x[:, 1:], x[:, -1:]], dim=1))


class WindowOfTrainingIsLonger(RingAttention):
    def offline(self, x):
        self.window += 1
        y = super().offline(x)
        self.window -= 1
        return y


CONV, TOKENS, WAVE = (3, 3, 12), (3, 9, 8), (3, 1, 100)
SOUND = {
    "CausalConv1d": Case(lambda: CausalConv1d(3, 4, 5), CONV),
    "strided": Case(lambda: CausalConv1d(3, 4, 5, 2), CONV),
    "dilated": Case(lambda: CausalConv1d(3, 4, 3, 1, 2), CONV),
    "Wrapped": Case(Wrapped, CONV),
    "CausalConvTranspose1d": Case(lambda: CausalConvTranspose1d(3, 4, 5, 3), (3, 3, 6)),
    "LogMel": Case(lambda: LogMel(8000, 8, 60, 64, 20), WAVE),
    "InverseSTFT": Case(lambda: InverseSTFT(20), (3, 42, 6)),
    "AudioDecoder": Case(lambda: AudioDecoder(4, 8, 1, 2, 20), (3, 4, 6)),
    "StreamingSequential": Case(lambda: StreamingSequential(CausalConv1d(3, 4, 3), CausalConv1d(4, 4, 3)), CONV),
    "RingAttention": Case(RingAttention, TOKENS),
}


def _conv(mutant: type[CausalConv1d], *sizes: int) -> Callable[[], CausalConv1d]:
    return lambda: mutant(3, 4, *(sizes or (5,)))


MUTANTS = {
    PaddedOnTheWrongSide: (_conv(PaddedOnTheWrongSide), CONV, "look-ahead"),
    Centred: (_conv(Centred), CONV, "look-ahead"),
    DeclaresTooLittleLookahead: (_conv(DeclaresTooLittleLookahead), CONV, "look-ahead"),
    DeclaresTooMuchLookahead: (_conv(DeclaresTooMuchLookahead), CONV, "look-ahead"),
    KeepsStateOnTheModule: (_conv(KeepsStateOnTheModule), CONV, "nothing on the module"),
    FirstChunkSpecial: (_conv(FirstChunkSpecial), CONV, "start of stream"),
    FirstChunkShort: (_conv(FirstChunkShort), CONV, "lengths"),
    LearnedStart: (_conv(LearnedStart), CONV, "start of stream"),
    WrongInitState: (_conv(WrongInitState), CONV, "start of stream"),
    StateIsAView: (_conv(StateIsAView), CONV, "state memory"),
    StateAliasesTheInput: (StateAliasesTheInput, CONV, "state memory"),
    StateGrows: (_conv(StateGrows), CONV, "state layout"),
    StateOfAShortChunkShrinks: (_conv(StateOfAShortChunkShrinks), CONV, "state layout"),
    StateChangesDtype: (_conv(StateChangesDtype), CONV, "state layout"),
    StateIsTransposed: (_conv(StateIsTransposed), CONV, "state layout"),
    StateWithoutSessions: (_conv(StateWithoutSessions), CONV, "state layout"),
    StateHoldsAPythonNumber: (_conv(StateHoldsAPythonNumber), CONV, "state layout"),
    DilationForgotten: (_conv(DilationForgotten, 3, 1, 2), CONV, "chunk invariance"),
    WritesIntoTheStateItWasGiven: (_conv(WritesIntoTheStateItWasGiven), CONV, "no trace"),
    WritesIntoItsInput: (_conv(WritesIntoItsInput), CONV, "inputs and outputs stay"),
    SharedZeroState: (_conv(SharedZeroState), CONV, "nothing on the module"),
    CountsSteps: (_conv(CountsSteps), CONV, "nothing on the module"),
    LooksAtItsData: (_conv(LooksAtItsData), CONV, "one graph"),
    AcceptsAnyLength: (_conv(AcceptsAnyLength, 5, 2), CONV, "ragged chunks refused"),
    OneStepLate: (_conv(OneStepLate), CONV, "latency"),
    BatchNorm: (BatchNorm, CONV, "row independence"),
    GroupNormOverTime: (GroupNormOverTime, CONV, "look-ahead"),
    GlobalMean: (GlobalMean, CONV, "look-ahead"),
    UnitNorm: (UnitNorm, CONV, "finite"),
    MixesRows: (MixesRows, CONV, "row independence"),
    Noisy: (Noisy, CONV, "randomness"),
    DropoutAlwaysOn: (DropoutAlwaysOn, CONV, "randomness"),
    RunningLevel: (RunningLevel, CONV, "nothing on the module"),
    RoundsByBatch: (RoundsByBatch, CONV, "row independence"),
    CentredSTFT: (lambda: CentredSTFT(8000, 8, 60, 64, 20), WAVE, "look-ahead"),
    OverlapForgotten: (lambda: OverlapForgotten(20), (3, 42, 6), "chunk invariance"),
    LosesFrames: (lambda: LosesFrames(3, 4, 5, 3), (3, 3, 6), "lengths"),
    LosesFramesOnChunks: (lambda: LosesFramesOnChunks(3, 4, 5, 3), (3, 3, 6), "chunk invariance"),
    ForgetsOneLayer: (lambda: ForgetsOneLayer(CausalConv1d(3, 4, 3), CausalConv1d(4, 4, 3)), CONV, "chunk invariance"),
    RingOneShort: (RingOneShort, TOKENS, "chunk invariance"),
    LengthOffByOne: (LengthOffByOne, TOKENS, "offline form"),
    NoMaskWithCache: (NoMaskWithCache, TOKENS, "look-ahead"),
    PositionsStartAnew: (PositionsStartAnew, TOKENS, "chunk invariance"),
    PositionsDrift: (PositionsDrift, TOKENS, "offline form"),
    PositionsOfTheOldest: (PositionsOfTheOldest, TOKENS, "row independence"),
    DropsTextOnRefresh: (DropsTextOnRefresh, TOKENS, "offline form"),
    TrainedWithTheFuture: (TrainedWithTheFuture, TOKENS, "offline form"),
    WindowOfTrainingIsLonger: (WindowOfTrainingIsLonger, TOKENS, "offline form"),
}
MUTANTS = {mutant.__name__: Case(*case) for mutant, case in MUTANTS.items()}
