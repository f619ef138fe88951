"""The page's own protocol, and `LiveClient`'s: `POST /offer`, then WebRTC with a data channel of small JSON objects.

`GET /ice-servers` lists STUN and TURN servers. The answer to an offer has an `id`: `PATCH /offer/ID` brings candidates
that are found later, and an offer with `"resume": ID` goes on with a conversation whose line was lost.

Client to server: {"type": "text", "text": "..."} types to the agent, {"type": "ping", "id": 7} asks for a "pong".
Server to client: "hello" (what to expect), "unit" (every 160 ms: state, text, latency), "pong", "error" (a message was
refused and why), "bye" (the server hangs up and why).
"""

from __future__ import annotations

import json
import secrets
from dataclasses import asdict
from typing import Any, Literal
from weakref import WeakValueDictionary

from fastapi import APIRouter, Depends, HTTPException
from pydantic import BaseModel, Field

from ...units import UNIT_MS, AgentUnit
from ..conversation import Conversation, UnitTiming
from ..gate import Gate, RateLimit
from ..peer import MAX_CANDIDATES, MAX_OFFER_BYTES, Peer, Send, answer_offer

MAX_MESSAGE_BYTES = 4096
MESSAGES_PER_SECOND = 20


class Offer(BaseModel, extra="forbid"):
    """What a client posts: its session description, and whether its user agrees to be recorded."""

    sdp: str = Field(max_length=MAX_OFFER_BYTES)
    type: Literal["offer"]
    consent: bool = False
    resume: str | None = Field(default=None, max_length=64)


class Candidate(BaseModel):
    """An address of a client, as its RTCIceCandidate tells it."""

    candidate: str = Field(max_length=512)
    sdpMid: str | None = Field(default=None, max_length=16)
    sdpMLineIndex: int | None = None


class Candidates(BaseModel, extra="forbid"):
    """What a client finds after its offer; null: there are no more."""

    candidates: list[Candidate | None] = Field(max_length=MAX_CANDIDATES)


def routes(gate: Gate) -> APIRouter:
    router = APIRouter()
    # By an id that nobody can guess: who has it may go on with the conversation.
    peers: WeakValueDictionary[str, Peer] = WeakValueDictionary()

    def called(call_id: str) -> Peer:
        if (peer := peers.get(call_id)) is None or peer.conversation.has_ended:
            raise HTTPException(404, "that conversation is over")
        return peer

    @router.get("/ice-servers", dependencies=[Depends(gate.check_token)])
    def ice_servers() -> list[dict[str, str]]:
        servers = (asdict(each) for each in gate.options.ice_servers)
        return [{name: value for name, value in each.items() if value} for each in servers]

    @router.post("/offer", dependencies=[Depends(gate.check_call)])
    async def answer(offer: Offer) -> dict[str, str]:
        resumed = called(offer.resume).conversation if offer.resume else None
        peer, description = await answer_offer(gate, offer.sdp, PageMessages, offer.consent, resumed)
        peer.conversation.is_resumable = True
        call_id = offer.resume or secrets.token_urlsafe(24)
        peers[call_id] = peer
        return {"sdp": description.sdp, "type": description.type, "id": call_id}

    @router.patch("/offer/{call_id}", status_code=204, dependencies=[Depends(gate.check_token)])
    async def trickle(call_id: str, found: Candidates) -> None:
        for each in found.candidates:
            try:
                fields = (each.candidate, each.sdpMid, each.sdpMLineIndex) if each else (None, None, None)
                await called(call_id).add_candidate(*fields)
            except ValueError as error:
                raise gate.refusal("candidate", 400, str(error)) from error

    return router


class MessageError(ValueError):
    """A client's message that is refused; the sentence is for the client. `fatal` ends the conversation."""

    def __init__(self, sentence: str, fatal: bool = False) -> None:
        super().__init__(sentence)
        self.fatal = fatal


def parse_message(data: str | bytes) -> dict[str, Any]:
    """A checked message of a client.

    Raises:
        MessageError: too long (fatal), not JSON, of an unknown type, or with a field out of range.
    """
    if not isinstance(data, str):
        raise MessageError("messages are JSON text, not bytes", fatal=True)
    if len(data.encode()) > MAX_MESSAGE_BYTES:
        raise MessageError(f"a message has at most {MAX_MESSAGE_BYTES} bytes", fatal=True)
    try:
        message = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise MessageError("a message is a JSON object") from error
    if not isinstance(message, dict):
        raise MessageError("a message is a JSON object")
    if message.get("type") == "text":
        text = message.get("text")
        if not isinstance(text, str):
            raise MessageError('"text" is a string')
        return {"type": "text", "text": text}
    if message.get("type") == "ping":
        number = message.get("id")
        if type(number) is not int or not 0 <= number < 2**53:
            raise MessageError('"id" is a whole number from 0')
        return {"type": "ping", "id": number}
    raise MessageError('"type" is "text" or "ping"')


class PageMessages:
    """The `Messages` of the page."""

    def __init__(self, conversation: Conversation, send: Send) -> None:
        self._conversation, self._send = conversation, send
        self._rate = RateLimit(MESSAGES_PER_SECOND)

    def opened(self) -> None:
        self._send(
            {
                "type": "hello",
                "session": self._conversation.number,
                "recording": self._conversation.is_recorded,
                "unit_ms": UNIT_MS,
                "max_seconds": self._conversation.options.max_seconds,
            }
        )

    def receive(self, data: str | bytes) -> None:
        if not self._rate.allows():
            self._conversation.hang_up("rate", f"more than {MESSAGES_PER_SECOND} messages per second")
            return
        try:
            message = parse_message(data)
        except MessageError as error:
            self._send({"type": "error", "message": str(error)})
            if error.fatal:
                self._conversation.hang_up("message", str(error))
            return
        if message["type"] == "ping":
            self._send({"type": "pong", "id": message["id"]})
            return
        try:
            self._conversation.type(message["text"])
        except ValueError as error:
            self._send({"type": "error", "message": str(error)})

    def tell(self, unit: AgentUnit, timing: UnitTiming | None) -> None:
        message = {"type": "unit", "index": unit.index, "state": unit.state, "text": unit.text, "heard": unit.heard}
        self._send(message | (asdict(timing) if timing else {}))

    def say_goodbye(self, reason: str, sentence: str) -> None:
        self._send({"type": "bye", "reason": reason, "message": sentence})
