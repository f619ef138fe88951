"""OpenAI's Realtime protocol over WebSocket: stock clients talk to the agent; events are what their types say."""

import asyncio
import base64
import json
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
import torch

pytest.importorskip("aiortc", reason="the extra [serve] is not installed")
pytest.importorskip("openai", reason="openai is not installed: requirements-dev.txt")

import openai
from live_server import leftovers, live_server, until
from openai.types.realtime import RealtimeServerEvent
from pydantic import TypeAdapter
from realtime_clients import answering, check_answer, needs, run_client, user_files
from streamer_pipeline import AgentUnit, StreamerPipeline
from streamer_pipeline.serve.protocols.realtime import EVENTS_PER_SECOND, RealtimeMessages
from streamer_pipeline.serve.websocket import PacedSound
from tiny_parts import SIZE
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

pytestmark = pytest.mark.alone
SERVER_EVENT = TypeAdapter(RealtimeServerEvent)
PATIENCE = 60.0
ANSWER = [
    *("response.created", "response.output_item.added", "conversation.item.added", "response.content_part.added"),
    *("response.output_audio_transcript.delta", "response.output_audio.delta", "response.output_audio.delta"),
    *("response.output_audio.done", "response.output_audio_transcript.done", "response.content_part.done"),
    *("conversation.item.done", "response.output_item.done", "response.done"),
]


def run(coroutine):
    return asyncio.run(coroutine)


def checked(event: dict) -> dict:
    """A server event that openai's own types take, every field of it."""
    SERVER_EVENT.validate_python(event)
    return event


async def next_event(socket, kind: str) -> dict:
    async with asyncio.timeout(PATIENCE):
        while (event := checked(json.loads(await socket.recv())))["type"] != kind:
            pass
    return event


async def answer_to(socket, event, kind: str = "error") -> dict:
    """The first event of this kind after sending `event`, a dict or raw text."""
    await socket.send(event if isinstance(event, str | bytes) else json.dumps(event))
    return await next_event(socket, kind)


def realtime(url: str, **more):
    return connect(f"{url.replace('http', 'ws')}/v1/realtime?model=wan-streamer", **more)


def unit(index: int, state: str, text: str = "") -> AgentUnit:
    level = 0.5 if state == "speak" else 0.0
    return AgentUnit(torch.full((1, 3840), level), torch.zeros(3, 4, *SIZE), text, state, index)


@asynccontextmanager
async def messages(server):
    """(RealtimeMessages of an admitted conversation, the events that it sent)."""
    conversation = await server.admit()
    sent = []
    yield RealtimeMessages(conversation, lambda event: sent.append(checked(event)), PacedSound()), sent
    conversation.hang_up("left")
    await conversation.closed()


def typed(text: str) -> dict:
    return item({"type": "input_text", "text": text})


def item(*content: dict, role: str = "user", **more) -> dict:
    return {"type": "conversation.item.create", "item": {"type": "message", "role": role, "content": content}, **more}


# ---- stock clients ----


@pytest.fixture(scope="module")
def pipeline() -> StreamerPipeline:
    return StreamerPipeline.from_pretrained()


def test_the_openai_package_talks_to_the_bundled_agent(pipeline, tmp_path):
    """It shows a picture and asks what it is; every event of the answer is as the package's types say."""
    sound, picture = user_files(tmp_path)

    async def talk():
        events = []
        async with answering(pipeline) as (_, url), asyncio.timeout(PATIENCE):
            client = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="secret")
            async with client.realtime.connect(model="wan-streamer") as connection:
                await connection.session.update(session={"type": "realtime", "instructions": "be friendly"})
                shown = f"data:image/jpeg;base64,{base64.b64encode(picture.read_bytes()).decode()}"
                await connection.send(item({"type": "input_image", "image_url": shown}))
                samples = sound.read_bytes()
                for start in range(0, len(samples), 9600):
                    piece = base64.b64encode(samples[start : start + 9600]).decode()
                    await connection.input_audio_buffer.append(audio=piece)
                while not events or events[-1]["type"] != "response.done":
                    events.append(checked(json.loads(await connection.recv_bytes())))
            check_answer(events[-1]["response"]["output"][0]["content"][0]["transcript"])
        return events

    events = run(talk())
    kinds = [event["type"] for event in events]
    assert kinds[:2] == ["session.created", "session.updated"]
    assert list(dict.fromkeys(kinds[kinds.index("response.created") :])) == list(dict.fromkeys(ANSWER))
    deltas = [event["delta"] for event in events if event["type"] == "response.output_audio.delta"]
    pcm = b"".join(map(base64.b64decode, deltas))
    assert len(pcm) == len(deltas) * 7680
    assert torch.frombuffer(bytearray(pcm), dtype=torch.int16).float().std() > 300


