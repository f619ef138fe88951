"""What OpenAI's Realtime protocol holds: events of a client, as far as they are understood, items, sound, pictures.

Names are those of the general release, not of the beta. Fields that are not here are passed over.
"""

from __future__ import annotations

import base64
import binascii
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, Field, TypeAdapter, ValidationError, field_validator
from torch import Tensor

from ..tracks import to_pcm16


class ClientEvent(BaseModel):
    event_id: str | None = None


class AudioFormat(BaseModel):
    type: Literal["audio/pcm"] = "audio/pcm"
    rate: Literal[24_000] = 24_000


class AudioSide(BaseModel):
    """Of the user's sound or of the agent's; speed is the agent's alone."""

    format: AudioFormat | None = None
    speed: float | None = Field(default=None, ge=1, le=1)


class Audio(BaseModel):
    input: AudioSide | None = None
    output: AudioSide | None = None


class Session(BaseModel):
    """The settings that would change the conversation if they were believed, so each must be what it is."""

    type: Literal["realtime"] = "realtime"
    output_modalities: list[Literal["audio"]] | None = Field(default=None, min_length=1)
    audio: Audio | None = None
    tools: list[dict[str, Any]] | None = None

    @field_validator("tools")
    @classmethod
    def _none(cls, tools: list[dict[str, Any]] | None) -> list[dict[str, Any]] | None:
        if tools:
            raise ValueError("the agent calls no tools")
        return tools


class SessionUpdate(ClientEvent):
    type: Literal["session.update"]
    session: Session


class AudioAppend(ClientEvent):
    type: Literal["input_audio_buffer.append"]
    audio: str


class AudioCommit(ClientEvent):
    type: Literal["input_audio_buffer.commit"]


class AudioClear(ClientEvent):
    type: Literal["input_audio_buffer.clear"]


class TextContent(BaseModel):
    type: Literal["input_text"]
    text: str


class AudioContent(BaseModel):
    type: Literal["input_audio"]
    audio: str


class ImageContent(BaseModel):
    type: Literal["input_image"]
    image_url: str


Content = Annotated[TextContent | AudioContent | ImageContent, Field(discriminator="type")]


class UserMessage(BaseModel):
    """The one kind of item that a client can add: nothing can be put into the agent's mouth or behind its back."""

    type: Literal["message"]
    role: Literal["user"]
    content: list[Content] = Field(min_length=1)
    id: str | None = Field(default=None, max_length=64)


class ItemCreate(ClientEvent):
    type: Literal["conversation.item.create"]
    item: UserMessage


class ItemRetrieve(ClientEvent):
    type: Literal["conversation.item.retrieve"]
    item_id: str


class ItemTruncate(ClientEvent):
    type: Literal["conversation.item.truncate"]
    item_id: str
    content_index: Literal[0]
    audio_end_ms: int = Field(ge=0)


class ResponseSettings(BaseModel):
    metadata: dict[str, str] | None = Field(default=None, max_length=16)
    output_modalities: list[Literal["audio"]] | None = Field(default=None, min_length=1)


class ResponseCreate(ClientEvent):
    type: Literal["response.create"]
    response: ResponseSettings | None = None


class ResponseCancel(ClientEvent):
    type: Literal["response.cancel"]
    response_id: str | None = None


class OutputClear(ClientEvent):
    type: Literal["output_audio_buffer.clear"]


AnyEvent = (
    SessionUpdate
    | AudioAppend
    | AudioCommit
    | AudioClear
    | ItemCreate
    | ItemRetrieve
    | ItemTruncate
    | ResponseCreate
    | ResponseCancel
    | OutputClear
)
_EVENTS: TypeAdapter[AnyEvent] = TypeAdapter(Annotated[AnyEvent, Field(discriminator="type")])


class Refused(ValueError):
    """A client's event that is answered by an `error`; the sentence is for the client."""

    def __init__(self, sentence: str, code: str = "invalid_value", param: str | None = None) -> None:
        super().__init__(sentence)
        self.code, self.param = code, param


def read_event(message: Any) -> AnyEvent:
    """A client's event, checked.

    Raises:
        Refused: it is none, or asks for what cannot be.
    """
    if not isinstance(message, dict):
        raise Refused("an event is a JSON object with a type")
    try:
        return _EVENTS.validate_python(message)
    except ValidationError as error:
        raise _refusal(message, error) from error


def _refusal(message: dict[str, Any], error: ValidationError) -> Refused:
    first = error.errors(include_url=False)[0]
    if first["type"].startswith("union_tag"):
        if not first["loc"]:
            return Refused(f"events of the type {message.get('type')!r} are not supported", "unsupported_event", "type")
        return Refused("content is input_text, input_audio or input_image", param="item.content")
    # The first place names the event's type, and a union's the member that was tried.
    path = [str(each) for each in first["loc"][1:] if not str(each).startswith("input_") or each == "input"]
    return Refused(f"{'.'.join(path)}: {first['msg'].removeprefix('Value error, ')}", param=".".join(path))


class Spoken:
    """What the agent says from when it begins to speak to when it stops: one item with one part."""

    def __init__(self, response_id: str, item_id: str, metadata: dict[str, str] | None) -> None:
        self.id, self.item_id, self.metadata = response_id, item_id, metadata
        self.previous_item_id: str | None = None
        self.transcript = ""
        self.place = {"response_id": response_id, "item_id": item_id, "output_index": 0, "content_index": 0}

    def item(self, status: str) -> dict[str, Any]:
        content = [] if status == "in_progress" else [{"type": "output_audio", "transcript": self.transcript}]
        return message_item(self.item_id, "assistant", status, content)

    def as_event(self, status: str, reason: str | None = None) -> dict[str, Any]:
        is_over = status != "in_progress"
        return {
            "object": "realtime.response",
            "id": self.id,
            "status": status,
            "status_details": {"type": status, "reason": reason} if reason else None,
            "output": [self.item("incomplete" if reason else "completed")] if is_over else [],
            "output_modalities": ["audio"],
            "metadata": self.metadata,
        }


def message_item(item_id: str, role: str, status: str, content: list[dict[str, Any]]) -> dict[str, Any]:
    shared = {"object": "realtime.item", "type": "message", "status": status}
    return {"id": item_id, **shared, "role": role, "content": content}


def decode_sound(text: str) -> Tensor:
    """PCM16 at 24 kHz -> (1, T) in [-1, 1]."""
    data = _decoded(text)
    if len(data) % 2:
        raise Refused(f"sound is PCM16, two bytes a sample, got {len(data)} bytes", param="audio")
    return torch.frombuffer(bytearray(data), dtype=torch.int16)[None].float() / 32768 if data else torch.zeros(1, 0)


def encode_sound(audio: Tensor) -> str:
    return base64.b64encode(to_pcm16(audio).numpy().tobytes()).decode()


def decode_data_url(url: str) -> bytes:
    head, _, text = url.partition(",")
    if not (head.startswith("data:image/") and head.endswith(";base64")):
        raise Refused("image_url is a data URL, as data:image/jpeg;base64,...; nothing is fetched", param="image_url")
    return _decoded(text)


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise Refused("sound and pictures are base64") from error
