"""The protocol of Moshi and PersonaPlex: `/api/chat` by WebSocket, Opus both ways (extra `moshi`).

Every message is bytes; the first says what follows. 0x00: the server is ready. 0x01: pages of one Ogg stream of Opus,
24 kHz, either way. 0x02: the agent's words, UTF-8. 0x05: an error or a farewell in words, to the client. A client's
controls (0x03), metadata (0x04) and pings (0x06) are passed over, and so are `voice_prompt`, `text_prompt` and `seed`
in the address: what the agent is, the server says. `?consent=true` is our extension: the user agrees to be recorded.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from fastapi import APIRouter, Depends, WebSocket

from ...units import SAMPLE_RATE, AgentUnit
from ..conversation import Conversation, UnitTiming
from ..gate import Gate, RateLimit
from ..websocket import WebSocketLine

HANDSHAKE, SOUND, WORDS, ERROR = b"\x00", b"\x01", b"\x02", b"\x05"
_PASSED_OVER = b"\x00\x03\x04\x06"
MAX_MESSAGE_BYTES = 64 * 1024
MESSAGES_PER_SECOND = 200


def routes(gate: Gate) -> APIRouter:
    router = APIRouter(dependencies=[Depends(gate.check_call)])

    @router.websocket("/api/chat")
    async def talk(socket: WebSocket, consent: bool = False) -> None:
        try:
            import sphn  # Moshi's own reader and writer of Opus streams
        except ImportError as error:
            sentence = 'Opus by WebSocket needs pip install "wan-streamer-pipeline[moshi]" on the server'
            raise gate.refusal("codec", 501, sentence) from error
        conversation = await gate.admit(consent)
        await socket.accept()
        reader, writer = sphn.OpusStreamReader(SAMPLE_RATE), sphn.OpusStreamWriter(SAMPLE_RATE)
        await WebSocketLine(
            socket, conversation, lambda spoken, line: MoshiMessages(spoken, line, reader, writer)
        ).run()

    return router


class MoshiMessages:
    """The `Messages` of Moshi's protocol; reader and writer are those of sphn."""

    def __init__(self, conversation: Conversation, line: WebSocketLine, reader: Any, writer: Any) -> None:
        self._conversation, self._line, self._reader, self._writer = conversation, line, reader, writer
        self._rate = RateLimit(MESSAGES_PER_SECOND)

    def opened(self) -> None:
        self._line.send(HANDSHAKE)

    def receive(self, data: str | bytes) -> None:
        if not self._rate.allows():
            self._conversation.hang_up("rate", f"more than {MESSAGES_PER_SECOND} messages per second")
        elif isinstance(data, str) or len(data) > MAX_MESSAGE_BYTES:
            self._conversation.hang_up("message", f"a message is at most {MAX_MESSAGE_BYTES} bytes, not text")
        elif data[:1] == SOUND:
            self._hear(data[1:])
        elif data[:1] not in _PASSED_OVER or not data:
            self._complain("a message of a client begins with 0x01 and holds pages of Ogg Opus")

    def tell(self, unit: AgentUnit, timing: UnitTiming | None) -> None:
        self._line.send(SOUND + self._writer.append_pcm(unit.audio[0].clamp(-1, 1).numpy()))
        if unit.text:
            self._line.send(WORDS + unit.text.encode())

    def say_goodbye(self, reason: str, sentence: str) -> None:
        self._complain(sentence)

    def _hear(self, pages: bytes) -> None:
        try:
            samples = np.asarray(self._reader.append_bytes(pages), np.float32)
        except ValueError as error:  # the stream cannot be picked up again
            self._conversation.hang_up("message", f"this is no stream of Ogg Opus: {error}")
            return
        try:
            self._line.sound.push(torch.from_numpy(samples)[None].clamp(-1, 1))
        except ValueError as error:
            self._complain(str(error))

    def _complain(self, sentence: str) -> None:
        self._line.send(ERROR + sentence.encode())