@needs("node_modules/@openai/agents")
def test_the_agents_sdk_talks_to_the_bundled_agent(pipeline, tmp_path):
    async def talk():
        async with answering(pipeline) as (_, url):
            said = await run_client("openai_agents.mjs", f"{url}/v1/realtime", "secret", *user_files(tmp_path))
            assert said["numBytes"] % 7680 == 0 < said["numBytes"] and said["numInterrupted"] == 0
            check_answer(said["transcripts"][-1])

    run(talk())


@needs("node_modules/@openai/agents")
def test_a_client_is_interrupted_where_the_agent_stops_by_itself(pipeline, tmp_path):
    """The user lets it count and says "stop": nothing they said before interrupts the client, and what it says then is
    a response of its own."""

    async def talk():
        async with answering(pipeline) as (_, url):
            files = user_files(tmp_path, "interrupt", "interrupt")
            said = await run_client("openai_agents.mjs", f"{url}/v1/realtime", "secret", *files, "i will stop")
            assert 1 <= said["numInterrupted"] <= 2
            *_, counted, stopped = said["transcripts"]
            assert "one two" in counted and "ten" not in counted and "okay" in stopped

    run(talk())


@needs("python/livekit/plugins/openai")
def test_livekits_plugin_talks_to_the_bundled_agent(pipeline, tmp_path):
    async def talk():
        async with answering(pipeline) as (_, url):
            said = await run_client("livekit_realtime.py", f"{url}/v1", "secret", *user_files(tmp_path))
            assert said["numBytes"] % 7680 == 0 < said["numBytes"] and said["errors"] == []
            check_answer(said["transcript"])

    run(talk())


# ---- what the events say ----


def test_a_response_is_what_the_agent_says_from_speak_to_listen():
    async def talk():
        async with live_server() as (server, _), messages(server) as (told, sent):
            told.receive(json.dumps({"type": "response.create", "response": {"metadata": {"asked": "1"}}}))
            for index, each in enumerate([("listen", ""), ("speak", " it is"), ("speak", ""), ("listen", "")]):
                told.tell(unit(index, *each), None)
            assert [event["type"] for event in sent] == ANSWER
            assert sent[0]["response"]["metadata"] == sent[-1]["response"]["metadata"] == {"asked": "1"}
            assert sent[-1]["response"]["status"] == "completed"
            told.tell(unit(5, "speak", " and"), None)
            assert sent[len(ANSWER)]["response"]["metadata"] is None
            assert len({event["event_id"] for event in sent}) == len(sent)

    run(talk())


def test_speech_started_is_sent_only_when_the_agent_itself_stops():
    """A user who is heard while the agent speaks on is not mentioned; one for whom it stops is, and then no longer."""

    async def talk():
        async with live_server() as (server, _), messages(server) as (told, sent):
            conversation = server.conversations[0]
            conversation.hear(torch.zeros(1, 3840))
            told.tell(unit(0, "speak", " one two"), None)
            conversation.hear(torch.full((1, 3840), 0.3))
            told.tell(unit(1, "speak", " three"), None)
            assert not any(event["type"].startswith("input_audio_buffer") for event in sent)
            told.tell(unit(2, "listen"), None)
            told.tell(unit(3, "listen"), None)
            kinds = [event["type"] for event in sent]
            assert kinds.index("input_audio_buffer.speech_started") < kinds.index("response.done") == len(kinds) - 1
            assert sent[-1]["response"]["status_details"] == {"type": "cancelled", "reason": "turn_detected"}
            await asyncio.sleep(0.6)
            told.tell(unit(6, "listen"), None)
            assert sent[-1]["type"] == "input_audio_buffer.speech_stopped"

    run(talk())


