"""What travels over the data channel: small JSON objects. A client's are checked here, before anything acts on them.

Client to server: {"type": "text", "text": "..."} types to the agent, {"type": "ping", "id": 7} asks for a "pong".
Server to client: "hello" (what to expect), "unit" (every 160 ms: state, text, latency), "pong", "error" (a message was
refused and why), "bye" (the server hangs up and why).
"""

from __future__ import annotations

import json
import time
from collections import deque
from typing import Any

from ..units import check_text

MAX_MESSAGE_BYTES = 4096
MAX_TEXT_LENGTH = 500
MESSAGES_PER_SECOND = 20


class MessageError(ValueError):
    """A client's message that is refused; the sentence is for the client. `fatal` ends the conversation."""

    def __init__(self, sentence: str, fatal: bool = False) -> None:
        super().__init__(sentence)
        self.fatal = fatal


def parse_message(data: str | bytes) -> dict[str, Any]:
    """A checked message of a client.

    Raises:
        MessageError: too long (fatal), not JSON, of an unknown type, or with a field out of range.
    """
    if not isinstance(data, str):
        raise MessageError("messages are JSON text, not bytes", fatal=True)
    if len(data.encode()) > MAX_MESSAGE_BYTES:
        raise MessageError(f"a message has at most {MAX_MESSAGE_BYTES} bytes", fatal=True)
    try:
        message = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise MessageError("a message is a JSON object") from error
    if not isinstance(message, dict):
        raise MessageError("a message is a JSON object")
    if message.get("type") == "text":
        text = message.get("text")
        if not isinstance(text, str) or not text.strip() or len(text) > MAX_TEXT_LENGTH:
            raise MessageError(f'"text" is a string of 1 to {MAX_TEXT_LENGTH} characters')
        try:
            check_text('"text"', text)
        except ValueError as error:
            raise MessageError(str(error)) from error
        return {"type": "text", "text": " ".join(text.split())}
    if message.get("type") == "ping":
        number = message.get("id")
        if type(number) is not int or not 0 <= number < 2**53:
            raise MessageError('"id" is a whole number from 0')
        return {"type": "ping", "id": number}
    raise MessageError('"type" is "text" or "ping"')


class RateLimit:
    """At most `limit` events in any `seconds`."""

    def __init__(self, limit: int, seconds: float = 1.0) -> None:
        self.limit, self.seconds = limit, seconds
        self._times: deque[float] = deque()

    def allows(self) -> bool:
        """Count one event; False if it is one too many."""
        now = time.monotonic()
        while self._times and now - self._times[0] > self.seconds:
            self._times.popleft()
        if len(self._times) >= self.limit:
            return False
        self._times.append(now)
        return True
