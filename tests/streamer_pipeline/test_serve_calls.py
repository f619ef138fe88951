"""The protocols that come by WebRTC, apart from the page's own: how a call begins, goes on and ends."""

import asyncio
import json
from contextlib import asynccontextmanager

import pytest

pytest.importorskip("aiortc", reason="the extra [serve] is not installed")

from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from aiortc.mediastreams import AudioStreamTrack
from live_server import live_server, until
from test_serve import call

pytestmark = pytest.mark.alone
PATIENCE = 60.0
JSON = {"Content_Type": "application/json"}
SDP = {"Content_Type": "application/sdp"}


class Caller:
    """A connection with a microphone, perhaps a place for a picture, and a data channel whose messages are kept."""

    def __init__(self, label: str, *kinds: str) -> None:
        self.connection = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        self.channel = self.connection.createDataChannel(label)
        self.messages: asyncio.Queue[dict] = asyncio.Queue()
        self.tracks = {}
        self.channel.on("message", lambda data: self.messages.put_nowait(json.loads(data)))
        self.connection.on("track", lambda track: self.tracks.setdefault(track.kind, track))
        if "audio" in kinds:
            self.connection.addTrack(AudioStreamTrack())
        for _ in range(kinds.count("video")):
            self.connection.addTransceiver("video", direction="recvonly")

    async def offer(self) -> str:
        await self.connection.setLocalDescription(await self.connection.createOffer())
        return self.connection.localDescription.sdp

    async def accept(self, sdp: str) -> None:
        await self.connection.setRemoteDescription(RTCSessionDescription(sdp, "answer"))
        await until(lambda: self.channel.readyState == "open")

    def send(self, message: dict) -> None:
        self.channel.send(json.dumps(message))

    async def message(self, kind: str) -> dict:
        async with asyncio.timeout(PATIENCE):
            while (message := await self.messages.get())["type"] != kind:
                pass
        return message


@asynccontextmanager
async def caller(*arguments):
    made = Caller(*arguments)
    yield made
    await made.connection.close()


def rtvi(kind: str, data: dict | None = None) -> dict:
    return {"label": "rtvi-ai", "type": kind, "id": "mine", "data": data or {}}


def small_offer(sdp: str, **more) -> bytes:
    return json.dumps({"sdp": sdp, "type": "offer", **more}).encode()


async def start_small(url: str, calling: Caller, **more) -> str:
    """The pc_id of a call by SmallWebRTC that stands."""
    sdp = (await calling.offer()).replace("a=end-of-candidates\r\n", "")
    status, answer = await call(f"{url}/api/offer", small_offer(sdp, **more), **JSON)
    assert status == 200, answer
    answer = json.loads(answer)
    await calling.accept(answer["sdp"])
    return answer["pc_id"]


# ---- OpenAI's calls ----


def test_a_call_has_sound_by_track_and_events_by_channel():
    async def talk():
        async with live_server() as (server, url), caller("oai-events", "audio") as calling:
            status, answer = await call(f"{url}/v1/realtime/calls?model=any", (await calling.offer()).encode(), **SDP)
            assert status == 201 and "m=audio" in answer and "m=video" not in answer
            await calling.accept(answer)
            assert (await calling.message("session.created"))["session"]["model"] == "wan-streamer"
            calling.send({"type": "input_audio_buffer.append", "audio": "AAAA", "event_id": "mine"})
            refused = (await calling.message("error"))["error"]
            assert "track" in refused["message"] and refused["event_id"] == "mine"
            calling.send({"type": "output_audio_buffer.clear"})
            await calling.message("output_audio_buffer.cleared")
            packets = [await calling.tracks["audio"].recv() for _ in range(100)]
            assert any(packet.to_ndarray().any() for packet in packets)  # 2 s: sound alone waits for no picture
            assert server.num_sessions == 1
        await until(lambda: server.num_sessions == 0)

    asyncio.run(talk())


def test_a_call_with_a_place_for_a_picture_gets_the_agents():
    async def talk():
        async with live_server() as (_, url), caller("oai-events", "audio", "video") as calling:
            await calling.accept((await call(f"{url}/v1/realtime/calls", (await calling.offer()).encode(), **SDP))[1])
            assert (await calling.tracks["video"].recv()).width > 0

    asyncio.run(talk())


@pytest.mark.parametrize("path", ["/v1/realtime/calls", "/api/offer"])
def test_what_is_no_offer_is_refused_in_words_and_costs_no_place(path):
    def body(sdp: str) -> bytes:
        return sdp.encode(errors="surrogatepass") if "realtime" in path else small_offer(sdp)

    async def talk():
        async with live_server() as (server, url), caller("any", "video") as picture_only:
            kind = SDP if "realtime" in path else JSON
            good = await picture_only.offer()
            broken = good.replace("a=group:BUNDLE", "a=group:BUNDLE nobody")
            for sdp in ("", "nonsense", "v=0", good, broken, "\ud83d", good.replace("VP8", "V99")):
                status, said = await call(f"{url}{path}", body(sdp), **kind)
                assert status == 400 and json.loads(said)["detail"]
            assert "one track of sound" in (await call(f"{url}{path}", body(good), **kind))[1]
            other = "text/plain" if "realtime" in path else "application/sdp"
            assert (await call(f"{url}{path}", body(good), Content_Type=other))[0] in (400, 415)
            await until(lambda: server.num_sessions == 0)

    asyncio.run(talk())


