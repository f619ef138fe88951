"""A live server of a tiny real pipeline inside the test's own event loop, and clients for it."""

import asyncio
import gc
import os
import threading
from collections import Counter
from contextlib import asynccontextmanager
from pathlib import Path

import uvicorn
from aiortc.mediastreams import AudioStreamTrack, VideoStreamTrack
from streamer_pipeline import StreamerPipeline
from streamer_pipeline.serve import Capacity, LiveServer, ServeOptions
from streamer_pipeline.serve.app import configure
from streamer_pipeline.serve.client import LiveClient
from streamer_pipeline.serve.listening import listen
from tiny_parts import SIZE, tiny_pipeline

PATIENCE = 60.0  # seconds; only a test that fails waits so long


def options(**changes) -> ServeOptions:
    return ServeOptions(
        **{
            "height": SIZE[0],
            "width": SIZE[1],
            "connect_seconds": PATIENCE,
            "hung_seconds": PATIENCE,
            "resume_seconds": 0,
        }
        | changes
    )


@asynccontextmanager
async def live_server(num_sessions: int = 1, pipeline: StreamerPipeline | None = None, **changes):
    """(LiveServer, its address) on a free port of loopback; of a tiny pipeline if none is given."""
    capacity = Capacity(num_sessions, 1, (1.0,), f"max_sessions is {num_sessions}")
    server = LiveServer(pipeline or tiny_pipeline(), options(max_sessions=num_sessions, **changes), capacity)
    sockets = listen("127.0.0.1", 0)
    http = uvicorn.Server(configure(server))
    serving = asyncio.create_task(http.serve(sockets))
    while not http.started:
        await asyncio.sleep(0.01)
    port = sockets[0].getsockname()[1]
    try:
        yield server, f"http://127.0.0.1:{port}"
    finally:
        http.should_exit = True
        await serving


def client(url: str, **changes) -> LiveClient:
    """A user who is silent before a green wall, 640x480 at 30 fps."""
    return LiveClient(url, **{"audio": AudioStreamTrack(), "video": VideoStreamTrack()} | changes)


async def message(messages, **wanted) -> dict:
    """The first message with these fields."""
    async with asyncio.timeout(PATIENCE):
        async for each in messages:
            if wanted.items() <= each.items():
                return each
    raise AssertionError(f"the conversation ended without {wanted}")


async def unit_from(caller: LiveClient, index: int) -> dict:
    """A unit of at least this index: one that is silent may be shed."""
    async with asyncio.timeout(PATIENCE):
        async for unit in caller.messages():
            if unit["index"] >= index:
                return unit
    raise AssertionError(f"the conversation ended before unit {index}")


async def until(condition) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.02)


def leftovers() -> Counter:
    """Threads, tasks and open files (sockets) that exist now, without the threads of pools, which are kept."""
    gc.collect()
    threads = [each for each in threading.enumerate() if not each.name.startswith(("live", "asyncio"))]
    return Counter(threads=len(threads), tasks=len(asyncio.all_tasks()), files=len(os.listdir("/proc/self/fd")))


def resident_mib() -> float:
    """Memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") / 2**20
