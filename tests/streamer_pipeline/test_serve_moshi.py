"""Moshi's protocol, met by a client that writes and reads every byte of it by itself, and Opus by FFmpeg."""

import asyncio
import io
import struct

import av
import numpy as np
import pytest

pytest.importorskip("aiortc", reason="the extra [serve] is not installed")
pytest.importorskip("sphn", reason="the extra [moshi] is not installed")

from live_server import live_server, until
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

pytestmark = pytest.mark.alone
PATIENCE = 60.0


def opus_pages(seconds: float) -> bytes:
    """A tone as Ogg Opus, 24 kHz, mono, from FFmpeg."""
    out = io.BytesIO()
    with av.open(out, "w", format="ogg", options={"page_duration": "20000"}) as container:
        stream = container.add_stream("libopus", rate=24_000, layout="mono")
        wave = 0.3 * np.sin(2 * np.pi * 440 * np.arange(int(24_000 * seconds)) / 24_000)
        frame = av.AudioFrame.from_ndarray((wave * 32767).astype(np.int16)[None], "s16", "mono")
        frame.sample_rate = 24_000
        container.mux([*stream.encode(frame), *stream.encode(None)])
    return out.getvalue()


def split_pages(data: bytes) -> list[bytes]:
    """Whole Ogg pages: 27 bytes of header, the last of which counts segments, their sizes, and they themselves."""
    pages = []
    while data:
        assert data[:5] == b"OggS\0"
        table = data[27 : 27 + data[26]]
        size = 27 + len(table) + sum(table)
        assert len(data) >= size
        pages.append(data[:size])
        data = data[size:]
    return pages


def packets(pages: list[bytes]) -> list[bytes]:
    """Packets of pages that are in order: a segment of 255 bytes goes on in the next."""
    found, unfinished = [], b""
    for number, page in enumerate(pages):
        assert struct.unpack("<I", page[18:22]) == (number,)
        place = 27 + page[26]
        for size in page[27:place]:
            unfinished += page[place : place + size]
            place += size
            if size < 255:
                found, unfinished = [*found, unfinished], b""
    return found


def decoded(found: list[bytes]) -> np.ndarray:
    head, tags, *sound = found
    assert head[:8] == b"OpusHead" and head[9] == 1 and tags[:8] == b"OpusTags"
    codec = av.CodecContext.create("libopus", "r")
    codec.sample_rate, codec.layout = 48_000, "mono"
    frames = [frame for packet in sound for frame in codec.decode(av.Packet(packet))]
    return np.concatenate([frame.to_ndarray().ravel() for frame in frames])


def chat(url: str, query: str = "", **more):
    return connect(f"{url.replace('http', 'ws')}/api/chat{query}", **more)


def test_opus_goes_both_ways_byte_by_byte(tmp_path):
    """The server is ready before anything else, its pages make one stream, and what it hears is what was sent."""

    async def talk():
        async with live_server(record=tmp_path) as (server, url):
            asked = "?voice_prompt=a.pt&text_prompt=be+kind&seed=1&consent=true"
            async with chat(url, asked) as socket, asyncio.timeout(PATIENCE):
                assert await socket.recv() == b"\x00"
                for page in split_pages(opus_pages(2.0)):
                    await socket.send(b"\x01" + page)
                messages = []
                while sum(len(message) > 1 and message[0] == 1 for message in messages) < 20:
                    messages.append(await socket.recv())
            await until(lambda: server.num_sessions == 0)
        return messages

    messages = asyncio.run(talk())
    assert {message[0] for message in messages} <= {1, 2}
    for message in messages:
        assert message[0] == 1 or message[1:].decode()
    sound = decoded(packets(split_pages(b"".join(message[1:] for message in messages if message[0] == 1))))
    assert abs(len(sound) / 48_000 - 20 * 0.16) < 0.1 and np.abs(sound).max() > 0.01
    (folder,) = tmp_path.iterdir()
    with av.open(folder / "user.mp4") as film:
        heard = np.concatenate([frame.to_ndarray().ravel() for frame in film.decode(audio=0)])
    assert np.abs(heard).max() > 0.2
    crossings = np.flatnonzero(np.diff(np.sign(heard[np.abs(heard) > 0.01]))).size
    assert 1.5 * 880 < crossings < 2.2 * 880  # two seconds of 440 Hz


def test_what_is_no_opus_is_said_and_ends_it_and_what_is_unknown_does_not():
    async def talk():
        async with live_server() as (server, url):
            async with chat(url) as socket, asyncio.timeout(PATIENCE):
                await socket.recv()
                for passed_over in (b"\x03\x00", b"\x06"):
                    await socket.send(passed_over)
                await socket.send(b"\x09")
                while (message := await socket.recv())[0] != 5:
                    pass
                assert b"begins with 0x01" in message and server.num_sessions == 1
                await socket.send(b"\x01" + bytes(100))
                while b"no stream of Ogg Opus" not in (message := await socket.recv()):
                    assert message[0] != 5
                with pytest.raises(ConnectionClosed):
                    while True:
                        await socket.recv()
            await until(lambda: server.num_sessions == 0)

    asyncio.run(talk())


def test_the_rules_of_the_server_hold_here_too():
    async def refused(status: int, url: str, **more) -> None:
        with pytest.raises(InvalidStatus) as error:
            async with chat(url, **more):
                pass
        assert error.value.response.status_code == status

    async def talk():
        async with live_server(token="secret", max_seconds=1.0) as (server, url):
            bearer = {"Authorization": "Bearer secret"}
            await refused(401, url)
            await refused(403, url, additional_headers=bearer, origin="https://elsewhere.example")
            async with chat(url, additional_headers=bearer) as socket, asyncio.timeout(PATIENCE):
                await refused(503, url, additional_headers=bearer)
                while (message := await socket.recv())[0] != 5:
                    pass
                assert b"ends after" in message
            await until(lambda: server.num_sessions == 0)

    asyncio.run(talk())
