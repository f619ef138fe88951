"""A conversation against the clock: ragged live input on one side, a unit to play every 160 ms on the other."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from ..session import MAX_PENDING_TEXT, SessionOptions
from ..units import UNIT_MS, AgentUnit, UserUnit
from .intake import LiveIntake
from .playout import Playout

_UNIT_SECONDS = UNIT_MS / 1000


class Steppable(Protocol):
    """A session that answers unit by unit.

    `options` says the size of the user's picture. One that also has `run(units)`, as `SplitSession` does, is driven by
    it and may compute several units at once.
    """

    options: SessionOptions

    def step(self, unit: UserUnit) -> AgentUnit: ...


class Clock(Protocol):
    """Where time comes from."""

    def now(self) -> float:
        """Seconds since any moment."""

    def wait(self, changed: threading.Condition, seconds: float | None) -> None:
        """Wait, with `changed` held, until it is notified or `seconds` have passed; may also wake without reason."""


class MonotonicClock:
    """The machine's own clock."""

    def now(self) -> float:
        return time.monotonic()

    def wait(self, changed: threading.Condition, seconds: float | None) -> None:
        changed.wait(seconds)


@dataclass(frozen=True)
class RealTimeStatistics:
    """What has happened so far.

    units: answers computed. played: those of them that were played. fillers: ticks at which none was ready.
    late: fillers while an answer was being computed, that is, missed deadlines (else the user had sent nothing).
    dropped_units, dropped_frames: the user's, when they came faster than could be used.
    repeated_frames: put in for a camera that sent none.
    shed_units: silent answers that were skipped, to take back the delay of fillers.
    waiting_units, computing_units, ready_units: lengths of the queues now; delay_ms is what they add up to.
    """

    units: int
    played: int
    fillers: int
    late: int
    dropped_units: int
    dropped_frames: int
    repeated_frames: int
    shed_units: int
    waiting_units: int
    computing_units: int
    ready_units: int

    @property
    def delay_ms(self) -> int:
        return UNIT_MS * (self.waiting_units + self.computing_units + self.ready_units)


