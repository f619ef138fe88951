"""Sessions of one server that are due together take one pass through the weights."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future

from ..session import StreamerSession, step_sessions
from ..units import AgentUnit, UserUnit

_REMEMBERED = 32  # units
_Job = tuple[StreamerSession, UserUnit, "Future[AgentUnit]"]


class BatchStepper:
    """One thread that steps whatever sessions are waiting, as one batch; every session gets what it would get alone.

    A batch is never waited for: while one is computed the next collects. So a lone session has no delay, and of n
    sessions none can starve another: each has at most one unit in a batch.
    """

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="stepper", daemon=True)
        self._thread.start()

    def step(self, session: StreamerSession, unit: UserUnit) -> AgentUnit:
        """Step one session, together with others that are due; blocks. Raises what the session's own step raises."""
        result: Future[AgentUnit] = Future()
        self._jobs.put((session, unit, result))
        return result.result()

    def close(self) -> None:
        """Finish the batch at hand and end the thread."""
        self._jobs.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            batch = [job]
            while not self._jobs.empty():
                if (job := self._jobs.get()) is None:
                    self._jobs.put(None)
                    break
                batch.append(job)
            self._step(batch)

    def _step(self, batch: list[_Job]) -> None:
        try:
            answers = step_sessions([job[0] for job in batch], [job[1] for job in batch])
        except Exception as error:
            if len(batch) == 1:
                batch[0][2].set_exception(error)
            else:  # one session's fault is not another's
                for job in batch:
                    self._step([job])
            return
        for (_, _, result), answer in zip(batch, answers, strict=True):
            result.set_result(answer)


class BatchedSession:
    """A session whose `step` goes through a `BatchStepper`.

    on_step is called with every (UserUnit, AgentUnit), in the thread that waits for the step. `begun_at` says when the
    computing of the newest units began: unit index -> seconds of `time.monotonic`.
    """

    def __init__(
        self,
        session: StreamerSession,
        stepper: BatchStepper,
        on_step: Callable[[UserUnit, AgentUnit], None] | None = None,
    ) -> None:
        self.options = session.options
        self.begun_at: dict[int, float] = {}
        self._session, self._stepper, self._on_step = session, stepper, on_step

    def step(self, unit: UserUnit) -> AgentUnit:
        begun_at = time.monotonic()
        answer = self._stepper.step(self._session, unit)
        self.begun_at[answer.index] = begun_at
        self.begun_at.pop(answer.index - _REMEMBERED, None)
        if self._on_step is not None:
            self._on_step(unit, answer)
        return answer
