"""A conversation whose thinker and performer run beside each other: in threads, processes, or ranks of a group.

The thinker's side is here, with the session's inputs and outputs; the performer's side is `perform`, wherever that
runs. They exchange one packed tensor each way per unit, and the prompt's K/V once. The stream is, byte for byte, that
of a single process with as many threads on each side.
"""

from __future__ import annotations

import threading
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from types import TracebackType

import torch
import torch.multiprocessing as mp
from causal_vae import State
from streamer_core import CacheSpec, Solver, StreamerConfig, StreamerModel, read_kv
from torch import Tensor

from ..batch import form_input, form_units
from ..cycle import PerformerSide, Reply, ThinkerSide
from ..ledger import LatencyLedger, Span, StopWatch, UnitTiming
from ..performer import Performer
from ..session import SessionOptions, StreamerSession
from ..units import AgentUnit, UserUnit
from .channel import Channel, ChannelClosed, MessageLayout, ProcessChannel, ThreadChannel

_OPENING = ("seed", "num_steps", "prompt_length", "prompt_capacity", "context_units", "response_units")


def _kv_shape(config: StreamerConfig, num_tokens: int) -> tuple[int, ...]:
    """Shape of the K/V of so many tokens of one session."""
    return 1, 2, config.num_hidden_layers, config.num_key_value_heads, num_tokens, config.head_dim


def _context_layout(streamer: StreamerModel, num_tokens: int) -> MessageLayout:
    return MessageLayout({"context_kv": (_kv_shape(streamer.config, num_tokens), streamer.dtype)})


def _reply_layout(streamer: StreamerModel) -> MessageLayout:
    """What the performer returns per unit; `times_ms` are the ends of its laps, and the start of the first."""
    c = streamer.config
    return MessageLayout(
        {
            "times_ms": ((3,), torch.float64),
            "response_kv": (_kv_shape(c, streamer.layout.num_response_tokens), streamer.dtype),
            "audio": ((1, c.agent_audio_tokens, c.audio_token_dim), streamer.dtype),
            "video": ((1, c.agent_video_tokens, c.video_token_dim), streamer.dtype),
        }
    )


_OPENING_MESSAGE = MessageLayout({"numbers": ((len(_OPENING),), torch.int64)})


@torch.inference_mode()
def perform(performer: Performer, channel: Channel, num_threads: int | None = None) -> None:
    """Be the performer of one conversation, until the thinker closes the channel.

    An error here is told to the thinker, whose next `collect` raises it as ChannelClosed, and is raised here too.

    Args:
        performer: of the same checkpoint as the thinker.
        num_threads: CPU threads of this side; None leaves what is set.
    """
    if num_threads is not None:
        torch.set_num_threads(num_threads)
    try:
        side = _open_side(performer, channel)
        streamer = performer.streamer
        contexts, replies = _context_layout(streamer, streamer.layout.num_context_tokens), _reply_layout(streamer)
        while True:
            message = channel.receive()
            side.watch.restart()
            context_kv = contexts.unpack(message)["context_kv"].to(streamer.device)
            channel.send(replies.pack(_reply_tensors(side.reply(context_kv), streamer.device)))
    except ChannelClosed:
        return
    except BaseException:
        channel.close(traceback.format_exc())
        raise


def _open_side(performer: Performer, channel: Channel) -> PerformerSide:
    """Receive what a conversation begins with: its numbers, and the prompt's K/V."""
    numbers = _OPENING_MESSAGE.unpack(channel.receive())["numbers"].tolist()
    opening = dict(zip(_OPENING, numbers, strict=True))
    streamer, length = performer.streamer, opening["prompt_length"]
    cache_spec = CacheSpec(
        streamer.layout, opening["prompt_capacity"], opening["context_units"], opening["response_units"]
    )
    prompt_kv = torch.zeros(_kv_shape(streamer.config, 0), dtype=streamer.dtype, device=streamer.device)
    if length:
        prompt_kv = _context_layout(streamer, length).unpack(channel.receive())["context_kv"].to(streamer.device)
    state = performer.start(prompt_kv, cache_spec)
    return PerformerSide(performer, state, cache_spec, [0], [opening["seed"]], opening["num_steps"], StopWatch())


