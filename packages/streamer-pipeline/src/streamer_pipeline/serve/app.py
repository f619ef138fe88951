"""The server: page, signalling, health, metrics. Media goes by WebRTC, straight between the client and its `Peer`."""

from __future__ import annotations

import asyncio
import itertools
import logging
import secrets
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import uvicorn
from aiortc import RTCSessionDescription
from fastapi import Depends, FastAPI, HTTPException, Request, Response
from fastapi.middleware.trustedhost import TrustedHostMiddleware
from fastapi.responses import FileResponse
from fastapi.staticfiles import StaticFiles
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel, Field

from ..pipeline import StreamerPipeline
from ..session import StreamerSession
from .admission import Capacity, measure_capacity
from .batching import BatchedSession, BatchStepper
from .listening import listen
from .messages import RateLimit
from .metrics import ServeMetrics
from .options import ServeOptions
from .peer import Peer
from .recording import SessionRecorder

_log = logging.getLogger(__name__)
_STATIC = files("streamer_pipeline") / "serve" / "static"
MAX_OFFER_BYTES = 64 * 1024
MAX_CANDIDATES = 64
OFFERS_PER_MINUTE = 120
_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


class ServerFull(RuntimeError):
    """No further conversation is admitted now; the message says why."""


class Offer(BaseModel, extra="forbid"):
    """What a client posts: its session description, and whether its user agrees to be recorded."""

    sdp: str = Field(max_length=MAX_OFFER_BYTES)
    type: Literal["offer"]
    consent: bool = False


