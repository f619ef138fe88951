"""What strangers send to a live server: each is refused in a sentence, nobody's place is lost, and others get in."""

import asyncio
import json
import re

import pytest

pytest.importorskip("aiortc", reason="the extra [serve] is not installed")

from aiortc import RTCPeerConnection
from live_server import client, live_server, message, unit_from, until
from streamer_pipeline.serve import connections
from test_serve import call

pytestmark = pytest.mark.alone


async def offer_of(*kinds: str) -> str:
    """The session description of a client with these tracks, that never comes."""
    connection = RTCPeerConnection()
    connection.createDataChannel("talk")
    for kind in kinds:
        connection.addTransceiver(kind)
    await connection.setLocalDescription(await connection.createOffer())
    sdp = connection.localDescription.sdp
    await connection.close()
    return sdp


async def broken_offers() -> dict[str, str]:
    """Offers that no conversation can come of, and what is said of each."""
    good = await offer_of("audio", "video")
    return {
        good.replace("a=group:BUNDLE", "a=group:BUNDLE zz"): "bundles tracks that it does not have",
        await offer_of("video"): "one track of sound",
        await offer_of("audio", "audio", "video"): "one track of sound",
        re.sub(r"a=rtpmap:(\d+) \w+/", r"a=rtpmap:\1 NONE/", good): "none of the codecs",
        good.replace("s=-", "s=\ud83d"): "not as it should be",
        re.sub(r"a=fingerprint.*", "a=x", good): "fingerprint",
        re.sub(r"a=setup.*", "a=x", good): "no role",
        re.sub(r"a=ice-ufrag.*", "a=x", good): "ICE user name",
        good.replace("m=audio", "m=audio x"): "can be read",
        good.replace("a=end-of-candidates", "a=candidate:x"): "can be read",
    }


def test_broken_offers_are_refused_in_our_words_and_cost_no_place(caplog):
    async def talk():
        async with live_server() as (server, url):
            for sdp, said in (await broken_offers()).items():
                body = json.dumps({"sdp": sdp, "type": "offer"}).encode()
                status, answer = await call(f"{url}/offer", body, Content_Type="application/json")
                assert status == 400 and said in json.loads(answer)["detail"], said
                await until(lambda: server.num_sessions == 0)
            async with client(url) as caller:
                await unit_from(caller, 0)

    asyncio.run(talk())
    assert not [record for record in caplog.records if record.exc_info]


def test_connections_that_never_finish_a_request_are_closed_and_others_get_in(monkeypatch, caplog):
    monkeypatch.setattr(connections, "REQUEST_SECONDS", 1.0)
    monkeypatch.setattr(connections, "max_connections", lambda: 40)
    monkeypatch.setattr(connections.BoundedProtocol, "_told_at", float("-inf"))

    async def is_closed(reader: asyncio.StreamReader) -> bool:
        try:
            return await reader.read() == b""
        except ConnectionError:
            return True

    async def flood():
        async with live_server() as (_, url):
            port = int(url.rsplit(":", 1)[1])
            lines = [await asyncio.open_connection("127.0.0.1", port) for _ in range(60)]
            for number, (_, writer) in enumerate(lines):
                whole = b"POST /offer HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n{"  # but for its body
                writer.write(whole if number % 2 else whole[:30])
            async with asyncio.timeout(30):
                assert all([await is_closed(reader) for reader, _ in lines])
            assert (await call(f"{url}/healthz"))[0] == 200
            for _, writer in lines:
                writer.close()

    asyncio.run(flood())
    assert len([record for record in caplog.records if "connections at once" in record.message]) == 1


def test_who_consents_is_told_that_nothing_is_recorded_where_the_folder_has_gone(tmp_path):
    async def talk():
        folder = tmp_path / "gone"
        async with live_server(record=folder) as (_, url):
            folder.write_text("a file, where the folder was")
            async with client(url, consent=True) as caller:
                assert not (await message(caller.messages(None), type="hello"))["recording"]
                await unit_from(caller, 0)

    asyncio.run(talk())


def test_words_beyond_what_the_agent_can_take_in_are_refused_in_words():
    async def talk():
        async with live_server() as (_, url), client(url) as caller:
            for _ in range(15):
                caller.say("hello there how are you " * 20)
                await asyncio.sleep(0.06)
            refused = await message(caller.messages(None), type="error")
            assert "wait" in refused["message"]
            await unit_from(caller, 0)

    asyncio.run(talk())
