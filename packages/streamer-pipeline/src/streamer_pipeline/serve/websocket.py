"""A line of one WebSocket, for protocols whose sound comes in messages: at any pace, in pieces of any length."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import torch
from fastapi import WebSocket, WebSocketDisconnect
from torch import Tensor

from ..units import SAMPLE_RATE, AgentUnit, TensorQueue
from .conversation import Conversation, Messages, UnitTiming

MAX_WAITING_SECONDS = 60.0  # of sound that came faster than it can be heard
_TICK_SECONDS = 0.02
_PATIENCE_SECONDS = 0.24  # how late a client's sound may be before silence takes its place
_MAX_UNSENT = 1024  # messages that a client may leave unread
_GOODBYE_SECONDS = 2.0
_POLICY_VIOLATION, _GOING_AWAY = 1008, 1001


class PacedSound:
    """Sound that comes at any pace, given back at the pace of the clock, with silence where none came.

    The clock may run ahead of the sound by `_PATIENCE_SECONDS`, so what comes in pieces, or a little late, is passed
    on as it comes, and what comes in a burst is heard in real time.
    """

    def __init__(self) -> None:
        self._waiting = TensorQueue()
        self._num_given = 0

    def push(self, samples: Tensor) -> None:
        """(1, T) samples at 24 kHz. ValueError, and nothing of them is taken, if too much waits."""
        if self._waiting.length + samples.shape[1] > MAX_WAITING_SECONDS * SAMPLE_RATE:
            raise ValueError(
                f"{self._waiting.length / SAMPLE_RATE:.1f} s of sound wait to be heard, which happens in real time; "
                f"at most {MAX_WAITING_SECONDS:.0f} s may; nothing of this piece was taken"
            )
        self._waiting.push(samples)

    def clear(self) -> None:
        """Forget what waits."""
        self._waiting = TensorQueue()

    def take(self, seconds: float) -> Tensor:
        """What is to be heard until `seconds` after the beginning and was not given yet, (1, T)."""
        num_due = max(0, round(seconds * SAMPLE_RATE) - self._num_given)
        num_there = min(num_due, self._waiting.length)
        num_missing = max(0, num_due - num_there - round(_PATIENCE_SECONDS * SAMPLE_RATE))
        self._num_given += num_missing + num_there
        silence = torch.zeros(1, num_missing)
        return torch.cat([silence, self._waiting.take(num_there)], dim=1) if num_there else silence


class WebSocketLine:
    """The `Line` of a client that came by WebSocket.

    Args:
        socket: accepted.
        messages: called with the conversation and this line, to which it sends and by which sound is `heard`.
    """

    def __init__(
        self, socket: WebSocket, conversation: Conversation, messages: Callable[[Conversation, WebSocketLine], Messages]
    ) -> None:
        self.sound = PacedSound()
        self._socket, self._conversation = socket, conversation
        self._unsent: asyncio.Queue[str | bytes] = asyncio.Queue(_MAX_UNSENT)
        self._messages = messages(conversation, self)
        self._ending = (_GOING_AWAY, "")
        conversation.take_line(self)

    async def run(self) -> None:
        """Talk until somebody hangs up and nothing of the conversation is left."""
        conversation = self._conversation
        self._messages.opened()
        for work in (self._send_all(), self._receive_all(), self._hear()):
            conversation.start(work)
        conversation.begin()
        await conversation.closed()

    def send(self, message: str | bytes) -> None:
        """Send when it is possible; who reads nothing is hung up on."""
        try:
            self._unsent.put_nowait(message)
        except asyncio.QueueFull:
            self._conversation.hang_up("unread")

    def play(self, unit: AgentUnit, timing: UnitTiming | None) -> None:
        self._messages.tell(unit, timing)

    def say_goodbye(self, reason: str, sentence: str) -> None:
        self._messages.say_goodbye(reason, sentence)
        self._ending = (_POLICY_VIOLATION if reason in ("message", "rate") else _GOING_AWAY, sentence[:120])

    async def close(self) -> None:
        try:
            async with asyncio.timeout(_GOODBYE_SECONDS):
                await self._unsent.join()
                await self._socket.close(*self._ending)
        except (TimeoutError, RuntimeError, WebSocketDisconnect):
            return  # it has left, or does not read

    async def _send_all(self) -> None:
        while True:
            message = await self._unsent.get()
            try:
                if isinstance(message, str):
                    await self._socket.send_text(message)
                else:
                    await self._socket.send_bytes(message)
            except (RuntimeError, WebSocketDisconnect):
                self._conversation.hang_up("left")
            finally:
                self._unsent.task_done()

    async def _receive_all(self) -> None:
        while True:
            event = await self._socket.receive()
            if event["type"] == "websocket.disconnect":
                self._conversation.hang_up("left")
                return
            text = event.get("text")
            self._messages.receive(event["bytes"] if text is None else text)

    async def _hear(self) -> None:
        clock = asyncio.get_running_loop().time
        began = clock()
        while True:
            samples = self.sound.take(clock() - began)
            if samples.shape[1]:
                self._conversation.hear(samples)
            await asyncio.sleep(_TICK_SECONDS)
