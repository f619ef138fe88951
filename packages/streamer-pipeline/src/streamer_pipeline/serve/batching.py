"""Sessions of one server that are due together take one pass through the weights, each at its place of one batch."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future

from ..batch import SessionBatch
from ..session import StreamerSession
from ..units import AgentUnit, UserUnit

_REMEMBERED = 32  # units
_Job = tuple[StreamerSession, UserUnit, "Future[AgentUnit]"]


class BatchStepper:
    """One thread that steps whatever sessions of a batch are waiting; every session gets what it would get alone.

    Nobody is waited for: while one step is computed the next collects. So a lone session has no delay, and of n
    sessions none can starve another: each has at most one unit in a step.
    """

    def __init__(self, batch: SessionBatch) -> None:
        self.batch = batch
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
            due = [job]
            while not self._jobs.empty():
                if (job := self._jobs.get()) is None:
                    self._jobs.put(None)
                    break
                due.append(job)
            self._step(due)

    def _step(self, jobs: list[_Job]) -> None:
        try:
            answers = self.batch.step({session: unit for session, unit, _ in jobs})
        except Exception as error:
            if len(jobs) == 1:
                jobs[0][2].set_exception(error)
            else:  # one session's fault is not another's, and the step that raised has consumed nothing
                for job in jobs:
                    self._step([job])
            return
        for session, _, result in jobs:
            result.set_result(answers[session])


class BatchedSession:
    """A session whose `step` goes through a `BatchStepper`; it has joined its batch.

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
        stepper.batch.join(session)

    def close(self) -> None:
        """Give the place in the batch back."""
        self._stepper.batch.leave(self._session)

    def check_text(self, text: str, limit: int) -> None:
        """As `StreamerSession.check_text`."""
        self._session.check_text(text, limit)

    def step(self, unit: UserUnit) -> AgentUnit:
        begun_at = time.monotonic()
        answer = self._stepper.step(self._session, unit)
        self.begun_at[answer.index] = begun_at
        self.begun_at.pop(answer.index - _REMEMBERED, None)
        if self._on_step is not None:
            self._on_step(unit, answer)
        return answer
