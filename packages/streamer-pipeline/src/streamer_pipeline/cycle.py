"""Who does what in the cycle of one unit, and where thinker and performer meet (report, section 2.4 and figure 2).

Thinker: encode u_k; pass over context(k); send its K/V. Performer: append it; solve; commit; return y_k and its K/V.
Thinker: append that; decode y_k. The passes themselves are `streamer_core.generation`. Two sides hold the two halves of
a conversation and meet in a `Link`, which alone knows where the performer runs: here and now (`InTurn`), or in another
thread, process or machine (`split.py`).

With commit delay d the context of unit k sees responses <= k - 1 - d. So the thinker may be d units further than the
answers that it holds, and waits for the performer in one place only: before a pass over context.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from causal_vae import State
from streamer_core import CacheSpec, Latents, advance, grow
from torch import Tensor

from .ledger import Span, StopWatch, UnitTiming
from .noise import response_noise
from .performer import Performer
from .thinker import Thinker


class UserInput(NamedTuple):
    """One unit of B users: text ids (B, slots), audio (B, 1, 3840), video (B, 3, 4, H, W), Gumbel noise or None."""

    text_ids: Tensor
    audio: Tensor
    video: Tensor
    gumbel: Tensor | None


class Reply(NamedTuple):
    """What the performer returns for one unit: packed clean latents, the K/V of their tokens, and when it worked."""

    audio: Tensor
    video: Tensor
    response_kv: Tensor
    spans: list[Span]


class Answer(NamedTuple):
    """One finished unit of B sessions: language ids (B, 1 + S), ids (B, S) or (B, 0) of the user's words, packed
    latents, audio (B, 1, 3840) and, row by row, video (3, 4, H, W) of the agent."""

    language: Tensor
    heard: Tensor
    latents: Latents
    audio: Tensor
    video: Tensor | Sequence[Tensor | None]
    timing: UnitTiming


class _Sent(NamedTuple):
    """A unit whose context is with the performer: its number on every row's clock (B,), what it says and hears."""

    unit: Tensor
    language: Tensor
    heard: Tensor
    timing: UnitTiming


class Link(Protocol):
    """The thinker's way to its performer. Replies come in the order of what was sent."""

    def send(self, context_kv: Tensor) -> None: ...

    def receive(self) -> Reply: ...


def make_room(kv: State, cache_spec: CacheSpec, units: Sequence[int]) -> tuple[State, CacheSpec]:
    """Room for the current units of all rows: full histories double before they would wrap; windows never do."""
    larger = cache_spec.with_room_for(max(units) + 1)
    return grow(kv, cache_spec, larger), larger


