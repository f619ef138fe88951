"""The cycle of one unit, stated once (report, section 2.4 and figure 2; DESIGN section 6).

Thinker: encode u_k; pass over context(k); send its K/V. Performer: append it; solve; commit; return y_k and its K/V.
Thinker: append that; decode y_k. Two sides hold the two halves of a conversation and meet in a `Link`, which alone
knows where the performer runs: here and now (`InTurn`), or in another thread, process or machine (`split.py`).

With commit delay d the context of unit k sees responses <= k - 1 - d. So the thinker may be d units further than the
answers that it holds, and waits for the performer in one place only: before a pass over context.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple, Protocol

import torch
from causal_vae import State
from streamer_core import KVLayout, StreamerConfig, advance, grow
from torch import Tensor

from .ledger import Span, StopWatch, UnitTiming
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
    tail: Tensor
    spans: list[Span]


class Answer(NamedTuple):
    """One finished unit of B sessions: number (B,), state ids (B,), text ids (B, S), audio and video of the agent."""

    unit: Tensor
    state_ids: Tensor
    text_ids: Tensor
    audio: Tensor
    video: Tensor
    timing: UnitTiming


class _Sent(NamedTuple):
    """A unit whose context is with the performer."""

    unit: Tensor
    state_ids: Tensor
    text_ids: Tensor
    timing: UnitTiming


class Link(Protocol):
    """The thinker's way to its performer. Replies come in the order of what was sent."""

    def send(self, context_tail: Tensor) -> None: ...

    def receive(self) -> Reply: ...


def response_noise(config: StreamerConfig, seed: int, unit: int) -> dict[str, Tensor]:
    """Noise of one unit's response, "audio" and "video" (1, tokens, dim): always the same, so no side need send it."""
    generator, c = _generator(seed, unit), config
    audio = torch.randn(1, c.agent_audio_tokens, c.audio_token_dim, generator=generator)
    return {"audio": audio, "video": torch.randn(1, c.agent_video_tokens, c.video_token_dim, generator=generator)}


def language_noise(config: StreamerConfig, seed: int, unit: int) -> Tensor:
    """Gumbel noise of one unit's language slots (1, slots, V), drawn apart from the response's."""
    shape = 1, 1 + config.agent_text_slots, config.vocab_size
    uniform = torch.rand(shape, generator=_generator(~seed, unit)).clamp(min=1e-20)
    return -torch.log((-torch.log(uniform)).clamp(min=1e-20))


def _generator(seed: int, unit: int) -> torch.Generator:
    return torch.Generator().manual_seed((seed * 1_000_003 + unit) % 2**63)


def make_room(kv: State, kv_layout: KVLayout, unit: int | None = None) -> tuple[State, KVLayout]:
    """Double the rings of a full history before `unit` (default: its current one) would wrap them; windows never do."""
    limit = kv_layout.max_units()
    if limit is None or (int(kv["unit"].max()) if unit is None else unit) < limit:
        return kv, kv_layout
    return grow(kv, kv_layout, 2 * kv_layout.context_units, 2 * kv_layout.response_units)


