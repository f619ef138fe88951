"""The live server, met by real clients over loopback: what a user gets, and that nothing of them is left behind."""

import asyncio
import json
import os
from itertools import pairwise
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

pytest.importorskip("aiortc", reason="the extra [serve] is not installed")

from aiortc import RTCPeerConnection
from aiortc.mediastreams import MediaStreamTrack
from live_server import client, leftovers, live_server, message, resident_mib, unit_from, until
from streamer_pipeline import RecordingReader
from streamer_pipeline.media.marks import GENERATED
from streamer_pipeline.serve.client import CallRefused

pytestmark = pytest.mark.alone
# SOAK=1 is what a server meets in a day.
NUM_CYCLES = 1000 if os.environ.get("SOAK") else 3


def run(coroutine):
    return asyncio.run(coroutine)


async def call(url: str, body: bytes | None = None, method: str | None = None, **headers) -> tuple[int, str]:
    """(status, text) of a GET, or of a POST with a body, if no method is said."""

    def blocking():
        try:
            with urlopen(
                Request(url, body, {name.replace("_", "-"): value for name, value in headers.items()}, method=method)
            ) as answer:
                return answer.status, answer.read().decode()
        except HTTPError as error:
            return error.code, error.read().decode()

    return await asyncio.to_thread(blocking)


class Frozen(MediaStreamTrack):
    """A microphone that never gives anything."""

    kind = "audio"

    async def recv(self):
        await asyncio.Event().wait()


