"""OpenAI's Realtime protocol: `/v1/realtime` by WebSocket, with sound as base64 PCM16 at 24 kHz both ways; or `POST
/v1/realtime/calls`, the same events by the data channel of WebRTC, with sound and our extension of picture as tracks.

The agent is full duplex, and what its state slot says is what a client is told: a response begins when the agent
begins to speak and ends when it stops, whoever asked for one. So

- `response.create` asks for nothing, as the agent speaks when it will; its metadata are those of the next response.
- `response.cancel` keeps the rest of what the agent is saying from the client; the agent says it all the same.
- `conversation.item.truncate` is acknowledged: sound leaves as it is played, so nothing was said that is not heard.
- `input_audio_buffer.speech_started` is sent when the agent stops while the user is heard, not for every sound of the
  user: clients interrupt the agent when they are told so, and then a "mhm" would cost them the answer.
- `session.update` is refused where a setting would change sound or words that the client gets. Instructions, voice,
  transcription, turn detection and the like are not the server's to set: `session.updated` says what holds.

Our extensions: `input_image` (a data URL) is what the agent sees until the next one, and `?consent=true` agrees to be
recorded. The agent's picture travels by WebRTC alone, to who offers a track for it.
"""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

from fastapi import APIRouter, Depends, Request, Response, WebSocket

from ...units import SAMPLE_RATE, UNIT_MS, AgentUnit
from ..captions import Captions
from ..conversation import Conversation, UnitTiming
from ..gate import Gate, RateLimit
from ..peer import Send, answer_offer
from ..tracks import read_still
from ..websocket import PacedSound, WebSocketLine
from . import realtime_events as events
from .realtime_events import Refused, Spoken, decode_data_url, decode_sound, encode_sound, message_item, read_event

MAX_EVENT_BYTES = 8 * 1024 * 1024
EVENTS_PER_SECOND = 200
_REMEMBERED_ITEMS = 64
_MAX_ARRIVING = 8  # items whose pictures are being decoded
_PCM = {"type": "audio/pcm", "rate": SAMPLE_RATE}


def routes(gate: Gate) -> APIRouter:
    router = APIRouter(dependencies=[Depends(gate.check_call)])

    @router.websocket("/v1/realtime")
    async def talk(socket: WebSocket, consent: bool = False) -> None:
        conversation = await gate.admit(consent)
        await socket.accept("realtime" if "realtime" in socket.scope["subprotocols"] else None)
        await WebSocketLine(socket, conversation, _over_websocket).run()

    @router.post("/v1/realtime/calls", status_code=201)
    async def call(request: Request, consent: bool = False) -> Response:
        if not request.headers.get("content-type", "").startswith("application/sdp"):
            raise gate.refusal("offer", 415, "the body is the session description: Content-Type: application/sdp")
        sdp = (await request.body()).decode(errors="replace")
        peer, answer = await answer_offer(gate, sdp, _over_webrtc, consent)
        place = f"/v1/realtime/calls/rtc_{peer.conversation.number}"
        return Response(answer.sdp, 201, {"Location": place}, "application/sdp")

    return router


def _over_webrtc(conversation: Conversation, send: Send) -> RealtimeMessages:
    return RealtimeMessages(conversation, send, None)


def _over_websocket(conversation: Conversation, line: WebSocketLine) -> RealtimeMessages:
    return RealtimeMessages(conversation, lambda event: line.send(json.dumps(event)), line.sound)