@pytest.mark.parametrize("path", ["/v1/realtime/calls", "/api/offer"])
def test_calls_go_through_the_gate(path):
    async def talk():
        async with live_server(token="secret", origins=("https://friend.example",)) as (server, url):
            bearer = {"Authorization": "Bearer secret"}
            assert (await call(f"{url}{path}", b"v=0"))[0] == 401
            assert (await call(f"{url}{path}", b"v=0", **bearer, Origin="https://elsewhere.example"))[0] == 403
            assert (await call(f"{url}{path}", b"v=0", **bearer, Origin="https://friend.example"))[0] in (400, 415)
            assert server.num_sessions == 0

    asyncio.run(talk())


# ---- Pipecat's SmallWebRTC ----


def test_rtvi_messages_are_answered_and_what_is_unknown_ends_nothing():
    async def talk():
        async with live_server() as (server, url), caller("chat", "audio", "video", "video") as calling:
            await start_small(url, calling)
            calling.channel.send("ping: 1")
            calling.send({"type": "signalling", "message": {"type": "trackStatus", "receiver_index": 0}})
            calling.send(rtvi("client-ready", {"version": "2.1.0"}))
            assert (await calling.message("bot-ready"))["id"] == "mine"
            for wrong, said in (
                (rtvi("send-text", {"content": ""}), "1 to 500"),
                (rtvi("send-text", {"text": 1}), "other data"),
                (rtvi("dtmf"), "not supported"),
            ):
                calling.send(wrong)
                answer = await calling.message("error-response")
                assert said in answer["data"]["error"] and answer["id"] == "mine"
            calling.send(rtvi("send-text", {"content": "hello there"}))
            assert (await calling.tracks["video"].recv()).width > 0
            assert server.num_sessions == 1
            calling.send(rtvi("disconnect-bot"))
            await until(lambda: server.num_sessions == 0)

    asyncio.run(talk())


def test_candidates_come_later_and_who_comes_back_goes_on_with_the_same_conversation():
    async def patch(url: str, **body) -> tuple[int, str]:
        return await call(f"{url}/api/offer", json.dumps(body).encode(), "PATCH", **JSON)

    async def talk():
        async with live_server() as (server, url):
            async with caller("chat", "audio", "video") as first, caller("chat", "audio", "video") as second:
                pc_id = await start_small(url, first)
                (conversation,) = server.conversations.values()
                line = conversation.line
                one = {"candidate": "candidate:1 1 udp 1 127.0.0.1 9 typ host", "sdp_mid": "0", "sdp_mline_index": 0}
                assert (await patch(url, pc_id=pc_id, candidates=[one]))[0] == 200
                ice = line._connection.sctp.transport.transport
                assert any(each.port == 9 for each in ice.getRemoteCandidates())
                assert (await patch(url, pc_id="nobody", candidates=[one]))[0] == 404
                status, said = await patch(url, pc_id=pc_id, candidates=[one | {"candidate": "candidate:nonsense"}])
                assert status == 400 and "a candidate is" in said
                wrong = small_offer("nonsense", pc_id=pc_id, restart_pc=True)
                assert (await call(f"{url}/api/offer", wrong, **JSON))[0] == 400
                assert conversation.line is line and server.num_sessions == 1
                assert await start_small(url, second, pc_id=pc_id, restart_pc=True) == pc_id
                second.send(rtvi("client-ready"))
                await second.message("bot-ready")
                assert (await second.tracks["video"].recv()).width > 0
                assert list(server.conversations.values()) == [conversation] and conversation.line is not line
                await until(lambda: first.connection.connectionState == "closed")
                assert not conversation.has_ended
            await until(lambda: server.num_sessions == 0)

    asyncio.run(talk())


def test_pages_of_allowed_origins_may_ask_and_no_others():
    async def talk():
        async with live_server(origins=("https://friend.example",)) as (_, url):
            asked = {"Access-Control-Request-Method": "PATCH", "Access-Control-Request-Headers": "authorization"}
            friend = await call(f"{url}/api/offer", None, "OPTIONS", Origin="https://friend.example", **asked)
            assert friend[0] == 200
            stranger = await call(f"{url}/api/offer", None, "OPTIONS", Origin="https://elsewhere.example", **asked)
            assert stranger[0] == 400

    asyncio.run(talk())
