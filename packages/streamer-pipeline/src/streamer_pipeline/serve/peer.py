"""A line of WebRTC: a connection with tracks of sound and picture, and a data channel for the protocol's messages."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from aiortc import RTCConfiguration, RTCDataChannel, RTCIceServer, RTCPeerConnection, RTCSessionDescription
from aiortc.codecs import CODECS
from aiortc.mediastreams import MediaStreamError, MediaStreamTrack
from aiortc.sdp import SessionDescription, candidate_from_sdp
from av import VideoFrame

from ..units import AgentUnit
from .conversation import Conversation, Messages, UnitTiming
from .gate import Gate
from .tracks import AgentTracks, PictureIntake, SoundIntake

_log = logging.getLogger(__name__)
MAX_OFFER_BYTES = 64 * 1024
MAX_CANDIDATES = 64
_MAX_BUFFERED = 256 * 1024  # bytes that a client may leave unread in its data channel
_GOODBYE_SECONDS = 0.2  # in which a last message leaves
Send = Callable[[dict[str, Any]], None]
MakeMessages = Callable[[Conversation, Send], Messages]


async def answer_offer(
    gate: Gate,
    sdp: str,
    messages: MakeMessages,
    consent: bool = False,
    resumed: Conversation | None = None,
) -> tuple[Peer, RTCSessionDescription]:
    """Admit the client of a WebRTC offer; `messages` as of `Peer`. resumed: the conversation that it goes on with.

    Raises:
        HTTPException: the server is full (503), or the offer cannot be answered (400).
    """
    _check(gate, sdp)
    conversation = resumed or await gate.admit(consent)
    try:
        peer = Peer(conversation, messages)
        return peer, await peer.answer(RTCSessionDescription(sdp, "offer"))
    except BaseException as error:
        conversation.lose("offer")
        if isinstance(error, ValueError):
            raise gate.refusal("offer", 400, str(error)) from error
        raise


async def renegotiate(gate: Gate, peer: Peer, sdp: str) -> RTCSessionDescription:
    """Answer a further offer of a connection that stands. HTTPException (400): it cannot be."""
    _check(gate, sdp)
    try:
        return await peer.answer(RTCSessionDescription(sdp, "offer"))
    except ValueError as error:
        raise gate.refusal("offer", 400, str(error)) from error


def _check(gate: Gate, sdp: str) -> None:
    try:
        check_offer(sdp)
    except ValueError as error:
        raise gate.refusal("offer", 400, str(error)) from error


def check_offer(sdp: str) -> None:
    """Raise ValueError, in our words, unless a conversation can come of this offer; before it costs anybody a place."""
    if sdp.count("a=candidate:") > MAX_CANDIDATES:
        raise ValueError(f"an offer has at most {MAX_CANDIDATES} candidates")
    try:
        offer = SessionDescription.parse(sdp)
    except Exception as error:  # what aiortc raises for lines that it cannot read
        raise ValueError("the offer is no session description that can be read (RFC 8866)") from error
    if [media.kind for media in offer.media].count("audio") != 1:
        raise ValueError(
            "an offer has one track of sound, and may have one of picture; without a device, ask to receive (recvonly)"
        )
    for media in offer.media:
        ice, dtls = media.ice, media.dtls
        if not (ice and ice.usernameFragment and ice.password and dtls and dtls.fingerprints):
            raise ValueError(f"the offer's {media.kind} has no ICE user name and password, or no role and fingerprint")
        ours = {codec.mimeType.lower() for codec in CODECS.get(media.kind, ())}
        if ours and not ours & {codec.mimeType.lower() for codec in media.rtp.codecs}:
            raise ValueError(f"the offer's {media.kind} has none of the codecs {', '.join(sorted(ours))}")
    mids = {media.rtp.muxId for media in offer.media}
    if any(not mids.issuperset(group.items) for group in offer.group if group.semantic == "BUNDLE"):
        raise ValueError("the offer bundles tracks that it does not have")


class Peer:
    """The `Line` of a client that came by WebRTC, from now on that of its conversation.

    Args:
        conversation: begins when the connection stands.
        messages: called with the conversation and a function that sends one message to the client.
    """

    def __init__(self, conversation: Conversation, messages: MakeMessages) -> None:
        self.tracks = AgentTracks()
        self.conversation = conversation
        self._messages = messages(conversation, self._send)
        servers = [RTCIceServer(**asdict(each)) for each in conversation.options.ice_servers]
        self._connection = RTCPeerConnection(RTCConfiguration(iceServers=servers))
        self._connection.on("track", self._receive)
        self._connection.on("datachannel", self._open_channel)
        self._connection.on("connectionstatechange", self._connection_changed)
        self._received: set[str] = set()  # kinds of the tracks that are taken in
        self._num_candidates = 0
        self._channel: RTCDataChannel | None = None
        conversation.take_line(self)

    async def answer(self, offer: RTCSessionDescription) -> RTCSessionDescription:
        """Accept an offer, the first or a further one of this connection. Sound alone is a conversation, too.

        Raises:
            ValueError: aiortc cannot answer it.
        """
        connection = self._connection
        is_first = connection.remoteDescription is None
        try:
            await connection.setRemoteDescription(offer)
            if is_first:
                connection.addTrack(self.tracks.audio)
                self.tracks.has_picture = any(each.kind == "video" for each in connection.getTransceivers())
            if is_first and self.tracks.has_picture:
                connection.addTrack(self.tracks.video)
            await connection.setLocalDescription(await connection.createAnswer())
        except Exception as error:  # what a library thinks of a stranger's text
            _log.info("aiortc cannot answer the offer of conversation %d", self.conversation.number, exc_info=error)
            raise ValueError("the offer cannot be answered: send it as a browser or aiortc makes it") from error
        return connection.localDescription

    async def add_candidate(self, text: str | None, mid: str | None, index: int | None) -> None:
        """Another address of the client ("candidate:..."), of its media section `mid` or `index`; None: it has no more.

        Raises:
            ValueError: it cannot be read, comes after the last, or is one too many.
        """
        self._num_candidates += 1
        if self._num_candidates > MAX_CANDIDATES:
            raise ValueError(f"a client has at most {MAX_CANDIDATES} candidates")
        try:
            candidate = None
            if text is not None:
                candidate = candidate_from_sdp(text.removeprefix("candidate:"))
                candidate.sdpMid, candidate.sdpMLineIndex = mid, index
            await self._connection.addIceCandidate(candidate)
        except Exception as error:  # what a library thinks of a stranger's text
            raise ValueError('a candidate is written as in "candidate" of RTCIceCandidate, before the end') from error

    # ---- the agent's side ----

    def play(self, unit: AgentUnit, timing: UnitTiming | None) -> None:
        self.tracks.play(unit)
        self._messages.tell(unit, timing)

    def say_goodbye(self, reason: str, sentence: str) -> None:
        self._messages.say_goodbye(reason, sentence)

    async def close(self) -> None:
        await asyncio.sleep(_GOODBYE_SECONDS if self._channel is not None else 0)
        self.tracks.stop()
        await self._connection.close()

    def _send(self, message: dict[str, Any]) -> None:
        """Send unless the client cannot hear it; one that does not read its messages loses them."""
        channel = self._channel
        if channel is None or channel.readyState != "open" or self._connection.connectionState != "connected":
            return
        if channel.bufferedAmount < _MAX_BUFFERED:
            channel.send(json.dumps(message))

    # ---- the user's side ----

    async def _connection_changed(self) -> None:
        state = self._connection.connectionState
        if self.conversation.line is not self:
            return  # the client has come back by another line
        if state == "connected":
            self.conversation.begin()
        elif state == "failed":
            self.conversation.lose("lost")
        elif state == "closed":
            self.conversation.hang_up("left")

    def _receive(self, track: MediaStreamTrack) -> None:
        if track.kind in self._received:  # a screen beside the camera; unread, its frames would pile up
            self.conversation.start(_pass_over(track))
            return
        self._received.add(track.kind)
        self.conversation.start(self._hear(track) if track.kind == "audio" else self._see(track))

    async def _hear(self, track: MediaStreamTrack) -> None:
        intake = SoundIntake()
        while (frame := await _next_frame(track)) is not None:
            self.conversation.hear(intake.convert(frame))

    async def _see(self, track: MediaStreamTrack) -> None:
        """Take in pictures; while one is being converted those that come are passed over, so they cannot pile up."""
        options = self.conversation.options
        intake, converting = PictureIntake(options.height, options.width), None
        while (frame := await _next_frame(track)) is not None:
            if converting is None or converting.done():
                converting = self.conversation.start(self._take_picture(intake, frame))

    async def _take_picture(self, intake: PictureIntake, frame: VideoFrame) -> None:
        try:
            self.conversation.see(await asyncio.to_thread(intake.convert, frame))
        except ValueError as error:
            self.conversation.hang_up("resolution", str(error))

    def _open_channel(self, channel: RTCDataChannel) -> None:
        if self._channel is not None:
            channel.close()
            return
        self._channel = channel
        channel.on("message", self._messages.receive)
        self._messages.opened()


async def _pass_over(track: MediaStreamTrack) -> None:
    while await _next_frame(track) is not None:
        pass


async def _next_frame(track: MediaStreamTrack) -> Any:
    """The next decoded frame, or None when the track has ended."""
    try:
        return await track.recv()
    except MediaStreamError:
        return None