class RealTimeSession:
    """Runs a session in a worker thread at the pace of the wall clock.

        with RealTimeSession(session) as live:
            live.push_audio(samples)  # from any thread, in pieces of any length, at any rate
            live.push_video(frames)
            unit = live.next_unit(timeout=5)  # blocks until the next 160 ms are due

    Play-out begins with the first answer and never stops: see `Playout` for what is played when the model is late, and
    `LiveIntake` for what happens to input that comes too fast or not at all. Every queue is bounded: at most
    `max_waiting_units` units of the user wait, and at most `max_ready_units` are being computed or ready, whatever
    happens; what fillers have added to that is given back when the agent is silent.

    Args:
        session: belongs to the worker until the context is left.
        max_waiting_units: the user's units that may wait to be computed.
        max_ready_units: answers that may be in the making or wait to be played.
        jitter_buffer_ms: play-out begins so long after the first answer; jitter up to that costs no filler.
        clock: for tests; the machine's own by default.
    """

    def __init__(
        self,
        session: Steppable,
        max_waiting_units: int = 3,
        max_ready_units: int = 3,
        jitter_buffer_ms: float = UNIT_MS / 4,
        clock: Clock | None = None,
    ) -> None:
        self.session = session
        self._intake = LiveIntake(session.options.height, session.options.width, max_waiting_units)
        self._playout = Playout(max_ready_units)
        self._jitter_buffer = jitter_buffer_ms / 1000
        self._clock = clock or MonotonicClock()
        self._changed = threading.Condition()
        self._worker = threading.Thread(target=self._work, name="real-time-session", daemon=True)
        self._due: float | None = None  # when the next unit plays; None before the first
        self._num_computing = self._num_units = self._num_late = 0
        self._is_over = False
        self._error: BaseException | None = None

    def __enter__(self) -> RealTimeSession:
        self._worker.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop after the unit that is being computed; whoever waits in `next_unit` is told."""
        with self._changed:
            self._is_over = True
            self._changed.notify_all()
        if self._worker.ident is not None:
            self._worker.join()

    # ---- the user's side ----

    def push_audio(self, samples: Tensor) -> None:
        """samples: (1, T) float32 at 24 kHz in [-1, 1], any T. ValueError if they are not."""
        with self._changed:
            self._intake.push_audio(samples)
            self._changed.notify_all()

    def push_video(self, frames: Tensor) -> None:
        """frames: (3, T, H, W) float32 RGB at 25 fps in [-1, 1], any T. ValueError if they are not."""
        with self._changed:
            self._intake.push_video(frames)
            self._changed.notify_all()

    def push_text(self, text: str) -> None:
        """What the user typed. ValueError if too many words wait already: nothing of it is taken."""
        check = getattr(self.session, "check_text", None)
        with self._changed:
            if check is not None:  # half, so that what is on its way into a step never makes that too long
                check(f"{self._intake.waiting_text} {text}", MAX_PENDING_TEXT // 2)
            self._intake.push_text(text)

    # ---- the agent's side ----

    def next_unit(self, timeout: float | None = None) -> AgentUnit:
        """The next 160 ms to play, when they are due: one per 160 ms, an answer or a filler.

        A caller that comes late gets its unit at once, and is not made to catch up more than one.

        Args:
            timeout: seconds to wait for the first answer; after it there is always something to play.

        Raises:
            TimeoutError: no first answer yet.
            RuntimeError: the context has been left.
            Exception: whatever ended the worker.
        """
        clock, changed = self._clock, self._changed
        with changed:
            if self._due is None:
                deadline = None if timeout is None else clock.now() + timeout
                self._wait_until(deadline, lambda: len(self._playout) > 0)
                if not len(self._playout):
                    raise TimeoutError(f"no unit has been computed in {timeout} s; has the user's sound been pushed?")
                self._due = clock.now() + self._jitter_buffer
            self._wait_until(self._due, lambda: False)
            self._due = max(self._due, clock.now() - _UNIT_SECONDS) + _UNIT_SECONDS
            was_filled = self._playout.num_fillers
            unit = self._playout.tick()
            if self._playout.num_fillers > was_filled and (self._num_computing or len(self._intake)):
                self._num_late += 1
            changed.notify_all()
            return unit

    @property
    def statistics(self) -> RealTimeStatistics:
        with self._changed:
            intake, playout = self._intake, self._playout
            return RealTimeStatistics(
                units=self._num_units,
                played=playout.num_played,
                fillers=playout.num_fillers,
                late=self._num_late,
                dropped_units=intake.num_dropped_units,
                dropped_frames=intake.num_dropped_frames,
                repeated_frames=intake.num_repeated_frames,
                shed_units=playout.num_shed,
                waiting_units=len(intake),
                computing_units=self._num_computing,
                ready_units=len(playout),
            )

    def _wait_until(self, deadline: float | None, ready: Callable[[], bool]) -> None:
        """With the lock held: until `ready()` or the deadline. Raises what ended the worker, or that all is over."""
        while True:
            if self._error is not None:
                raise self._error
            if self._is_over:
                raise RuntimeError("this real-time session has ended: its context was left")
            left = None if deadline is None else deadline - self._clock.now()
            if ready() or (left is not None and left <= 0):
                return
            self._clock.wait(self._changed, left)

    # ---- the worker ----

    def _work(self) -> None:
        try:
            for unit in self._answers(self._units()):
                with self._changed:
                    self._num_computing -= 1
                    self._num_units += 1
                    self._playout.add(unit)
                    self._changed.notify_all()
        except BaseException as error:
            with self._changed:
                self._error = error
                self._changed.notify_all()

    def _answers(self, units: Iterable[UserUnit | None]) -> Iterator[AgentUnit]:
        run = getattr(self.session, "run", None)
        return run(units) if run else (self.session.step(unit) for unit in units if unit is not None)

    def _units(self) -> Iterator[UserUnit | None]:
        """The user's units as they come; None where none waits but an answer is still to be finished."""
        while True:
            with self._changed:
                while (
                    not self._is_over and not self._num_computing and (self._playout.is_full or not len(self._intake))
                ):
                    self._changed.wait()
                if self._is_over:
                    return
                has_room = len(self._playout) + self._num_computing < self._playout.max_ready
                unit = self._intake.take() if has_room else None
                self._num_computing += unit is not None
            yield unit