class ThinkerSide:
    """The thinker's half of B conversations.

    `submit` takes a unit in and `collect` gives the oldest unfinished one back. Who alternates them runs in turn; who
    submits once more before collecting overlaps with the performer. The answers are the same, bit for bit.

    Args:
        state: of `Thinker.start`, and what has become of it. The tensors that were passed are never written to, but
            for keys and values of the current unit.
        units: numbers of the rows' current units, so that the device need not be asked.
        watch: the lane's stop-watch; laps are written into the unit's own timing.
        due: rows whose answers count, where the others pause; None is all of them.
    """

    def __init__(
        self,
        thinker: Thinker,
        state: State,
        cache_spec: CacheSpec,
        units: Sequence[int],
        link: Link,
        watch: StopWatch,
        due: Sequence[int] | None = None,
    ) -> None:
        self.thinker, self.state, self.cache_spec, self.link, self.watch = thinker, state, cache_spec, link, watch
        self.units = list(units)
        rows = range(len(self.units)) if due is None else due
        self._rows = rows if thinker.works_by_row else None
        self._sent: deque[_Sent] = deque()  # no reply yet
        self._replied: deque[tuple[_Sent, Reply]] = deque()  # not rendered yet

    @property
    def num_in_flight(self) -> int:
        return len(self._sent) + len(self._replied)

    def submit(self, user: UserInput, timing: UnitTiming) -> None:
        """Take in u_k, as far as the context's K/V."""
        thinker, watch = self.thinker, self.watch
        watch.lap(timing, "form")
        audio_tokens, video_tokens, state = thinker.perceive(user.audio, user.video, self.state)
        watch.lap(timing, "encode")
        while len(self._sent) > thinker.streamer.config.commit_delay:
            self._receive()
        kv, self.cache_spec = make_room(self.state["kv"], self.cache_spec, self.units)
        self.state = {**state, "kv": kv}
        user_tokens = user.text_ids, audio_tokens, video_tokens
        chosen, heard = thinker.context_pass(*user_tokens, self.state, self.cache_spec, user.gumbel)
        watch.lap(timing, "context")
        language, self.state = thinker.settle_language(chosen, self.state, self.cache_spec, user.gumbel, self._rows)
        watch.lap(timing, "slots")
        self.link.send(thinker.context_kv(self.state, self.cache_spec))
        self._sent.append(_Sent(kv["unit"], language, heard, timing))
        self.state, self.units = {**self.state, "kv": advance(kv)}, [unit + 1 for unit in self.units]
        watch.lap(timing, "send")

    def collect(self) -> Answer:
        """y_k of the oldest unit in flight, rendered; waits for the performer if it must."""
        if not self._replied:
            self._receive()
        sent, reply = self._replied.popleft()
        latents = {"audio": reply.audio, "video": reply.video}
        audio, video, self.state = self.thinker.render(latents, self.state, self._rows)
        self.watch.lap(sent.timing, "decode")
        return Answer(sent.language, sent.heard, latents, audio, video, sent.timing)

    def _receive(self) -> None:
        """Take the next reply into the history."""
        reply, sent = self.link.receive(), self._sent.popleft()
        sent.timing.spans.extend(reply.spans)
        self.thinker.receive(reply.response_kv, sent.unit, self.state, self.cache_spec)
        self._replied.append((sent, reply))
        # Waiting is the performer's time, not a span of its own.
        self.watch.lap(sent.timing, "receive", not_before_ms=reply.spans[-1].end_ms)


class PerformerSide:
    """The performer's half of B conversations.

    Args:
        state: of `Performer.start`, and what has become of it.
        units: numbers of the rows' current units.
        seeds: of the rows' noise.
        watch: the lane's stop-watch.
    """

    def __init__(
        self,
        performer: Performer,
        state: State,
        cache_spec: CacheSpec,
        units: Sequence[int],
        seeds: Sequence[int],
        num_steps: int,
        watch: StopWatch,
    ) -> None:
        self.performer, self.state, self.cache_spec = performer, state, cache_spec
        self.units, self.seeds, self.num_steps, self.watch = list(units), seeds, num_steps, watch

    def reply(self, context_kv: Tensor) -> Reply:
        """Append context(k), solve y_k, commit it."""
        timing, performer, config = UnitTiming(0), self.performer, self.performer.streamer.config
        self.state, self.cache_spec = make_room(self.state, self.cache_spec, self.units)
        noises = [response_noise(config, seed, unit) for seed, unit in zip(self.seeds, self.units, strict=True)]
        like = context_kv
        noise = {name: to_device(torch.cat([n[name] for n in noises]), like.device, like.dtype) for name in noises[0]}
        attention_inputs = performer.receive(context_kv, self.state, self.cache_spec)
        latents = performer.solve(noise, self.state, attention_inputs, self.num_steps)
        self.watch.lap(timing, "solve")
        response_kv = performer.commit(latents, self.state, attention_inputs)
        self.state, self.units = advance(self.state), [unit + 1 for unit in self.units]
        self.watch.lap(timing, "commit")
        return Reply(latents["audio"], latents["video"], response_kv, timing.spans)


class InTurn:
    """The link to a performer in the same thread: it works when its reply is asked for."""

    def __init__(self, performing: PerformerSide) -> None:
        self.performing = performing
        self._contexts: deque[Tensor] = deque()

    def send(self, context_kv: Tensor) -> None:
        self._contexts.append(context_kv)

    def receive(self) -> Reply:
        return self.performing.reply(self._contexts.popleft())


def to_device(x: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    """A tensor of the host on `device`, without waiting for it."""
    if device.type == "cuda":
        x = x.pin_memory()
    return x.to(device, dtype, non_blocking=True)