def test_a_client_gets_pictures_40_ms_apart_and_sound():
    async def talk():
        async with live_server() as (_, url), client(url) as caller:
            pictures = [await caller.video.recv() for _ in range(30)]
            packets = [await caller.audio.recv() for _ in range(60)]
            unit = await unit_from(caller, 0)
        assert {(frame.width > 0, frame.height > 0) for frame in pictures} == {(True, True)}
        assert {(b.pts - a.pts) % (90_000 // 25) for a, b in pairwise(pictures)} == {0}  # the network may lose some
        assert {(b.pts - a.pts) % (48_000 // 50) for a, b in pairwise(packets)} == {0}
        assert any(frame.to_ndarray().any() for frame in packets)
        assert unit["state"] in ("listen", "speak") and isinstance(unit["text"], str)

    run(talk())


def test_a_second_client_is_told_that_the_server_is_full_and_admitted_when_it_is_not():
    async def talk():
        async with live_server() as (server, url):
            async with client(url):
                with pytest.raises(CallRefused, match="full: 1 of 1 conversations"):
                    await client(url).__aenter__()
                assert json.loads((await call(f"{url}/healthz"))[1]) == {"status": "ok", "sessions": 1, "capacity": 1}
            await until(lambda: server.num_sessions == 0)
            async with client(url) as caller:
                await unit_from(caller, 0)

    run(talk())


def test_two_clients_talk_at_once():
    async def talk():
        async with live_server(num_sessions=2) as (_, url), client(url) as first, client(url) as second:
            for caller in (first, second):
                await unit_from(caller, 5)

    run(talk())


def test_clients_that_vanish_leave_nothing_behind():
    async def talk():
        async with live_server(**({"hung_seconds": 3.0} if NUM_CYCLES > 10 else {})) as (server, url):

            async def cycle(number: int) -> None:
                """Every tenth client stays without a word until it is hung up on; the others talk, then leave."""
                is_hung = number % 10 == 9
                async with client(url, **({"audio": Frozen()} if is_hung else {})) as caller:
                    await (until(lambda: not server.conversations) if is_hung else unit_from(caller, 0))
                await until(lambda: not server.conversations)

            # What is made once now exists: pools of threads, and the memory that each of them keeps, fill slowly.
            num_first = NUM_CYCLES // 4 or 1
            for number in range(num_first):
                await cycle(number)
            before, memory = leftovers(), resident_mib()
            print(f"after {num_first} clients {memory:.0f} MiB")
            for number in range(num_first, NUM_CYCLES):
                await cycle(number)
            print(f"after {NUM_CYCLES} clients {resident_mib():.0f} MiB")
            await until(lambda: leftovers() <= before)
            assert server.num_sessions == 0
            assert resident_mib() < memory + 64

    run(talk())


@pytest.mark.parametrize(
    ("reason", "options"),
    [
        ("hung", {"hung_seconds": 0.5}),
        ("idle", {"idle_seconds": 0.5}),
        ("limit", {"max_seconds": 0.5}),
    ],
)
def test_who_is_hung_idle_or_has_talked_long_enough_is_hung_up_on(reason, options):
    async def talk():
        async with live_server(**options) as (server, url):
            async with client(url, **({"audio": Frozen()} if reason == "hung" else {})):
                await until(lambda: server.num_sessions == 0)
            ended = server.metrics.registry.get_sample_value("wan_streamer_ended_total", {"reason": reason})
            assert ended == 1

    run(talk())


def test_an_offer_that_never_becomes_a_connection_gives_its_place_back():
    async def talk():
        async with live_server(connect_seconds=0.5) as (server, url):
            offer = await offer_of_nobody()
            assert (await call(f"{url}/offer", offer, Content_Type="application/json"))[0] == 200
            assert server.num_sessions == 1
            await until(lambda: server.num_sessions == 0)

    run(talk())


async def offer_of_nobody() -> bytes:
    """The body of an offer, without calling."""
    connection = RTCPeerConnection()
    connection.createDataChannel("talk")
    connection.addTransceiver("audio")
    connection.addTransceiver("video")
    await connection.setLocalDescription(await connection.createOffer())
    description = connection.localDescription
    await connection.close()
    return json.dumps({"sdp": description.sdp, "type": "offer"}).encode()


def test_wrong_offers_are_refused_in_words():
    async def talk():
        async with live_server() as (server, url):
            json_type = {"Content_Type": "application/json"}
            for body in (
                b"",
                b"{",
                b'{"sdp": "nonsense", "type": "offer"}',
                b'{"sdp": "v=0", "type": "answer"}',
                b"[]",
            ):
                status, _ = await call(f"{url}/offer", body, **json_type)
                assert status in (400, 422), body
            huge = json.dumps({"sdp": "v" * 70_000, "type": "offer"}).encode()
            assert (await call(f"{url}/offer", huge, **json_type))[0] == 413
            many = json.dumps({"sdp": "a=candidate:\n" * 100, "type": "offer"}).encode()
            assert "candidates" in (await call(f"{url}/offer", many, **json_type))[1]
            await until(lambda: server.num_sessions == 0)
            assert 'refused_total{reason="offer"}' in (await call(f"{url}/metrics"))[1]

    run(talk())


def test_token_origin_and_host_are_checked():
    async def talk():
        async with live_server(token="secret") as (server, url):
            offer = await offer_of_nobody()
            good = {"Content_Type": "application/json", "Authorization": "Bearer secret"}
            assert (await call(f"{url}/offer", offer, Content_Type="application/json"))[0] == 401
            assert (await call(f"{url}/offer", offer, **good | {"Authorization": "Bearer wrong"}))[0] == 401
            assert (await call(f"{url}/offer", offer, **good, Origin="https://elsewhere.example"))[0] == 403
            assert (await call(f"{url}/offer", offer, **good, Host="elsewhere.example"))[0] == 400
            assert (await call(f"{url}/metrics"))[0] == 401
            assert server.num_sessions == 0
            with pytest.raises(CallRefused, match="token"):
                await client(url).__aenter__()
            async with client(url, token="secret") as caller:
                await unit_from(caller, 0)

    run(talk())


def test_messages_are_checked_and_a_flood_ends_the_conversation():
    async def talk():
        async with live_server() as (_, url), client(url) as caller:
            messages = caller.messages(None)
            half_a_pair = {"type": "text", "text": "\ud83d"}
            for wrong in ([], {"type": "shell"}, {"type": "text", "text": ""}, half_a_pair, {"type": "ping", "id": -1}):
                caller.send(wrong)
                await message(messages, type="error")
            caller.send({"type": "ping", "id": 7})
            await message(messages, type="pong", id=7)
            for number in range(100):
                caller.send({"type": "ping", "id": number})
            await message(messages, type="bye", reason="rate")
        async with live_server() as (_, url), client(url) as caller:
            caller.say("x" * 10_000)
            await message(caller.messages(None), type="bye", reason="message")

    run(talk())


def test_what_is_typed_reaches_the_model_and_is_recorded_only_with_consent(tmp_path: Path):
    async def talk():
        async with live_server(record=tmp_path) as (server, url):
            async with client(url) as caller:
                assert not (await message(caller.messages(None), type="hello"))["recording"]
                await unit_from(caller, 2)
            await until(lambda: server.num_sessions == 0)
            assert list(tmp_path.iterdir()) == []
            async with client(url, consent=True) as caller:
                assert (await message(caller.messages(None), type="hello"))["recording"]
                await unit_from(caller, 2)
                caller.say("how are you")
                await unit_from(caller, 12)
            await until(lambda: server.num_sessions == 0)

    run(talk())
    (folder,) = tmp_path.iterdir()
    lines = [json.loads(line) for line in (folder / "units.jsonl").read_text().splitlines()]
    assert [line["index"] for line in lines] == list(range(len(lines)))
    assert [line["typed"] for line in lines if line["typed"]] == ["how are you"]
    assert (folder / "transcript.srt").exists()
    films = [RecordingReader(folder / name) for name in ("user.mp4", "agent.mp4")]
    assert [film.num_units for film in films] == [len(lines)] * 2


def test_the_page_and_all_it_needs_are_served_here():
    async def talk():
        async with live_server() as (_, url):
            status, page = await call(f"{url}/")
            assert status == 200 and "http" not in page.replace("http://www.w3.org", "")
            for name in ("app.js", "style.css", "icon.svg"):
                assert f"/static/{name}" in page
                assert (await call(f"{url}/static/{name}"))[0] == 200
            assert (await call(f"{url}/static/../app.py"))[0] == 404
            assert "wan_streamer_unit_seconds" in (await call(f"{url}/metrics"))[1]
            about = json.loads((await call(f"{url}/about"))[1])
            assert about["is_generated"] and about["digital_source_type"] == GENERATED and "is an AI" in page

    run(talk())
