"""The HTTP side of a live server: the page, what the protocols need, health, metrics."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from importlib.resources import files
from pathlib import Path

import uvicorn
from fastapi import Depends, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.middleware.trustedhost import TrustedHostMiddleware
from fastapi.responses import FileResponse, JSONResponse
from fastapi.staticfiles import StaticFiles
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from ..media.marks import GENERATED
from .connections import BoundedProtocol
from .gate import Gate
from .listening import listen
from .protocols import moshi, page, pipecat, realtime
from .server import LiveServer

_STATIC = files("streamer_pipeline") / "serve" / "static"
MAX_BODY_BYTES = 64 * 1024
_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


def create_app(server: LiveServer) -> FastAPI:
    """The application of a live server: `/`, `/about`, `/healthz`, `/metrics`, and the routes of every protocol."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await server.close()

    app = FastAPI(title="open Wan-Streamer", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    options, metrics = server.options, server.metrics
    gate = Gate(server)

    @app.middleware("http")
    async def guard(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        length = request.headers.get("content-length", "0")
        if not length.isdigit() or int(length) > MAX_BODY_BYTES:
            metrics.refused.labels("size").inc()
            return Response("the body is too large", 413)
        if "transfer-encoding" in request.headers:
            return Response("send the body with its Content-Length", 411)
        response = await call_next(request)
        response.headers.update(_HEADERS)
        return response

    @app.exception_handler(RequestValidationError)
    async def refuse(_: Request, error: RequestValidationError) -> Response:
        """One sentence; not what was sent, which need not be valid Unicode."""
        metrics.refused.labels("body").inc()
        wrong = "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors())
        sentence = f"the body is not as it should be ({wrong})".encode(errors="replace").decode()
        return JSONResponse({"detail": sentence}, 400)

    @app.get("/")
    def show_page() -> FileResponse:
        return FileResponse(str(_STATIC / "index.html"))

    @app.get("/about")
    def about() -> dict[str, object]:
        """What the page needs to know before it connects, and what the media are."""
        return {
            "is_generated": True,
            "digital_source_type": GENERATED,
            "recording": options.record is not None,
            "token_needed": bool(options.token),
            "height": options.height,
            "width": options.width,
            "suggestions": options.suggestions,
        }

    @app.get("/healthz")
    def health() -> dict[str, object]:
        return {"status": "ok", "sessions": server.num_sessions, "capacity": server.capacity.num_sessions}

    @app.get("/metrics", dependencies=[Depends(gate.check_token)])
    def show_metrics() -> Response:
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    for protocol in (page, realtime, moshi, pipecat):
        app.include_router(protocol.routes(gate))
    app.mount("/static", StaticFiles(directory=str(_STATIC)), name="static")
    if options.origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=options.origins,
            allow_methods=["GET", "POST", "PATCH"],
            allow_headers=["Authorization", "Content-Type"],
            expose_headers=["Location"],
        )
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
    with suppress(KeyboardInterrupt):
        uvicorn.Server(configure(server, certificate, key)).run(sockets)


def configure(server: LiveServer, certificate: Path | None = None, key: Path | None = None) -> uvicorn.Config:
    """How uvicorn serves a live server; arguments as of `run`."""
    return uvicorn.Config(
        create_app(server),
        http=BoundedProtocol,
        ssl_certfile=certificate,
        ssl_keyfile=key,
        log_level="warning",
        timeout_graceful_shutdown=5,
    )
