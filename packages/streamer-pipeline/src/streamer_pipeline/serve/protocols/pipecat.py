"""Pipecat's SmallWebRTC: `POST /api/offer`, `PATCH` for candidates that come later, RTVI messages by data channel.

The client's offer has sound first, then its camera, then perhaps its screen; a picture of the screen is passed over.
An offer with the `pc_id` of an answer goes on with that conversation: by a new connection if it says `restart_pc`.
`requestData: {"consent": true}` is our extension: the user agrees to be recorded.

Client to server: "client-ready", "send-text" (typed to the agent), "disconnect-bot", and what the transport says by
itself ("ping: ...", signalling). Server to client: "bot-ready", "bot-started-speaking" and "bot-stopped-speaking" (the
agent's state slot), "bot-output" and "bot-tts-text" (its words as they come), "user-started-speaking" and
"user-stopped-speaking" (by level, for show: nothing is interrupted by them), "user-transcription" where the checkpoint
writes down what it hears, "error-response" (a message was refused and why), "error" (the server hangs up and why).
"""

from __future__ import annotations

import json
import secrets
from datetime import UTC, datetime
from typing import Annotated, Any, Literal
from weakref import WeakValueDictionary

from fastapi import APIRouter, Depends
from pydantic import BaseModel, Field, ValidationError

from ...units import AgentUnit
from ..captions import Captions
from ..conversation import Conversation, UnitTiming
from ..gate import Gate, RateLimit
from ..peer import MAX_CANDIDATES, MAX_OFFER_BYTES, Peer, Send, answer_offer, renegotiate

RTVI_VERSION = "2.0.0"
MAX_MESSAGE_BYTES = 64 * 1024
MESSAGES_PER_SECOND = 20


class RequestData(BaseModel):
    consent: bool = False


class Offer(BaseModel):
    sdp: str = Field(max_length=MAX_OFFER_BYTES)
    type: Literal["offer"]
    pc_id: str | None = None
    restart_pc: bool = False
    request_data: RequestData = Field(default_factory=RequestData, alias="requestData")


class Candidate(BaseModel):
    candidate: str = Field(max_length=1024)
    sdp_mid: str | None = None
    sdp_mline_index: int | None = None


class LateCandidates(BaseModel):
    pc_id: str
    candidates: Annotated[list[Candidate], Field(max_length=MAX_CANDIDATES)]


def routes(gate: Gate) -> APIRouter:
    router = APIRouter(dependencies=[Depends(gate.check_call)])
    peers: WeakValueDictionary[str, Peer] = WeakValueDictionary()  # of the conversations that go on

    @router.post("/api/offer")
    async def answer(offer: Offer) -> dict[str, str]:
        known = peers.get(offer.pc_id or "")
        if known is not None and known.conversation.has_ended:
            known = None
        if known is not None and not offer.restart_pc:
            peer, description = known, await renegotiate(gate, known, offer.sdp)
        else:
            resumed = known.conversation if known else None
            consent = offer.request_data.consent
            peer, description = await answer_offer(gate, offer.sdp, RtviMessages, consent, resumed)
            peer.conversation.is_resumable = True
        pc_id = offer.pc_id if known and offer.pc_id else secrets.token_urlsafe(24)
        peers[pc_id] = peer
        return {"sdp": description.sdp, "type": description.type, "pc_id": pc_id}

    @router.patch("/api/offer")
    async def add_candidates(late: LateCandidates) -> dict[str, str]:
        peer = peers.get(late.pc_id)
        if peer is None or peer.conversation.has_ended:
            raise gate.refusal("offer", 404, "there is no conversation with this pc_id")
        for each in late.candidates:
            try:
                await peer.add_candidate(each.candidate or None, each.sdp_mid, each.sdp_mline_index)
            except ValueError as error:
                raise gate.refusal("offer", 400, str(error)) from error
        return {"status": "success"}

    return router


class SentText(BaseModel):
    content: str


class RtviMessage(BaseModel):
    """A client's message. Only the label tells RTVI from what the transport says by itself."""

    label: Literal["rtvi-ai"]
    type: str
    id: str | int | None = None
    data: Any = None


class RtviMessages:
    """The `Messages` of RTVI."""

    def __init__(self, conversation: Conversation, send: Send) -> None:
        self._conversation, self._send_message = conversation, send
        self._rate = RateLimit(MESSAGES_PER_SECOND)
        self._captions = Captions()
        self._num_segments = 0
        self._is_speaking = self._is_user_heard = False

    def opened(self) -> None:
        """The client speaks first: "client-ready"."""

    def receive(self, data: str | bytes) -> None:
        if not self._rate.allows():
            self._conversation.hang_up("rate", f"more than {MESSAGES_PER_SECOND} messages per second")
        elif len(data) > MAX_MESSAGE_BYTES:
            self._conversation.hang_up("message", f"a message has at most {MAX_MESSAGE_BYTES} bytes")
        elif (message := _read(data)) is not None:
            try:
                self._take(message)
            except ValidationError:
                self._send("error-response", {"error": f"{message.type} has other data"}, message.id)
            except ValueError as error:
                self._send("error-response", {"error": str(error)}, message.id)

    def _take(self, message: RtviMessage) -> None:
        match message.type:
            case "client-ready":
                self._send("bot-ready", {"version": RTVI_VERSION, "about": {"library": "wan-streamer"}}, message.id)
            case "send-text":
                self._conversation.type(SentText.model_validate(message.data).content)
            case "disconnect-bot":
                self._conversation.hang_up("left")
            case _:
                raise ValueError(f"messages of the type {message.type!r} are not supported")

    def tell(self, unit: AgentUnit, timing: UnitTiming | None) -> None:
        self._tell_of_user(unit)
        if (is_speaking := unit.state == "speak") != self._is_speaking:
            self._is_speaking = is_speaking
            self._send("bot-started-speaking" if is_speaking else "bot-stopped-speaking")
        if unit.text:
            self._num_segments += 1
            said = {"text": unit.text, "aggregated_by": "word", "segment_id": self._num_segments}
            self._send("bot-output", said | {"will_be_spoken": True, "spoken_status": "completed", "spoken": True})
            self._send("bot-tts-text", {"text": unit.text})

    def _tell_of_user(self, unit: AgentUnit) -> None:
        if (is_heard := self._conversation.is_user_heard) != self._is_user_heard:
            self._is_user_heard = is_heard
            self._send("user-started-speaking" if is_heard else "user-stopped-speaking")
        finished = self._captions.take(unit)
        if finished or unit.heard:
            words = finished or self._captions.words.strip()
            now = datetime.now(UTC).isoformat()
            self._send(
                "user-transcription", {"text": words, "final": bool(finished), "timestamp": now, "user_id": "user"}
            )

    def say_goodbye(self, reason: str, sentence: str) -> None:
        self._send("error", {"error": sentence, "message": sentence, "fatal": True})
        self._send_message({"type": "signalling", "message": {"type": "peerLeft"}})

    def _send(self, kind: str, data: dict[str, Any] | None = None, id: str | int | None = None) -> None:
        message = {"label": "rtvi-ai", "type": kind, "id": id or secrets.token_hex(4), "data": data or {}}
        self._send_message(message)


def _read(data: str | bytes) -> RtviMessage | None:
    """None is what the transport says by itself, and needs no answer."""
    try:
        return RtviMessage.model_validate(json.loads(data))
    except (ValueError, RecursionError):
        return None
