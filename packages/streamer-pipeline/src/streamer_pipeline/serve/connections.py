"""What one client can take of the server's connections: uvicorn itself waits for ever for a request that was begun."""

from __future__ import annotations

import asyncio
import logging
import resource
import time

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

REQUEST_SECONDS = 10.0  # in which a request has to be there, from its first byte to its last
_LOG_SECONDS = 60.0
_log = logging.getLogger(__name__)


def max_connections() -> int:
    """Half of the files that this process may open: the other half is for conversations."""
    return max(16, min(1024, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2))


class BoundedProtocol(H11Protocol):
    """HTTP in which a connection is closed if it is one too many, or if its request does not come to an end."""

    _told_at = float("-inf")  # of all connections: a flood gets one line a minute
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > (limit := max_connections()):
            transport.close()
            if time.monotonic() - BoundedProtocol._told_at > _LOG_SECONDS:
                BoundedProtocol._told_at = time.monotonic()
                _log.warning("more than %d connections at once: those beyond are closed", limit)
            return
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._stop_watching()

    @property
    def _is_waiting(self) -> bool:
        return self.transport.get_protocol() is self and self.conn.their_state in (h11.IDLE, h11.SEND_BODY)

    def _watch(self) -> None:
        if not self._is_waiting:
            self._stop_watching()
        elif self._timer is None:
            self._timer = self.loop.call_later(REQUEST_SECONDS, self._give_up)

    def _stop_watching(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _give_up(self) -> None:
        self._timer = None
        if self._is_waiting:
            self.transport.close()