def _reply_tensors(reply: Reply, device: torch.device) -> dict[str, Tensor]:
    times = [reply.spans[0].start_ms, *(span.end_ms for span in reply.spans)]
    times_ms = torch.tensor(times, dtype=torch.float64, device=device)
    return {"times_ms": times_ms, "response_kv": reply.response_kv, "audio": reply.audio, "video": reply.video}


class _ChannelLink:
    """The thinker's link to a performer at the other end of a channel."""

    def __init__(self, streamer: StreamerModel, channel: Channel) -> None:
        self._device, self._channel = streamer.device, channel
        self._contexts = _context_layout(streamer, streamer.layout.num_context_tokens)
        self._replies = _reply_layout(streamer)

    def send(self, context_kv: Tensor) -> None:
        self._channel.send(self._contexts.pack({"context_kv": context_kv}))

    def receive(self) -> Reply:
        parts = self._replies.unpack(self._channel.receive().to(self._device))
        times = parts["times_ms"].tolist()
        spans = [Span(name, "performer", *times[i : i + 2]) for i, name in enumerate(("solve", "commit"))]
        return Reply(parts["audio"], parts["video"], parts["response_kv"], spans)


class SplitSession:
    """A session whose performer works at the other end of a channel.

        with split_over_processes(pipeline.open_session(seed=0)) as session:
            for agent_unit in session.run(user_units): ...

    Args:
        session: just opened; it belongs to this one from now on.
        channel: `perform` runs at its other end.
        num_threads: CPU threads of the thinker's side; None leaves what is set.
        on_close: called when the channel is closed, to end what was started for the performer.

    Raises:
        ValueError: the session has already lived some units.
    """

    def __init__(
        self,
        session: StreamerSession,
        channel: Channel,
        num_threads: int | None = None,
        on_close: Callable[[], None] = lambda: None,
    ) -> None:
        if session.num_units:
            raise ValueError(
                f"a conversation is split before its first unit; this one is {session.num_units} units old"
            )
        self._session, self._channel, self._num_threads, self._on_close = session, channel, num_threads, on_close
        self._watch = StopWatch()
        thinker = session.pipeline.thinker
        link = _ChannelLink(thinker.streamer, channel)
        with session.batch.alone(session) as (cache_spec, state):
            self._send_opening(session.options, state["thinker"]["kv"], cache_spec)
            self._side = ThinkerSide(thinker, state["thinker"], cache_spec, [0], link, self._watch)
        session.move_to(None)  # the performer's half lives at the other end

    def _send_opening(self, options: SessionOptions, kv: State, cache_spec: CacheSpec) -> None:
        streamer, length = self._session.pipeline.streamer, int(kv["prompt_length"][0])
        numbers = torch.tensor([options.seed, options.num_inference_steps, length, *cache_spec.sizes])
        self._channel.send(_OPENING_MESSAGE.pack({"numbers": numbers}))
        if length:
            prompt_kv = read_kv(kv, torch.arange(length, device=streamer.device)[None])
            self._channel.send(_context_layout(streamer, length).pack({"context_kv": prompt_kv}))

    @property
    def options(self) -> SessionOptions:
        return self._session.options

    @property
    def state(self) -> State:
        """The thinker's half, as it is now; the performer's lives at the other end."""
        return {"thinker": self._side.state}

    @property
    def ledger(self) -> LatencyLedger:
        """Timings of the latest units, of both sides."""
        return self._session.ledger

    @property
    def num_units(self) -> int:
        """Units that this session has taken in."""
        return self._side.units[0]

    def step(self, unit: UserUnit) -> AgentUnit:
        """Take in u_k and wait for y_k, as `StreamerSession.step`: nothing overlaps but the two machines' threads.

        Raises:
            ValueError: the unit's picture has another size than this session was opened for; nothing has changed.
            RuntimeError: units are in flight; `collect` them first.
        """
        if self._side.num_in_flight:
            raise RuntimeError(f"{self._side.num_in_flight} units are in flight: collect() them before step()")
        self._watch.restart()
        self.submit(unit)
        return self.collect()

    def run(self, units: Iterable[UserUnit | None]) -> Iterator[AgentUnit]:
        """Answer a stream of units, with thinker and performer at work at the same time (report, figure 2).

        With commit delay 1 the performer solves y_k while the thinker decodes y_{k-1} and takes in u_{k+1}. With 0 the
        thinker decodes y_{k-1} and encodes u_{k+1} meanwhile. Where `units` gives None nothing is there to take in now,
        and the unit in flight is finished instead of waiting for the next.
        """
        for unit in units:
            if unit is not None:
                self._watch.restart()
                self.submit(unit)
            if self._side.num_in_flight > 1 or (unit is None and self._side.num_in_flight):
                yield self.collect()
        while self._side.num_in_flight:
            yield self.collect()

    @torch.inference_mode()
    def submit(self, unit: UserUnit) -> None:
        """Take in u_k as far as the performer needs it. Every unit is collected once, in order."""
        session = self._session
        session.check(unit)
        if self._num_threads is not None and torch.get_num_threads() != self._num_threads:
            torch.set_num_threads(self._num_threads)
        text_ids, waiting = session.take_text(unit.text)
        noise, size = session.language_noise(), (session.options.height, session.options.width)
        user = form_input(session.pipeline, [unit], [text_ids], [noise], *size)
        with session.pipeline.evaluating():
            self._side.submit(user, UnitTiming(self.num_units))
        session.pending_text = waiting
        session.num_units += 1

    @torch.inference_mode()
    def collect(self) -> AgentUnit:
        """The answer to the oldest unit in flight; waits for the performer.

        Raises:
            ChannelClosed: the performer has ended; the message says why.
        """
        with self._session.pipeline.evaluating():
            answer = self._side.collect()
        session = self._session
        units, partial = form_units(session.pipeline, answer, {0: answer.timing.index}, {0: session})
        session.partial_text, session.partial_heard = partial[0]
        self._watch.lap(answer.timing, "emit")
        session.ledger.add(answer.timing)
        return replace(units[0], latency=answer.timing.durations)

    def close(self) -> None:
        """End the conversation on both sides."""
        self._channel.close()
        self._on_close()

    def __enter__(self) -> SplitSession:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def split_over_threads(session: StreamerSession, thinker_threads: int = 1, performer_threads: int = 1) -> SplitSession:
    """Thinker in the thread that calls, performer in one of its own. torch computes outside Python's lock."""
    here, there = ThreadChannel.pair()
    worker = threading.Thread(
        target=_perform_quietly,
        args=(session.pipeline.performer, there, performer_threads),
        name="performer",
        daemon=True,
    )
    worker.start()
    return SplitSession(session, here, thinker_threads, on_close=worker.join)