class ThinkerSide:
    """The thinker's half of B conversations.

    `submit` takes a unit in and `collect` gives the oldest unfinished one back. Who alternates them runs in turn; who
    submits once more before collecting overlaps with the performer. The answers are the same, bit for bit.

    Args:
        state: of `Thinker.start`, and what has become of it.
        watch: the lane's stop-watch; laps are written into the unit's own timing.
    """

    def __init__(self, thinker: Thinker, state: State, kv_layout: KVLayout, link: Link, watch: StopWatch) -> None:
        self.thinker, self.state, self.kv_layout, self.link, self.watch = thinker, state, kv_layout, link, watch
        self._sent: deque[_Sent] = deque()  # no reply yet
        self._replied: deque[tuple[_Sent, Reply]] = deque()  # not rendered yet

    @property
    def num_in_flight(self) -> int:
        return len(self._sent) + len(self._replied)

    def submit(self, user: UserInput, timing: UnitTiming) -> None:
        """Take in u_k, as far as the context's K/V."""
        thinker, watch = self.thinker, self.watch
        watch.lap(timing, "form")
        audio_tokens, video_tokens, self.state = thinker.perceive(user.audio, user.video, self.state)
        watch.lap(timing, "encode")
        while len(self._sent) > thinker.streamer.config.commit_delay:
            self._receive()
        kv, self.kv_layout = make_room(self.state["kv"], self.kv_layout)
        self.state = {**self.state, "kv": kv}
        user_tokens = user.text_ids, audio_tokens, video_tokens
        chosen = thinker.hear(*user_tokens, self.state, self.kv_layout, user.gumbel)
        watch.lap(timing, "context")
        chosen = thinker.speak(chosen, self.state, self.kv_layout, user.gumbel)
        watch.lap(timing, "slots")
        self.link.send(thinker.context_tail(self.state, self.kv_layout))
        self._sent.append(_Sent(kv["unit"], chosen[:, 0], chosen[:, 1:], timing))
        self.state = {**self.state, "kv": advance(kv), "draft": thinker.draft(chosen)}
        watch.lap(timing, "send")

    def collect(self) -> Answer:
        """y_k of the oldest unit in flight, rendered; waits for the performer if it must."""
        if not self._replied:
            self._receive()
        sent, reply = self._replied.popleft()
        latents = {"audio": reply.audio, "video": reply.video}
        audio, video, self.state = self.thinker.render(latents, self.state)
        self.watch.lap(sent.timing, "decode")
        return Answer(*sent[:3], audio, video, sent.timing)

    def _receive(self) -> None:
        """Take the next reply into the history."""
        reply, sent = self.link.receive(), self._sent.popleft()
        sent.timing.spans.extend(reply.spans)
        self.thinker.receive(reply.tail, sent.unit, self.state, self.kv_layout)
        self._replied.append((sent, reply))
        # Waiting is the performer's time, not a span of its own.
        self.watch.lap(sent.timing, "receive", not_before_ms=reply.spans[-1].end_ms)


class PerformerSide:
    """The performer's half of B conversations.

    Args:
        state: of `Performer.start`, and what has become of it.
        seeds: of the sessions' noise.
        watch: the lane's stop-watch.
    """

    def __init__(
        self,
        performer: Performer,
        state: State,
        kv_layout: KVLayout,
        seeds: list[int],
        num_steps: int,
        watch: StopWatch,
    ) -> None:
        self.performer, self.state, self.kv_layout = performer, state, kv_layout
        self.seeds, self.num_steps, self.watch = seeds, num_steps, watch

    def reply(self, context_tail: Tensor) -> Reply:
        """Append context(k), solve y_k, commit it."""
        timing, performer, config = UnitTiming(0), self.performer, self.performer.streamer.config
        self.state, self.kv_layout = make_room(self.state, self.kv_layout)
        units = self.state["unit"].tolist()
        noise = [response_noise(config, seed, unit) for seed, unit in zip(self.seeds, units, strict=True)]
        noise = {name: torch.cat([n[name] for n in noise]).to(context_tail) for name in noise[0]}
        geometry = performer.receive(context_tail, self.state, self.kv_layout)
        latents = performer.solve(noise, self.state, geometry, self.num_steps)
        self.watch.lap(timing, "solve")
        tail = performer.commit(latents, self.state, geometry)
        self.state = advance(self.state)
        self.watch.lap(timing, "commit")
        return Reply(latents["audio"], latents["video"], tail, timing.spans)


class InTurn:
    """The link to a performer in the same thread: it works when its reply is asked for."""

    def __init__(self, performing: PerformerSide) -> None:
        self.performing, self._tails = performing, deque()

    def send(self, context_tail: Tensor) -> None:
        self._tails.append(context_tail)

    def receive(self) -> Reply:
        return self.performing.reply(self._tails.popleft())