def test_a_cancelled_response_is_not_heard_any_more_and_the_next_is():
    async def talk():
        async with live_server() as (server, _), messages(server) as (told, sent):
            told.receive('{"type": "response.cancel"}')
            assert sent.pop()["error"]["code"] == "response_cancel_not_active"
            told.tell(unit(0, "speak", " one"), None)
            told.receive('{"type": "response.cancel"}')
            assert sent[-1]["response"]["status_details"]["reason"] == "client_cancelled"
            num_sent = len(sent)
            told.tell(unit(1, "speak", " two"), None)
            told.tell(unit(2, "listen"), None)
            assert len(sent) == num_sent
            told.tell(unit(3, "speak", " three"), None)
            assert sent[num_sent]["type"] == "response.created"

    run(talk())


def test_what_the_agent_makes_out_of_the_users_words_is_an_item_of_the_user():
    async def talk():
        async with live_server() as (server, _), messages(server) as (told, sent):
            for index, heard in enumerate([" what", " is this", ""]):
                told.tell(replace(unit(index, "listen"), heard=heard), None)
            told.tell(unit(3, "speak", " it"), None)
            kinds = [event["type"] for event in sent]
            assert kinds[0] == "conversation.item.added" and sent[0]["item"]["role"] == "user"
            assert [event["delta"] for event in sent if event["type"].endswith("_transcription.delta")] == [
                " what",
                " is this",
            ]
            (done,) = [event for event in sent if event["type"].endswith("_transcription.completed")]
            assert done["transcript"] == "what is this" and done["item_id"] == sent[0]["item"]["id"]
            assert kinds.index(done["type"]) < kinds.index("response.created")
            assert "conversation.item.done" in kinds

    run(talk())


def test_items_are_acknowledged_remembered_and_truncated():
    async def talk():
        async with live_server() as (_, url), realtime(url) as socket:
            added = await answer_to(socket, typed("hello there"), "conversation.item.done")
            assert added["item"]["content"] == [{"type": "input_text", "text": "hello there"}]
            assert added["item"]["role"] == "user"
            await socket.send('{"type": "input_audio_buffer.commit"}')
            committed = await next_event(socket, "input_audio_buffer.committed")
            assert committed["previous_item_id"] == added["item"]["id"]
            retrieve = {"type": "conversation.item.retrieve", "item_id": committed["item_id"]}
            await socket.send(json.dumps(retrieve))
            text = await socket.recv()  # openai's types lack this event's order of fields, not its content
            while json.loads(text)["type"] != "conversation.item.retrieved":
                text = await socket.recv()
            assert json.loads(text)["item"]["id"] == committed["item_id"]
            truncate = {"type": "conversation.item.truncate", "content_index": 0, "audio_end_ms": 100}
            told = await answer_to(socket, truncate | {"item_id": committed["item_id"]}, "conversation.item.truncated")
            assert told["audio_end_ms"] == 100
            await answer_to(socket, {"type": "input_audio_buffer.clear"}, "input_audio_buffer.cleared")

    run(talk())


