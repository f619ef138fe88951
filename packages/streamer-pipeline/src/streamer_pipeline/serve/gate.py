"""Who may call a server: the token, the pages of other origins, and how often."""

from __future__ import annotations

import secrets
import time
from collections import deque
from urllib.parse import urlsplit

from fastapi import HTTPException
from starlette.requests import HTTPConnection

from .conversation import Conversation
from .server import LiveServer, ServerFull

CALLS_PER_MINUTE = 120
_TOKEN_SUBPROTOCOL = "openai-insecure-api-key."


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


class Gate:
    """The way into a server by HTTP, the same for every protocol: what it refuses it raises as HTTPException."""

    def __init__(self, server: LiveServer) -> None:
        self._server, self.options = server, server.options
        self._calls = RateLimit(CALLS_PER_MINUTE, 60.0)

    def check_token(self, connection: HTTPConnection) -> None:
        """401 unless the token was sent, if there is one. A dependency of FastAPI."""
        token = self.options.token
        if token and not secrets.compare_digest(_given_token(connection).encode(), token.encode()):
            raise self.refusal(
                "token", 401, "a token is needed: open the address that the server printed when it started"
            )

    def check_call(self, connection: HTTPConnection) -> None:
        """Whether a client may ask for a conversation: its origin (403), token (401), pace (429). A dependency, too."""
        origin = connection.headers.get("origin")
        # Browsers always send it with a POST; programs have no ambient rights that it would protect.
        if origin is not None and not _is_own(origin, connection) and origin not in self.options.origins:
            raise self.refusal("origin", 403, f"calls from pages of {origin} are not allowed")
        self.check_token(connection)
        if not self._calls.allows():
            raise self.refusal("rate", 429, "too many calls in a minute; please wait")

    async def admit(self, consent: bool = False) -> Conversation:
        """`LiveServer.admit`; 503 when it is full."""
        try:
            return await self._server.admit(consent)
        except ServerFull as error:
            raise self.refusal("full", 503, str(error)) from error

    def refusal(self, reason: str, status: int, sentence: str) -> HTTPException:
        """What to raise; it has been counted."""
        self._server.metrics.refused.labels(reason).inc()
        return HTTPException(status, sentence, headers={"Retry-After": "10"} if status == 503 else None)


def _is_own(origin: str, connection: HTTPConnection) -> bool:
    """Whether a page of this origin came from this server."""
    try:
        return urlsplit(origin).netloc == connection.headers.get("host")
    except ValueError:
        return False


def _given_token(connection: HTTPConnection) -> str:
    """What was sent as bearer; or, as browsers can give a WebSocket no headers, among its subprotocols."""
    if bearer := connection.headers.get("authorization"):
        return bearer.removeprefix("Bearer ")
    offered = [each.strip() for each in connection.headers.get("sec-websocket-protocol", "").split(",")]
    return next((each.removeprefix(_TOKEN_SUBPROTOCOL) for each in offered if each.startswith(_TOKEN_SUBPROTOCOL)), "")