class LiveServer:
    """The conversations of one pipeline on one machine.

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
        self.peers: dict[int, Peer] = {}
        self._numbers = itertools.count()
        self._num_reserved = 0  # admitted, from before its session exists until nothing of it is left
        shared: dict[str, Any] = {
            "num_inference_steps": options.num_inference_steps,
            "height": options.height,
            "width": options.width,
        }
        self._stepper = BatchStepper(pipeline.open_batch(self.capacity.num_sessions, **shared))
        self._executor = ThreadPoolExecutor(self.capacity.num_sessions + 1, "live")

    @property
    def num_sessions(self) -> int:
        return self._num_reserved

    async def answer(self, offer: RTCSessionDescription, consent: bool = False) -> RTCSessionDescription:
        """Admit a client and answer its offer.

        Raises:
            ServerFull: as many conversations as fit are going on.
            ValueError: the offer cannot be answered.
        """
        if self._num_reserved >= self.capacity.num_sessions:
            raise ServerFull(
                f"the server is full: {self._num_reserved} of {self.capacity.num_sessions} conversations are taken "
                f"({self.capacity.reason}); please try again later"
            )
        self._reserve(1)
        number = next(self._numbers)
        try:
            peer = await self._open(number, consent)
        except BaseException:
            self._reserve(-1)
            raise
        self.peers[number] = peer
        peer.on_close(lambda: self._forget(number))
        try:
            return await peer.answer(offer)
        except BaseException:
            peer.hang_up("offer")
            raise

    async def close(self) -> None:
        """End all conversations."""
        peers = list(self.peers.values())
        for peer in peers:
            peer.hang_up("shutdown", "the server is shutting down")
        await asyncio.gather(*(peer.closed() for peer in peers))
        await asyncio.to_thread(self._stepper.close)
        self._executor.shutdown(wait=False)

    async def _open(self, number: int, consent: bool) -> Peer:
        options = self.options
        session = await asyncio.to_thread(self._open_session, options.seed + number)
        recorder = None
        if consent and options.record is not None:
            delay = self.pipeline.streamer.config.response_delay
            recorder = await asyncio.to_thread(SessionRecorder, options.record, number, delay)
        on_step = recorder.write if recorder else None
        batched = await asyncio.to_thread(BatchedSession, session, self._stepper, on_step)
        return Peer(number, batched, options, self.metrics, self._executor, recorder)

    def _open_session(self, seed: int) -> StreamerSession:
        o = self.options
        return self.pipeline.open_session(
            seed=seed, num_inference_steps=o.num_inference_steps, height=o.height, width=o.width
        )

    def _forget(self, number: int) -> None:
        del self.peers[number]
        self._reserve(-1)

    def _reserve(self, change: int) -> None:
        self._num_reserved += change
        self.metrics.sessions.set(self._num_reserved)


def create_app(server: LiveServer) -> FastAPI:
    """The HTTP side of a live server: `/`, `/offer`, `/about`, `/healthz`, `/metrics`."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await server.close()

    app = FastAPI(title="open Wan-Streamer", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    options, metrics = server.options, server.metrics
    offers = RateLimit(OFFERS_PER_MINUTE, 60.0)

    def check_token(request: Request) -> None:
        given = request.headers.get("authorization", "").removeprefix("Bearer ")
        if options.token and not secrets.compare_digest(given.encode(), options.token.encode()):
            metrics.refused.labels("token").inc()
            raise HTTPException(401, "a token is needed: open the address that the server printed when it started")

    def check_origin(request: Request) -> None:
        origin = request.headers.get("origin")
        if origin is None or origin in options.origins:
            return  # browsers always send it with a POST; programs have no ambient rights that it would protect
        if urlsplit(origin).netloc != request.headers.get("host"):
            metrics.refused.labels("origin").inc()
            raise HTTPException(403, f"calls from pages of {origin} are not allowed")

    @app.middleware("http")
    async def guard(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        length = request.headers.get("content-length", "0")
        if request.method == "POST" and (not length.isdigit() or int(length) > MAX_OFFER_BYTES):
            metrics.refused.labels("size").inc()
            return Response("the offer is too large", 413)
        if "transfer-encoding" in request.headers:
            return Response("send the offer with its Content-Length", 411)
        response = await call_next(request)
        response.headers.update(_HEADERS)
        return response

    @app.get("/")
    def page() -> FileResponse:
        return FileResponse(str(_STATIC / "index.html"))

    @app.get("/about")
    def about() -> dict[str, object]:
        """What the page needs to know before it connects."""
        return {
            "recording": options.record is not None,
            "token_needed": bool(options.token),
            "height": options.height,
            "width": options.width,
        }

    @app.get("/healthz")
    def health() -> dict[str, object]:
        return {"status": "ok", "sessions": server.num_sessions, "capacity": server.capacity.num_sessions}

    @app.get("/metrics", dependencies=[Depends(check_token)])
    def show_metrics() -> Response:
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    @app.post("/offer", dependencies=[Depends(check_origin), Depends(check_token)])
    async def answer(offer: Offer) -> dict[str, str]:
        if not offers.allows():
            metrics.refused.labels("rate").inc()
            raise HTTPException(429, "too many offers in a minute; please wait")
        if offer.sdp.count("a=candidate:") > MAX_CANDIDATES:
            metrics.refused.labels("offer").inc()
            raise HTTPException(400, f"an offer has at most {MAX_CANDIDATES} candidates")
        try:
            description = await server.answer(RTCSessionDescription(offer.sdp, offer.type), offer.consent)
        except ServerFull as error:
            metrics.refused.labels("full").inc()
            raise HTTPException(503, str(error), headers={"Retry-After": "10"}) from error
        except ValueError as error:
            metrics.refused.labels("offer").inc()
            raise HTTPException(400, str(error)) from error
        return {"sdp": description.sdp, "type": description.type}

    app.mount("/static", StaticFiles(directory=str(_STATIC)), name="static")
    if options.is_loopback:  # a page elsewhere whose name was made to point here is not one of ours
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=["localhost", "127.0.0.1", "[::1]"])
    return app


def run(
    server: LiveServer,
    certificate: Path | None = None,
    key: Path | None = None,
    sockets: list[socket.socket] | None = None,
) -> None:
    """Serve until interrupted.

    Args:
        certificate, key: PEM files for HTTPS, which browsers want of any host but localhost.
        sockets: that listen already; None opens the options' host and port.

    Raises:
        OSError: they cannot be opened.
    """
    sockets = sockets or listen(server.options.host, server.options.port)
    config = uvicorn.Config(
        create_app(server),
        ssl_certfile=certificate,
        ssl_keyfile=key,
        log_level="warning",
        timeout_graceful_shutdown=5,
    )
    with suppress(KeyboardInterrupt):
        uvicorn.Server(config).run(sockets)
