"""One conversation with the model, whatever protocol carries it: its session, its clock, its limits, its recording.

Whatever ends a conversation (the user, the network, a limit, an error) goes through `hang_up`, and `closed` returns
when nothing of it is left: no task, thread, socket or state.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from ..runtime.realtime import RealTimeSession, RealTimeStatistics
from ..units import SAMPLE_RATE, UNIT_MS, AgentUnit, check_text
from .batching import BatchedSession
from .metrics import ServeMetrics
from .options import ServeOptions
from .recording import SessionRecorder

_log = logging.getLogger(__name__)
_SPEECH_LEVEL = 0.01  # root mean square of a piece of sound that counts as the user being there
_PATIENCE_SECONDS = 1.0
_CLOSE_SECONDS = 10.0
MAX_TEXT_LENGTH = 500


@dataclass(frozen=True)
class UnitTiming:
    """How long an answer took, in milliseconds.

    model_ms: computing. reply_ms: from the user's unit being whole to the answer leaving.
    """

    model_ms: float
    reply_ms: float


class SpeechLevel:
    """Tells speech by its level alone, for events and figures; the model hears for itself.

    A piece of 160 ms is speech if its root mean square is above 0.01 and twice the quietest of the last 10 s.
    """

    def __init__(self) -> None:
        self._quietest: deque[float] = deque(maxlen=int(10_000 / UNIT_MS))
        self._energy = 0.0
        self._num_samples = 0
        self._spoken_at = -math.inf

    def take(self, samples: Tensor, now: float) -> float:
        """Take in (1, T) samples that were heard at `now` seconds; their root mean square."""
        if not samples.numel():
            return 0.0
        energy = float(samples.square().sum())
        self._energy, self._num_samples = self._energy + energy, self._num_samples + samples.numel()
        if self._num_samples >= SAMPLE_RATE * UNIT_MS / 1000:
            level = math.sqrt(self._energy / self._num_samples)
            self._quietest.append(level)
            if level > max(_SPEECH_LEVEL, 2 * min(self._quietest)):
                self._spoken_at = now
            self._energy, self._num_samples = 0.0, 0
        return math.sqrt(energy / samples.numel())

    def is_speech(self, now: float) -> bool:
        """Whether there was speech within the last half second."""
        return now - self._spoken_at < 0.5


class Line(Protocol):
    """What carries a conversation to its client. All of it is called on the event loop."""

    def play(self, unit: AgentUnit, timing: UnitTiming | None) -> None:
        """Send what is due now, every 160 ms. A filler has no timing: it answers nothing."""

    def say_goodbye(self, reason: str, sentence: str) -> None:
        """Tell the client why the conversation ends, if it can still hear."""

    async def close(self) -> None:
        """Let what was said leave, then give back everything."""


class Messages(Protocol):
    """What one protocol says beside sound and picture, and understands, over a line."""

    def opened(self) -> None:
        """The client can be told something from now on."""

    def receive(self, data: str | bytes) -> None:
        """A message of the client."""

    def tell(self, unit: AgentUnit, timing: UnitTiming | None) -> None:
        """What the client may know of a unit that leaves now."""

    def say_goodbye(self, reason: str, sentence: str) -> None:
        """The server hangs up, and why."""


class Conversation:
    """A conversation with one client, admitted by `LiveServer.admit`.

    A protocol sets `line`, calls `begin` when its client is there, and passes on what the client sends by `hear`, `see`
    and `type`. Its tasks run by `start`, so that they end with the conversation.

    Args:
        number: of the conversation since the server started.
        session: its state belongs to this conversation alone.
        executor: where blocking calls wait; one of its threads is this conversation's while it lasts.
        recorder: where the conversation is recorded, or None.
        on_close: called when nothing of this conversation is left.
    """

    def __init__(
        self,
        number: int,
        session: BatchedSession,
        options: ServeOptions,
        metrics: ServeMetrics,
        executor: Executor,
        recorder: SessionRecorder | None,
        on_close: Callable[[], None],
    ) -> None:
        self.number, self.options = number, options
        self.line: Line | None = None
        self.is_hushed = False  # the client asked not to hear what the agent is saying: it is played as silence
        self._metrics, self._executor, self._recorder, self._on_close = metrics, executor, recorder, on_close
        self._session, self._live = session, RealTimeSession(session)
        self._level = SpeechLevel()
        self._tasks: set[asyncio.Task[None]] = set()
        self._counted: dict[str, int] = {}
        self._closing: asyncio.Task[None] | None = None
        self._is_over = asyncio.Event()
        self._began = self._heard_at = self._present_at = asyncio.get_running_loop().time()
        self._has_begun = False
        self.is_resumable = False  # whether its client can come back by another line
        self._lost_at: float | None = None
        self.start(self._watch())

    @property
    def is_user_heard(self) -> bool:
        """Whether the user's sound stood out from what is behind it within the last half second."""
        return self._level.is_speech(asyncio.get_running_loop().time())

    @property
    def is_recorded(self) -> bool:
        return self._recorder is not None

    @property
    def has_ended(self) -> bool:
        """Whether somebody has hung up."""
        return self._closing is not None

    def begin(self) -> None:
        """The client is there: the clock starts; or it is there again."""
        if self.has_ended:
            return
        if self._has_begun:
            self._lost_at, self._heard_at = None, asyncio.get_running_loop().time()
            return
        self._has_begun = True
        self._metrics.admitted.inc()
        self._began = self._heard_at = self._present_at = asyncio.get_running_loop().time()
        self.start(self._talk())

    def take_line(self, line: Line) -> None:
        """From now on `line` carries the conversation; what it has learned so far stays."""
        old, self.line = self.line, line
        if old is not None:
            self.start(old.close())

    def lose(self, reason: str, sentence: str | None = None) -> None:
        """The client cannot be heard. If it may come back, it is waited for; otherwise this hangs up."""
        if self._lost_at is None and self._has_begun and self.is_resumable and self.options.resume_seconds:
            _log.info("conversation %d has lost its client (%s) and waits", self.number, reason)
            self._lost_at = asyncio.get_running_loop().time()
        elif self._lost_at is None:
            self.hang_up(reason, sentence)

    def start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None] | None:
        """Run until done or until the end; None if the end has come. An error in it ends the conversation."""
        if self._closing is not None:
            work.close()
            return None
        task = asyncio.create_task(work, name=f"{getattr(work, '__name__', 'work')}-{self.number}")
        task.add_done_callback(self._finished)
        self._tasks.add(task)
        return task

    def hang_up(self, reason: str, sentence: str | None = None) -> None:
        """End the conversation; further calls do nothing. sentence: what the client is told, if it can still hear."""
        if self._closing is None:
            _log.info("conversation %d ends: %s", self.number, reason)
            self._metrics.ended.labels(reason).inc()
            if sentence and self.line is not None:
                self.line.say_goodbye(reason, sentence)
            self._closing = asyncio.create_task(self._close(), name=f"close-{self.number}")

    async def closed(self) -> None:
        """Wait until it has ended and nothing of it is left."""
        await self._is_over.wait()

    # ---- the user's side ----

    def hear(self, samples: Tensor) -> None:
        """The user's sound, as it comes: (1, T) float32 at 24 kHz in [-1, 1], any T."""
        self._heard_at = asyncio.get_running_loop().time()
        if self._level.take(samples, self._heard_at) > _SPEECH_LEVEL:
            self._present_at = self._heard_at
        self._live.push_audio(samples)

    def see(self, frames: Tensor) -> None:
        """The user's picture, as it comes: (3, T, H, W) float32 RGB at 25 fps in [-1, 1], any T, the options' size."""
        if frames.shape[1]:
            self._live.push_video(frames)

    def type(self, text: str) -> None:
        """What the user typed, 1 to 500 characters.

        Raises:
            ValueError: it is none, or too many words wait already; nothing of it is taken.
        """
        if not isinstance(text, str) or not text.strip() or len(text) > MAX_TEXT_LENGTH:
            raise ValueError(f"what is typed is a text of 1 to {MAX_TEXT_LENGTH} characters")
        check_text("what is typed", text)
        self._present_at = asyncio.get_running_loop().time()
        self._live.push_text(" ".join(text.split()))

    # ---- the agent's side ----

    async def _talk(self) -> None:
        loop = asyncio.get_running_loop()
        self._live.__enter__()
        while True:
            try:
                unit = await loop.run_in_executor(self._executor, self._live.next_unit, _PATIENCE_SECONDS)
            except TimeoutError:  # no first answer yet; `_watch` decides how long that may last
                continue
            statistics = self._live.statistics
            if self.is_hushed:
                unit = replace(unit, audio=torch.zeros_like(unit.audio))
            if self.line is not None:
                self.line.play(unit, self._timing(unit, statistics))
            self._count(unit, statistics)

    def _timing(self, unit: AgentUnit, statistics: RealTimeStatistics) -> UnitTiming | None:
        if not unit.latency:
            return None
        waited = UNIT_MS * statistics.waiting_units
        taken = 1000 * (time.monotonic() - self._session.begun_at.get(unit.index, time.monotonic()))
        return UnitTiming(round(unit.latency["total"], 1), round(waited + taken, 1))

    def _count(self, unit: AgentUnit, statistics: RealTimeStatistics) -> None:
        metrics, now = self._metrics, asdict(statistics)
        if unit.latency:
            metrics.unit_seconds.observe(unit.latency["total"] / 1000)
        for name, counter in (("late", metrics.late), ("fillers", metrics.fillers), ("dropped_units", metrics.dropped)):
            counter.inc(now[name] - self._counted.get(name, 0))
        for side, name in (("in", "waiting_units"), ("out", "ready_units")):
            metrics.waiting.labels(side).inc(now[name] - self._counted.get(name, 0))
        self._counted = now

    # ---- limits and the end ----

    async def _watch(self) -> None:
        """Hang up on clients that never arrive, go silent as clients, do not use the line, or stay too long."""
        options, clock = self.options, asyncio.get_running_loop().time
        while True:
            await asyncio.sleep(0.25)
            now = clock()
            if not self._has_begun:
                if now - self._began > options.connect_seconds:
                    self.hang_up("connect")
            elif self._lost_at is not None:
                if now - self._lost_at > options.resume_seconds:
                    self.hang_up("lost", "you were not heard for too long; the line is given to others")
            elif now - self._heard_at > options.hung_seconds:
                self.lose("hung", "no sound has come from you for a while; the line is given to others")
            elif now - self._present_at > options.idle_seconds:
                self.hang_up("idle", "nobody has spoken or typed for a while; the line is given to others")
            elif now - self._began > options.max_seconds:
                self.hang_up("limit", f"a conversation ends after {options.max_seconds / 60:.0f} minutes")

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("conversation %d failed", self.number, exc_info=error)
            self.hang_up("error", "the server had an error; please connect again")

    async def _close(self) -> None:
        try:
            async with asyncio.timeout(_CLOSE_SECONDS):
                await (self.line.close() if self.line is not None else asyncio.sleep(0))
        except Exception:  # a library's fault in a line must not keep the place in the batch
            _log.exception("the line of conversation %d did not close", self.number)
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.to_thread(self._close_blocking)
        for side, name in (("in", "waiting_units"), ("out", "ready_units")):
            self._metrics.waiting.labels(side).dec(self._counted.get(name, 0))
        self._on_close()
        self._is_over.set()

    def _close_blocking(self) -> None:
        self._live.__exit__(None, None, None)
        self._session.close()
        if self._recorder is not None:
            self._recorder.close()
