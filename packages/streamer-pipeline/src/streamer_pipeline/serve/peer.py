"""One client: a WebRTC connection, a session of the model, and the tasks between them, from the offer to the end.

Whatever ends a conversation (the user, the network, a limit, an error) goes through `hang_up`, and `closed` returns
when nothing of it is left: no task, thread, socket or state.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from dataclasses import asdict
from typing import Any

from aiortc import RTCConfiguration, RTCDataChannel, RTCPeerConnection, RTCSessionDescription
from aiortc.mediastreams import MediaStreamError, MediaStreamTrack
from av import VideoFrame

from ..runtime.realtime import RealTimeSession, RealTimeStatistics
from ..units import UNIT_MS, AgentUnit
from .batching import BatchedSession
from .messages import MESSAGES_PER_SECOND, MessageError, RateLimit, parse_message
from .metrics import ServeMetrics
from .options import ServeOptions
from .recording import SessionRecorder
from .tracks import AgentTracks, PictureIntake, SoundIntake

_log = logging.getLogger(__name__)
_SPEECH_LEVEL = 0.01  # root mean square of a packet that counts as the user being there
_PATIENCE_SECONDS = 1.0
_MAX_BUFFERED = 256 * 1024  # bytes that a client may leave unread in its data channel


class Peer:
    """A conversation with one client.

    Args:
        number: of the conversation since the server started.
        session: its state belongs to this conversation alone.
        executor: where blocking calls wait; one of its threads is this conversation's while it lasts.
        recorder: where the conversation is recorded, or None.
    """

    def __init__(
        self,
        number: int,
        session: BatchedSession,
        options: ServeOptions,
        metrics: ServeMetrics,
        executor: Executor,
        recorder: SessionRecorder | None,
    ) -> None:
        self.number = number
        self._options, self._metrics, self._executor, self._recorder = options, metrics, executor, recorder
        self._session, self._live = session, RealTimeSession(session)
        # No STUN server: a client on another network needs a route to this host.
        self._connection = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        self._tracks = AgentTracks()
        self._channel: RTCDataChannel | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._rate = RateLimit(MESSAGES_PER_SECOND)
        self._counted: dict[str, int] = {}
        self._closing: asyncio.Task[None] | None = None
        self._on_close: list[Callable[[], None]] = []
        clock = asyncio.get_running_loop().time
        self._began = self._heard_at = self._present_at = clock()
        self._is_connected = False

    async def answer(self, offer: RTCSessionDescription) -> RTCSessionDescription:
        """Accept an offer; the conversation begins when the connection stands.

        Raises:
            ValueError: aiortc cannot read the offer, or it does not offer one track of sound and one of picture.
        """
        connection = self._connection
        connection.on("track", self._receive)
        connection.on("datachannel", self._open_channel)
        connection.on("connectionstatechange", self._connection_changed)
        try:
            await connection.setRemoteDescription(offer)
            if {transceiver.kind for transceiver in connection.getTransceivers()} != {"audio", "video"}:
                raise ValueError(
                    "it has one track of sound and one of picture; ask to receive where there is no device"
                )
            connection.addTrack(self._tracks.audio)
            connection.addTrack(self._tracks.video)
            await connection.setLocalDescription(await connection.createAnswer())
        except (ValueError, KeyError, IndexError, AttributeError, AssertionError, TypeError) as error:
            raise ValueError(f"the offer cannot be answered: {error}") from error
        self._start(self._watch())
        return connection.localDescription

    def on_close(self, call: Callable[[], None]) -> None:
        """`call` when nothing of this conversation is left."""
        self._on_close.append(call)

    def hang_up(self, reason: str, sentence: str | None = None) -> None:
        """End the conversation; further calls do nothing. sentence: what the client is told, if it can still hear."""
        if self._closing is None:
            _log.info("conversation %d ends: %s", self.number, reason)
            self._metrics.ended.labels(reason).inc()
            if sentence:
                self._send({"type": "bye", "reason": reason, "message": sentence})
            self._closing = asyncio.create_task(self._close(), name=f"close-{self.number}")

    async def closed(self) -> None:
        """Wait for the end."""
        if self._closing is not None:
            await asyncio.shield(self._closing)

    # ---- the user's side ----

    def _receive(self, track: MediaStreamTrack) -> None:
        self._start(self._hear(track) if track.kind == "audio" else self._see(track))

    async def _hear(self, track: MediaStreamTrack) -> None:
        intake, clock = SoundIntake(), asyncio.get_running_loop().time
        while (frame := await _next_frame(track)) is not None:
            samples = intake.convert(frame)
            self._heard_at = clock()
            if samples.numel() and samples.square().mean().sqrt() > _SPEECH_LEVEL:
                self._present_at = self._heard_at
            self._live.push_audio(samples)

    async def _see(self, track: MediaStreamTrack) -> None:
        """Take in pictures; while one is being converted those that come are passed over, so they cannot pile up."""
        intake, converting = PictureIntake(self._options.height, self._options.width), None
        while (frame := await _next_frame(track)) is not None:
            if converting is None or converting.done():
                converting = self._start(self._take_picture(intake, frame))

    async def _take_picture(self, intake: PictureIntake, frame: VideoFrame) -> None:
        try:
            frames = await asyncio.to_thread(intake.convert, frame)
        except ValueError as error:
            self.hang_up("resolution", str(error))
            return
        if frames.shape[1]:
            self._live.push_video(frames)

    def _open_channel(self, channel: RTCDataChannel) -> None:
        if self._channel is not None:
            channel.close()
            return
        self._channel = channel
        channel.on("message", self._take_message)
        self._send(
            {
                "type": "hello",
                "session": self.number,
                "recording": self._recorder is not None,
                "unit_ms": UNIT_MS,
                "max_seconds": self._options.max_seconds,
            }
        )

    def _take_message(self, data: str | bytes) -> None:
        if not self._rate.allows():
            self.hang_up("rate", f"more than {MESSAGES_PER_SECOND} messages per second")
            return
        try:
            message = parse_message(data)
        except MessageError as error:
            self._send({"type": "error", "message": str(error)})
            if error.fatal:
                self.hang_up("message", str(error))
            return
        if message["type"] == "ping":
            self._send({"type": "pong", "id": message["id"]})
        else:
            self._present_at = asyncio.get_running_loop().time()
            try:
                self._live.push_text(message["text"])
            except ValueError as error:
                self._send({"type": "error", "message": str(error)})

    # ---- the agent's side ----

    async def _connection_changed(self) -> None:
        state = self._connection.connectionState
        if state == "connected" and not self._is_connected:
            self._is_connected = True
            self._metrics.admitted.inc()
            self._began = self._heard_at = self._present_at = asyncio.get_running_loop().time()
            self._start(self._talk())
        elif state in ("failed", "closed"):
            self.hang_up("left" if state == "closed" else "lost")

    async def _talk(self) -> None:
        loop = asyncio.get_running_loop()
        self._live.__enter__()
        while True:
            try:
                unit = await loop.run_in_executor(self._executor, self._live.next_unit, _PATIENCE_SECONDS)
            except TimeoutError:  # no first answer yet; `_watch` decides how long that may last
                continue
            self._tracks.play(unit)
            statistics = self._live.statistics
            self._tell(unit, statistics)
            self._count(unit, statistics)

    def _tell(self, unit: AgentUnit, statistics: RealTimeStatistics) -> None:
        """What the client may know of a unit that leaves now. A filler has no latency: it answers nothing."""
        message = {"type": "unit", "index": unit.index, "state": unit.state, "text": unit.text}
        if unit.latency:
            waited = UNIT_MS * statistics.waiting_units
            taken = 1000 * (time.monotonic() - self._session.begun_at.get(unit.index, time.monotonic()))
            message |= {"model_ms": round(unit.latency["total"], 1), "reply_ms": round(waited + taken, 1)}
        self._send(message)

    def _count(self, unit: AgentUnit, statistics: RealTimeStatistics) -> None:
        metrics, now = self._metrics, asdict(statistics)
        if unit.latency:
            metrics.unit_seconds.observe(unit.latency["total"] / 1000)
        for name, counter in (("late", metrics.late), ("fillers", metrics.fillers), ("dropped_units", metrics.dropped)):
            counter.inc(now[name] - self._counted.get(name, 0))
        for side, name in (("in", "waiting_units"), ("out", "ready_units")):
            metrics.waiting.labels(side).inc(now[name] - self._counted.get(name, 0))
        self._counted = now

    def _send(self, message: dict[str, Any]) -> None:
        """Send unless the client cannot hear it; one that does not read its messages loses them."""
        channel = self._channel
        if channel is None or channel.readyState != "open" or self._connection.connectionState != "connected":
            return
        if channel.bufferedAmount < _MAX_BUFFERED:
            channel.send(json.dumps(message))

    # ---- limits and the end ----

    async def _watch(self) -> None:
        """Hang up on clients that never arrive, go silent as clients, do not use the line, or stay too long."""
        options, clock = self._options, asyncio.get_running_loop().time
        while True:
            await asyncio.sleep(0.25)
            now = clock()
            if not self._is_connected:
                if now - self._began > options.connect_seconds:
                    self.hang_up("connect")
            elif now - self._heard_at > options.hung_seconds:
                self.hang_up("hung", "no sound has come from you for a while; the line is given to others")
            elif now - self._present_at > options.idle_seconds:
                self.hang_up("idle", "nobody has spoken or typed for a while; the line is given to others")
            elif now - self._began > options.max_seconds:
                self.hang_up("limit", f"a conversation ends after {options.max_seconds / 60:.0f} minutes")

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None] | None:
        """Run until done or until the end; None if the end has come."""
        if self._closing is not None:
            work.close()
            return None
        task = asyncio.create_task(work, name=f"{getattr(work, '__name__', 'work')}-{self.number}")
        task.add_done_callback(self._finished)
        self._tasks.add(task)
        return task

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("conversation %d failed", self.number, exc_info=error)
            self.hang_up("error", "the server had an error; please connect again")

    async def _close(self) -> None:
        await asyncio.sleep(0.2 if self._channel is not None else 0)  # lets the "bye" leave
        self._tracks.stop()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._connection.close()
        await asyncio.to_thread(self._close_blocking)
        for side, name in (("in", "waiting_units"), ("out", "ready_units")):
            self._metrics.waiting.labels(side).dec(self._counted.get(name, 0))
        for call in self._on_close:
            call()

    def _close_blocking(self) -> None:
        self._live.__exit__(None, None, None)
        self._session.close()
        if self._recorder is not None:
            self._recorder.close()


async def _next_frame(track: MediaStreamTrack) -> Any:
    """The next decoded frame, or None when the track has ended."""
    try:
        return await track.recv()
    except MediaStreamError:
        return None