WRONG = [
    *(("{", "JSON"), ("[]", "JSON object"), (b"{}", "bytes"), ("[" * 4000, "JSON")),
    *(({"type": "shell"}, "'shell'"), ({}, "not supported"), ({"type": "conversation.item.delete"}, "not supported")),
    *(
        ({"type": "input_audio_buffer.append"}, "audio"),
        ({"type": "input_audio_buffer.append", "audio": "?"}, "base64"),
    ),
    ({"type": "input_audio_buffer.append", "audio": "AAAA"}, "two bytes a sample"),
    ({"type": "output_audio_buffer.clear"}, "cancel the response"),
    ({"type": "conversation.item.truncate", "item_id": "none", "content_index": 0, "audio_end_ms": 1}, "no item none"),
    (typed(""), "1 to 500"),
    (typed("\ud83d"), "surrogate"),
    (item({"type": "input_text", "text": "be nice"}, role="system"), "role"),
    (item({"type": "input_file"}), "input_image"),
    (item({"type": "input_image", "image_url": "https://example.org/a.png"}), "nothing is fetched"),
    (item({"type": "input_image", "image_url": "data:image/png;base64,AAAA"}), "PNG"),
    ({"type": "session.update", "session": {"type": "realtime", "output_modalities": ["text"]}}, "output_modalities"),
    ({"type": "session.update", "session": {"type": "transcription"}}, "session.type"),
    ({"type": "session.update", "session": {"tools": [{"type": "function", "name": "look"}]}}, "calls no tools"),
    ({"type": "session.update", "session": {"audio": {"output": {"format": {"type": "audio/pcmu"}}}}}, "audio/pcm"),
    ({"type": "session.update", "session": {"audio": {"output": {"speed": 1.5}}}}, "speed"),
]


def test_what_cannot_be_is_an_error_that_says_why_and_the_conversation_goes_on():
    async def talk():
        async with live_server() as (server, url), realtime(url) as socket:
            for wrong, said in WRONG:
                event = wrong | {"event_id": "mine"} if isinstance(wrong, dict) else wrong
                error = (await answer_to(socket, event))["error"]
                assert said in error["message"], error
                assert error["event_id"] == ("mine" if isinstance(wrong, dict) else None)
            asked = {"type": "realtime", "voice": "marin", "instructions": "be nice", "audio": {"input": {}}}
            updated = await answer_to(socket, {"type": "session.update", "session": asked}, "session.updated")
            assert "instructions" not in updated["session"]
            assert updated["session"]["audio"]["output"]["voice"] == "wan-streamer"
            assert server.num_sessions == 1

    run(talk())


def test_sound_above_a_minute_is_refused_while_it_waits():
    async def talk():
        async with live_server() as (_, url), realtime(url) as socket:
            half_a_minute = base64.b64encode(bytes(2 * 24_000 * 31)).decode()
            for _ in range(2):
                await socket.send(json.dumps({"type": "input_audio_buffer.append", "audio": half_a_minute}))
            assert "wait to be heard" in (await next_event(socket, "error"))["error"]["message"]

    run(talk())


# ---- the rules of the server ----


def test_token_and_origin_are_checked_and_browsers_give_the_token_as_subprotocol():
    async def refused(status: int, url: str, **more) -> None:
        with pytest.raises(InvalidStatus) as error:
            async with realtime(url, **more):
                pass
        assert error.value.response.status_code == status

    async def talk():
        async with live_server(token="secret") as (server, url):
            await refused(401, url)
            await refused(401, url, additional_headers={"Authorization": "Bearer wrong"})
            await refused(401, url, subprotocols=["realtime", "openai-insecure-api-key.wrong"])
            bearer = {"Authorization": "Bearer secret"}
            await refused(403, url, additional_headers=bearer, origin="https://elsewhere.example")
            await refused(403, url, additional_headers=bearer, origin="http://[")
            assert server.num_sessions == 0
            browser = ["realtime", "openai-insecure-api-key.secret"]
            async with realtime(url, subprotocols=browser, origin=url) as socket:
                assert socket.subprotocol == "realtime"
                await next_event(socket, "session.created")
                await refused(503, url, additional_headers=bearer)
            await until(lambda: server.num_sessions == 0)

    run(talk())


