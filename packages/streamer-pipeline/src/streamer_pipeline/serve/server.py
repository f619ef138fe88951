"""The conversations of one pipeline on one machine, whatever protocols their clients speak."""

from __future__ import annotations

import asyncio
import itertools
import logging
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ..pipeline import StreamerPipeline
from .admission import Capacity, measure_capacity
from .batching import BatchedSession, BatchStepper
from .conversation import Conversation
from .metrics import ServeMetrics
from .options import ServeOptions
from .recording import SessionRecorder

_log = logging.getLogger(__name__)


class ServerFull(RuntimeError):
    """No further conversation is admitted now; the message says why."""


class LiveServer:
    """Admits conversations and steps them as one batch.

    Args:
        pipeline: loaded, on its device.
        capacity: None measures it.

    Raises:
        ValueError: a session does not fit into the memory that the options allow.
    """

    def __init__(self, pipeline: StreamerPipeline, options: ServeOptions, capacity: Capacity | None = None) -> None:
        self.pipeline, self.options = pipeline, options
        self.capacity = capacity or measure_capacity(pipeline, options)
        self.metrics = ServeMetrics()
        self.metrics.capacity.set(self.capacity.num_sessions)
        self.conversations: dict[int, Conversation] = {}
        self._numbers = itertools.count()
        self._num_reserved = 0  # admitted, from before its session exists until nothing of it is left
        self._shared: dict[str, Any] = {
            "num_inference_steps": options.num_inference_steps,
            "height": options.height,
            "width": options.width,
        }
        self._stepper = BatchStepper(pipeline.open_batch(self.capacity.num_sessions, **self._shared))
        self._executor = ThreadPoolExecutor(self.capacity.num_sessions + 1, "live")

    @property
    def num_sessions(self) -> int:
        return self._num_reserved

    async def admit(self, consent: bool = False) -> Conversation:
        """Open a conversation; its place is given back when it ends, which it does by itself if nobody comes.

        Args:
            consent: whether the user agrees to be recorded.

        Raises:
            ServerFull: as many conversations as fit are going on.
        """
        if self._num_reserved >= self.capacity.num_sessions:
            raise ServerFull(
                f"the server is full: {self._num_reserved} of {self.capacity.num_sessions} conversations are taken "
                f"({self.capacity.reason}); please try again later"
            )
        self._reserve(1)
        number = next(self._numbers)
        try:
            conversation = await self._open(number, consent)
        except BaseException:
            self._reserve(-1)
            raise
        self.conversations[number] = conversation
        return conversation

    async def close(self) -> None:
        """End all conversations."""
        conversations = list(self.conversations.values())
        for conversation in conversations:
            conversation.hang_up("shutdown", "the server is shutting down")
        await asyncio.gather(*(conversation.closed() for conversation in conversations))
        await asyncio.to_thread(self._stepper.close)
        self._executor.shutdown(wait=False)

    async def _open(self, number: int, consent: bool) -> Conversation:
        options = self.options
        session = await asyncio.to_thread(self.pipeline.open_session, seed=options.seed + number, **self._shared)
        recorder = None
        if consent and options.record is not None:
            delay = self.pipeline.streamer.config.response_delay
            try:
                recorder = await asyncio.to_thread(SessionRecorder, options.record, number, delay)
            except OSError as error:  # the client is told that nothing is recorded
                _log.error("conversation %d is not recorded: %s", number, error)
        on_step = recorder.write if recorder else None
        batched = await asyncio.to_thread(BatchedSession, session, self._stepper, on_step)
        return Conversation(
            number, batched, options, self.metrics, self._executor, recorder, lambda: self._forget(number)
        )

    def _forget(self, number: int) -> None:
        del self.conversations[number]
        self._reserve(-1)

    def _reserve(self, change: int) -> None:
        self._num_reserved += change
        self.metrics.sessions.set(self._num_reserved)
