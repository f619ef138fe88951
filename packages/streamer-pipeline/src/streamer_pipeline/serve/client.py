"""Talk to a live server from a program (extra `serve`).

    async with LiveClient("http://127.0.0.1:8080") as client:
        client.say("hello there")
        async for message in client.messages():
            print(message["text"], end="")

Sound and picture are aiortc tracks: give your own to send a microphone or a file, and read the agent's from
`client.audio` and `client.video`.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Any, Self
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from aiortc import RTCConfiguration, RTCIceServer, RTCPeerConnection, RTCSessionDescription
from aiortc.mediastreams import AudioStreamTrack, MediaStreamTrack

from .playing import RecordingPlayer, StereoTrack

__all__ = ["CallRefused", "LiveClient", "RecordingPlayer"]
_TIMEOUT = 30.0  # seconds


class CallRefused(RuntimeError):
    """The server did not take the call: it is full, the token is wrong, or it cannot be reached."""


class LiveClient:
    """One conversation with a live server, as an async context manager.

    Args:
        url: of the server, as `wan-streamer serve` prints it.
        audio, video: what the agent hears and sees; silence and no camera if None. With `RecordingPlayer(path)` they
            are a file's `.audio` and `.video`.
        token: if the server asks for one.
        consent: whether the server may record this conversation.
        resume: the `id` of a client whose line was lost: its conversation goes on.

    Raises:
        CallRefused: on entering, with the server's own words.
    """

    def __init__(
        self,
        url: str,
        audio: MediaStreamTrack | None = None,
        video: MediaStreamTrack | None = None,
        token: str | None = None,
        consent: bool = False,
        resume: str | None = None,
    ) -> None:
        self.id = resume
        self.url, self.token, self.consent = url.rstrip("/"), token, consent
        self.audio: MediaStreamTrack | None = None
        self.video: MediaStreamTrack | None = None
        self._mine = (StereoTrack(audio or AudioStreamTrack()), video)
        self._messages: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
        self._connected: asyncio.Future[None]

    async def __aenter__(self) -> Self:
        self._connected = asyncio.get_running_loop().create_future()
        servers = [RTCIceServer(**each) for each in await asyncio.to_thread(self._request, "/ice-servers")]
        self._connection = connection = RTCPeerConnection(RTCConfiguration(iceServers=servers))
        self._channel = connection.createDataChannel("talk")
        self._channel.on("open", self._opened)
        self._channel.on("message", lambda data: self._messages.put_nowait(json.loads(data)))
        connection.on("track", self._receive)
        connection.on("connectionstatechange", self._changed)
        audio, video = self._mine
        connection.addTrack(audio)
        connection.addTrack(video) if video else connection.addTransceiver("video", direction="recvonly")
        try:
            await connection.setLocalDescription(await connection.createOffer())
            mine = connection.localDescription
            offer = {"sdp": mine.sdp, "type": mine.type, "consent": self.consent, "resume": self.id}
            answer = await asyncio.to_thread(self._request, "/offer", offer)
            self.id = answer["id"]
            await connection.setRemoteDescription(RTCSessionDescription(answer["sdp"], answer["type"]))
            await asyncio.wait_for(self._connected, _TIMEOUT)
        except BaseException as error:
            await connection.close()
            if isinstance(error, TimeoutError):
                raise CallRefused(self._no_way) from error
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._connection.close()

    def say(self, text: str) -> None:
        """Type to the agent: 1 to 500 characters."""
        self.send({"type": "text", "text": text})

    def send(self, message: dict[str, Any]) -> None:
        """Send a message as it is."""
        self._channel.send(json.dumps(message))

    async def messages(self, kind: str | None = "unit") -> AsyncIterator[dict[str, Any]]:
        """Messages of the server of one type, or with None all, until the conversation ends.

        "unit" comes every 160 ms with `index`, `state` ("listen" or "speak"), `text`, `model_ms` and `reply_ms`.
        """
        while (message := await self._messages.get()) is not None:
            if kind is None or message["type"] == kind:
                yield message

    def _opened(self) -> None:
        if not self._connected.done():
            self._connected.set_result(None)

    def _receive(self, track: MediaStreamTrack) -> None:
        setattr(self, track.kind, track)

    def _changed(self) -> None:
        if self._connection.connectionState in ("closed", "failed"):
            self._messages.put_nowait(None)
            if not self._connected.done():
                self._connected.set_exception(CallRefused(self._no_way))

    @property
    def _no_way(self) -> str:
        return (
            f"{self.url} answered, but sound and picture do not get through: a router or a firewall is between. "
            "Whoever runs the server can name a TURN server (--ice-server)"
        )

    def _request(self, path: str, body: dict[str, Any] | None = None) -> Any:
        headers = {"Content-Type": "application/json"}
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        data = None if body is None else json.dumps(body).encode()
        try:
            with urlopen(Request(f"{self.url}{path}", data, headers), timeout=_TIMEOUT) as response:
                return json.load(response)
        except HTTPError as error:
            raise CallRefused(_reason(error)) from error
        except URLError as error:
            raise CallRefused(f"{self.url} cannot be reached: {error.reason}") from error


def _reason(error: HTTPError) -> str:
    """The server's sentence if it gave one."""
    try:
        return str(json.load(error)["detail"])
    except (ValueError, KeyError, TypeError):
        return f"the server answered {error.code} {error.reason}"
