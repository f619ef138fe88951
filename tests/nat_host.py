"""What the two hosts of the test behind NATs run: a live server of tiny parts, or a client that talks to it.

python tests/nat_host.py serve PORT [ICE_SERVER ...]
python tests/nat_host.py talk URL
"""

import asyncio
import sys

from aiortc.mediastreams import AudioStreamTrack, VideoStreamTrack
from streamer_pipeline.serve import Capacity, LiveServer, ServeOptions, run
from streamer_pipeline.serve.client import CallRefused, LiveClient
from streamer_pipeline.serve.ice import IceServer
from tiny_parts import SIZE, tiny_pipeline

TOKEN = "secret"


def serve(port: str, *ice_servers: str) -> None:
    options = ServeOptions(
        host="0.0.0.0",
        port=int(port),
        token=TOKEN,
        ice_servers=tuple(map(IceServer.parse, ice_servers)),
        height=SIZE[0],
        width=SIZE[1],
        connect_seconds=60.0,
    )
    server = LiveServer(tiny_pipeline(), options, Capacity(1, 1, (1.0,), "this is a test"))
    run(server)


def talk(url: str) -> None:
    """Print "heard NUMBER" after ten units, or why there is no conversation."""
    asyncio.run(_talk(url))


async def _talk(url: str) -> None:
    try:
        async with LiveClient(url, AudioStreamTrack(), VideoStreamTrack(), token=TOKEN) as client:
            frame = await client.video.recv()
            async for unit in client.messages():
                if unit["index"] >= 10:
                    print(f"heard {unit['index']}, saw {frame.width}x{frame.height}")
                    return
    except CallRefused as error:
        print(f"refused: {error}")


if __name__ == "__main__":
    {"serve": serve, "talk": talk}[sys.argv[1]](*sys.argv[2:])
