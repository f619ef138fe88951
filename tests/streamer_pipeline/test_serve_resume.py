"""A line that was lost is not the end: the conversation waits, and goes on by another line where it was."""

import asyncio
import json

import pytest

pytest.importorskip("aiortc", reason="the extra [serve] is not installed")

from aiortc import RTCPeerConnection, RTCSessionDescription
from live_server import client, live_server, message, unit_from, until
from lossy_line import LossyLine
from streamer_pipeline.serve import ServeOptions
from streamer_pipeline.serve.client import CallRefused
from streamer_pipeline.serve.ice import IceServer
from test_serve import call

pytestmark = pytest.mark.alone
CUT_SECONDS = 5


def test_a_conversation_goes_on_by_another_line_after_the_network_was_cut():
    async def talk():
        async with live_server(hung_seconds=2.0, resume_seconds=30.0) as (server, url):
            first = await client(url).__aenter__()
            last = (await unit_from(first, 8))["index"]
            (conversation,) = server.conversations.values()
            LossyLine(first).loss = 1.0
            await asyncio.sleep(CUT_SECONDS)
            with pytest.raises(CallRefused, match="full"):  # its place is kept
                await client(url).__aenter__()
            async with client(url, resume=first.id) as second:
                assert (await message(second.messages(None), type="hello"))["session"] == conversation.number
                await unit_from(second, last + 5)  # the session's own count: it did not begin again
                assert list(server.conversations.values()) == [conversation]
                await first.__aexit__(None, None, None)  # the old line is nobody's: this ends nothing
                await unit_from(second, (await unit_from(second, 0))["index"] + 5)
            await until(lambda: server.num_sessions == 0)

    asyncio.run(talk())


def test_who_does_not_come_back_in_time_is_not_waited_for_and_ids_are_not_guessed():
    async def talk():
        async with live_server(hung_seconds=0.5, resume_seconds=1.0) as (server, url):
            caller = await client(url).__aenter__()
            await unit_from(caller, 0)
            with pytest.raises(CallRefused, match="over"):
                await client(url, resume="guessed").__aenter__()
            LossyLine(caller).loss = 1.0
            await until(lambda: server.num_sessions == 0)
            assert server.metrics.registry.get_sample_value("wan_streamer_ended_total", {"reason": "lost"}) == 1
            with pytest.raises(CallRefused, match="over"):
                await client(url, resume=caller.id).__aenter__()
            await caller.__aexit__(None, None, None)

    asyncio.run(talk())


async def send(url: str, method: str, path: str, body: dict) -> tuple[int, dict]:
    status, answer = await call(url + path, json.dumps(body).encode(), method, Content_Type="application/json")
    return status, json.loads(answer or "{}")


def test_a_client_may_tell_its_addresses_after_its_offer():
    async def talk():
        async with live_server() as (server, url):
            connection = RTCPeerConnection()
            channel = connection.createDataChannel("talk")
            for kind in ("audio", "video"):
                connection.addTransceiver(kind)
            opened = asyncio.get_running_loop().create_future()
            channel.on("message", lambda text: None if opened.done() else opened.set_result(json.loads(text)))
            await connection.setLocalDescription(await connection.createOffer())
            lines = connection.localDescription.sdp.splitlines()
            bare = [line for line in lines if not line.startswith(("a=candidate", "a=end-of-candidates"))]
            _, answer = await send(url, "POST", "/offer", {"sdp": "\r\n".join(bare) + "\r\n", "type": "offer"})
            await connection.setRemoteDescription(RTCSessionDescription(answer["sdp"], answer["type"]))
            path = f"/offer/{answer['id']}"
            for wrong in ("candidate:x", "candidate:1 1 udp x 127.0.0.1 9 typ host"):
                status, said = await send(url, "PATCH", path, {"candidates": [{"candidate": wrong, "sdpMid": "0"}]})
                assert status == 400 and "RTCIceCandidate" in said["detail"]
            found = [line.removeprefix("a=") for line in lines if line.startswith("a=candidate")]
            candidates = [{"candidate": each, "sdpMid": "0", "usernameFragment": "x"} for each in found]
            assert await send(url, "PATCH", path, {"candidates": [*candidates, None]}) == (204, {})
            assert (await send(url, "PATCH", "/offer/guessed", {"candidates": []}))[0] == 204
            assert (await send(url, "PATCH", "/offer/guessed", {"candidates": [None]}))[0] == 404
            async with asyncio.timeout(30):
                assert (await opened)["type"] == "hello"
            await connection.close()
            await until(lambda: server.num_sessions == 0)

    asyncio.run(talk())


def test_ice_servers_are_checked_and_told_to_those_who_have_the_token():
    turn = IceServer.parse("turn:me:secret@[::1]:3478?transport=tcp")
    assert turn == IceServer("turn:[::1]:3478?transport=tcp", "me", "secret")
    for wrong in ("stun", "turn:example.org", "stun:me:secret@example.org", "http://example.org", "turn:a:b@c d"):
        with pytest.raises(ValueError, match="turn:USER:SECRET@HOST"):
            IceServer.parse(wrong)
    with pytest.raises(ValueError, match="resume_seconds"):
        ServeOptions(resume_seconds=-1)

    async def ask():
        async with live_server(token="secret", ice_servers=(IceServer.parse("stun:localhost"), turn)) as (_, url):
            assert (await call(f"{url}/ice-servers"))[0] == 401
            status, told = await call(f"{url}/ice-servers", Authorization="Bearer secret")
            assert (status, json.loads(told)) == (
                200,
                [
                    {"urls": "stun:localhost"},
                    {"urls": "turn:[::1]:3478?transport=tcp", "username": "me", "credential": "secret"},
                ],
            )

    asyncio.run(ask())