@pytest.mark.parametrize(("reason", "options"), [("idle", {"idle_seconds": 0.5}), ("limit", {"max_seconds": 0.5})])
def test_who_is_idle_or_has_talked_long_enough_is_told_and_hung_up_on(reason, options):
    async def talk():
        async with live_server(**options) as (server, url), realtime(url) as socket:
            assert (await next_event(socket, "error"))["error"]["code"] == reason
            with pytest.raises(ConnectionClosed):
                await next_event(socket, "never")
            await until(lambda: server.num_sessions == 0)

    run(talk())


def test_a_flood_and_a_giant_end_the_conversation():
    async def talk():
        async with live_server() as (server, url):
            async with realtime(url) as socket:
                for _ in range(2 * EVENTS_PER_SECOND):
                    await socket.send('{"type": "response.create"}')
                assert (await next_event(socket, "error"))["error"]["code"] == "rate"
            await until(lambda: server.num_sessions == 0)
            async with realtime(url, max_size=None) as socket:
                await socket.send(json.dumps({"type": "input_audio_buffer.append", "audio": "A" * 9_000_000}))
                assert (await next_event(socket, "error"))["error"]["code"] == "message"
            await until(lambda: server.num_sessions == 0)

    run(talk())


def test_a_client_that_sends_no_sound_is_not_gone_and_is_recorded_only_with_consent(tmp_path):
    async def talk():
        async with live_server(record=tmp_path, hung_seconds=0.5) as (server, url):
            for consent in ("", "&consent=true"):
                async with connect(f"{url.replace('http', 'ws')}/v1/realtime?model=any{consent}") as socket:
                    await answer_to(socket, typed("how are you"), "conversation.item.done")
                    await asyncio.sleep(1.5)
                    await answer_to(socket, typed("and you"), "conversation.item.done")
                await until(lambda: server.num_sessions == 0)
                assert len(list(tmp_path.iterdir())) == bool(consent)

    run(talk())
    (folder,) = tmp_path.iterdir()
    lines = [json.loads(line) for line in (folder / "units.jsonl").read_text().splitlines()]
    assert "how are you" in [line["typed"] for line in lines]


def test_clients_that_vanish_leave_nothing_behind():
    async def talk():
        async with live_server() as (server, url):

            async def cycle() -> None:
                async with realtime(url) as socket:
                    await next_event(socket, "session.created")
                    await socket.send(json.dumps({"type": "input_audio_buffer.append", "audio": "AAAA" * 2000}))
                    socket.transport.abort()
                await until(lambda: server.num_sessions == 0)

            await cycle()
            before = leftovers()
            for _ in range(3):
                await cycle()
            await until(lambda: leftovers() <= before)

    run(talk())


# ---- sound at the pace of the clock ----


def test_a_burst_is_given_back_in_real_time_and_whole():
    paced, burst = PacedSound(), torch.rand(1, 48_000)
    paced.push(burst)
    pieces = [paced.take(0.02 * tick) for tick in range(1, 101)]
    assert {piece.shape[1] for piece in pieces} == {480}
    assert torch.equal(torch.cat(pieces, dim=1), burst)


def test_sound_that_comes_in_pieces_is_passed_on_at_once_without_a_gap():
    """100 ms pieces, each a little late: nothing is put between them, and nothing waits."""
    paced, sound, given = PacedSound(), torch.rand(1, 24_000), []
    for tick in range(60):
        if tick % 5 == 4 and tick < 50:
            paced.push(sound[:, (tick - 4) * 480 : (tick + 1) * 480])
        given.append(paced.take(0.02 * (tick + 1 + tick % 3)))
    joined = torch.cat(given, dim=1)
    assert torch.equal(joined[:, : sound.shape[1]], sound)


def test_silence_comes_where_no_sound_does_so_the_clock_goes_on():
    paced = PacedSound()
    assert paced.take(0.2).shape[1] == 0
    assert paced.take(2.0).shape[1] == int(1.76 * 24_000) and not paced.take(3.0).any()