def _perform_quietly(performer: Performer, channel: Channel, num_threads: int) -> None:
    with suppress(Exception):  # the thinker has been told
        perform(performer, channel, num_threads)


def split_over_processes(
    session: StreamerSession, thinker_threads: int = 1, performer_threads: int = 1
) -> SplitSession:
    """Thinker in this process, performer in a new one that shares the weights' memory. Starting it takes seconds."""
    pipeline = session.pipeline
    here, there = ProcessChannel.pair(message_nbytes(session))
    args = pipeline.streamer, pipeline.scheduler, there, performer_threads
    worker = mp.get_context("spawn").Process(target=_perform_in_process, args=args, name="performer", daemon=True)
    worker.start()
    there.given_away()
    return SplitSession(session, here, thinker_threads, on_close=worker.join)


def _perform_in_process(streamer: StreamerModel, solver: Solver, channel: Channel, num_threads: int) -> None:
    perform(Performer(streamer, solver), channel, num_threads)


def message_nbytes(session: StreamerSession) -> int:
    """Bytes of the longest message that a session's two sides exchange."""
    streamer = session.pipeline.streamer
    length = int(session.state["thinker"]["kv"]["prompt_length"][0])
    layouts = [_OPENING_MESSAGE, _context_layout(streamer, length), _reply_layout(streamer)]
    layouts.append(_context_layout(streamer, streamer.layout.num_context_tokens))
    return max(layout.nbytes for layout in layouts)