class RealtimeMessages:
    """The `Messages` of the Realtime protocol.

    Args:
        emit: sends one event to the client.
        sound: where the client's sound goes, and then the agent's goes to it in events; None if a track carries both.
    """

    def __init__(self, conversation: Conversation, emit: Send, sound: PacedSound | None) -> None:
        self._conversation, self._emit_event, self._sound = conversation, emit, sound
        self._rate = RateLimit(EVENTS_PER_SECOND)
        self._num_events = self._num_named = 0
        self._items: dict[str, dict[str, Any]] = {}
        self._last_item_id: str | None = None
        self._metadata: dict[str, str] | None = None
        self._response: Spoken | None = None
        self._last_response_id = ""
        self._interrupting_item_id: str | None = None
        self._captions, self._caption_item_id = Captions(), ""
        self._arriving = asyncio.Lock()
        self._num_arriving = 0

    # ---- what the client is told ----

    def opened(self) -> None:
        self._emit("session.created", session=self._session())

    def tell(self, unit: AgentUnit, timing: UnitTiming | None) -> None:
        self._write_down(unit)
        is_speaking = unit.state == "speak"
        self._conversation.is_hushed &= is_speaking
        if self._interrupting_item_id and (is_speaking or not self._conversation.is_user_heard):
            self._emit(
                "input_audio_buffer.speech_stopped",
                audio_end_ms=unit.index * UNIT_MS,
                item_id=self._interrupting_item_id,
            )
            self._interrupting_item_id = None
        if is_speaking and not self._conversation.is_hushed:
            self._speak(unit)
        elif self._response is not None:
            self._stop(unit)

    def _write_down(self, unit: AgentUnit) -> None:
        """What the agent makes out of the user's words, where its checkpoint does that: an item for every turn."""
        finished = self._captions.take(unit)
        if unit.heard and not self._caption_item_id:
            self._caption_item_id = self._new_name("item")
            content = {"type": "input_audio", "transcript": ""}
            self._add_item(message_item(self._caption_item_id, "user", "in_progress", [content]))
        place = {"item_id": self._caption_item_id, "content_index": 0}
        if unit.heard:
            self._emit("conversation.item.input_audio_transcription.delta", **place, delta=unit.heard)
        if finished:
            seconds = self._captions.num_units * UNIT_MS / 1000
            kind = "conversation.item.input_audio_transcription.completed"
            self._emit(kind, **place, transcript=finished, usage={"type": "duration", "seconds": seconds})
            content = {"type": "input_audio", "transcript": finished}
            item = message_item(self._caption_item_id, "user", "completed", [content])
            self._items[self._caption_item_id], self._caption_item_id = item, ""
            self._emit("conversation.item.done", item=item)

    def say_goodbye(self, reason: str, sentence: str) -> None:
        self._emit_error(Refused(sentence, reason), None)

    def _speak(self, unit: AgentUnit) -> None:
        if self._response is None:
            self._response = Spoken(self._new_name("resp"), self._new_name("item"), self._metadata)
            self._metadata = None
            self._begin(self._response)
        response = self._response
        if unit.text:
            response.transcript += unit.text
            self._emit("response.output_audio_transcript.delta", **response.place, delta=unit.text)
        if self._sound is not None:
            self._emit("response.output_audio.delta", **response.place, delta=encode_sound(unit.audio))

    def _begin(self, response: Spoken) -> None:
        self._emit("response.created", response=response.as_event("in_progress"))
        item = response.item("in_progress")
        self._emit("response.output_item.added", response_id=response.id, output_index=0, item=item)
        response.previous_item_id = self._add_item(item)
        part = {"type": "audio", "transcript": ""}
        self._emit("response.content_part.added", **response.place, part=part)
        if self._sound is None:
            self._emit("output_audio_buffer.started", response_id=response.id)

    def _stop(self, unit: AgentUnit) -> None:
        """The agent has stopped: because it was done, or because the user speaks."""
        if not self._conversation.is_user_heard:
            self._end("completed")
            return
        self._interrupting_item_id = self._new_name("item")
        self._emit(
            "input_audio_buffer.speech_started",
            audio_start_ms=unit.index * UNIT_MS,
            item_id=self._interrupting_item_id,
        )
        self._end("cancelled", "turn_detected")

    def _end(self, status: str, reason: str | None = None) -> None:
        response, self._response = self._response, None
        assert response is not None
        self._last_response_id = response.id
        item = response.item("completed" if reason is None else "incomplete")
        self._items[response.item_id] = item
        part = {"type": "audio", "transcript": response.transcript}
        self._emit("response.output_audio.done", **response.place)
        self._emit("response.output_audio_transcript.done", **response.place, transcript=response.transcript)
        self._emit("response.content_part.done", **response.place, part=part)
        self._emit("conversation.item.done", item=item, previous_item_id=response.previous_item_id)
        self._emit("response.output_item.done", response_id=response.id, output_index=0, item=item)
        self._emit("response.done", response=response.as_event(status, reason))
        if self._sound is None:
            self._emit("output_audio_buffer.stopped", response_id=response.id)

    def _session(self) -> dict[str, Any]:
        """What holds, whatever a client asked for."""
        heard = {
            "format": _PCM,
            "noise_reduction": None,
            "transcription": None,
            "turn_detection": {"type": "semantic_vad", "create_response": True, "interrupt_response": True},
        }
        return {
            "type": "realtime",
            "object": "realtime.session",
            "id": f"sess_{self._conversation.number}",
            "model": "wan-streamer",
            "output_modalities": ["audio"],
            "audio": {"input": heard, "output": {"format": _PCM, "voice": "wan-streamer", "speed": 1.0}},
            "tools": [],
            "tool_choice": "none",
            "tracing": None,
            "expires_at": int(time.time() + self._conversation.options.max_seconds),
        }

    def _emit(self, kind: str, **fields: Any) -> None:
        self._num_events += 1
        self._emit_event({"type": kind, "event_id": f"event_{self._num_events}", **fields})

    def _emit_error(self, error: Refused, event_id: str | None) -> None:
        described = {"type": "invalid_request_error", "code": error.code, "message": str(error)}
        self._emit("error", error={**described, "param": error.param, "event_id": event_id})

    def _new_name(self, kind: str) -> str:
        self._num_named += 1
        return f"{kind}_{self._conversation.number}_{self._num_named}"

    def _add_item(self, item: dict[str, Any]) -> str | None:
        """The item before it."""
        previous, self._last_item_id = self._last_item_id, item["id"]
        self._items[item["id"]] = item
        while len(self._items) > _REMEMBERED_ITEMS:
            del self._items[next(iter(self._items))]
        self._emit("conversation.item.added", item=item, previous_item_id=previous)
        return previous

    # ---- what the client says ----

    def receive(self, data: str | bytes) -> None:
        if not self._rate.allows():
            self._conversation.hang_up("rate", f"more than {EVENTS_PER_SECOND} events per second")
            return
        if len(data) > MAX_EVENT_BYTES:
            self._conversation.hang_up("message", f"an event has at most {MAX_EVENT_BYTES} bytes")
            return
        event_id = None
        try:
            message = _read_json(data)
            given = message.get("event_id") if isinstance(message, dict) else None
            event_id = given if isinstance(given, str) else None
            self._take(read_event(message))
        except Refused as error:
            self._emit_error(error, event_id)
        except ValueError as error:
            self._emit_error(Refused(str(error)), event_id)

    def _take(self, event: events.AnyEvent) -> None:
        match event:
            case events.SessionUpdate():
                self._emit("session.updated", session=self._session())
            case events.AudioAppend():
                self._paced_sound().push(decode_sound(event.audio))
            case events.AudioCommit():
                self._commit()
            case events.AudioClear():
                self._paced_sound().clear()
                self._emit("input_audio_buffer.cleared")
            case events.ItemCreate():
                self._take_item(event)
            case events.ItemRetrieve():
                self._emit("conversation.item.retrieved", item=self._known_item(event.item_id))
            case events.ItemTruncate():
                self._known_item(event.item_id)
                place = {"item_id": event.item_id, "content_index": event.content_index}
                self._emit("conversation.item.truncated", **place, audio_end_ms=event.audio_end_ms)
            case events.ResponseCreate():
                self._metadata = event.response.metadata if event.response else None
            case events.ResponseCancel():
                self._cancel(event.response_id)
            case events.OutputClear():
                self._clear_output()

    def _cancel(self, response_id: str | None) -> None:
        if self._response is None or response_id not in (None, self._response.id):
            raise Refused("there is no such response in progress", "response_cancel_not_active", "response_id")
        self._conversation.is_hushed = True
        self._end("cancelled", "client_cancelled")

    def _clear_output(self) -> None:
        """A track's sound leaves as it is played, so what is cleared is what the agent has still to say."""
        if self._sound is not None:
            raise Refused("events of sound leave as they are played: cancel the response", "unsupported_event", "type")
        if self._response is not None:
            self._cancel(None)
        self._emit("output_audio_buffer.cleared", response_id=self._last_response_id)

    def _commit(self) -> None:
        """Sound is heard as it comes, committed or not: this gives what was said until now a name."""
        item_id = self._new_name("item")
        previous = self._last_item_id
        self._emit("input_audio_buffer.committed", item_id=item_id, previous_item_id=previous)
        self._add_user_item(item_id, [{"type": "input_audio", "transcript": None}])

    def _paced_sound(self) -> PacedSound:
        if self._sound is None:
            raise Refused("sound comes by the track of this connection", "unsupported_event", "type")
        return self._sound

    def _known_item(self, item_id: str) -> dict[str, Any]:
        if item_id not in self._items:
            raise Refused(f"there is no item {item_id}", "item_retrieve_invalid_item_id", "item_id")
        return self._items[item_id]

    def _take_item(self, event: events.ItemCreate) -> None:
        if self._num_arriving >= _MAX_ARRIVING:
            raise Refused("too many items come at once; please wait until they were added", "rate_limit_exceeded")
        self._num_arriving += 1
        self._conversation.start(self._take_message(event))

    async def _take_message(self, event: events.ItemCreate) -> None:
        """Items are taken one after the other: all of one, or nothing and an error."""
        try:
            async with self._arriving:
                await self._take_content(event.item)
        except Refused as error:
            self._emit_error(error, event.event_id)
        except ValueError as error:
            self._emit_error(Refused(str(error), param="item.content"), event.event_id)
        finally:
            self._num_arriving -= 1

    async def _take_content(self, item: events.UserMessage) -> None:
        texts, sounds, pictures = [], [], []
        for part in item.content:
            match part:
                case events.TextContent():
                    texts.append(part.text)
                case events.AudioContent():
                    sounds.append(decode_sound(part.audio))
                case events.ImageContent():
                    options = self._conversation.options
                    data = decode_data_url(part.image_url)
                    pictures.append(await asyncio.to_thread(read_still, data, options.height, options.width))
        if sounds:
            self._paced_sound()  # refuses before anything is taken
        if texts:
            self._conversation.type(" ".join(texts))
        for samples in sounds:
            self._paced_sound().push(samples)
        for picture in pictures:
            self._conversation.see(picture)
        content = [part.model_dump(include={"type", "text"}) for part in item.content]
        self._add_user_item(item.id or self._new_name("item"), content)

    def _add_user_item(self, item_id: str, content: list[dict[str, Any]]) -> None:
        item = message_item(item_id, "user", "completed", content)
        previous = self._add_item(item)
        self._emit("conversation.item.done", item=item, previous_item_id=previous)


def _read_json(data: str | bytes) -> Any:
    if not isinstance(data, str):
        raise Refused("events are JSON text, not bytes")
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise Refused("an event is a JSON object") from error
