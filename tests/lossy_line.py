"""A bad network between a client and a server on one machine, by aiortc's own means: the two methods through which all
datagrams of its ICE transport pass."""

import asyncio
import contextlib
import random
from dataclasses import dataclass

from aiortc.rtp import RtpPacket, is_rtcp
from streamer_pipeline.serve.client import LiveClient


@dataclass(frozen=True)
class Sent:
    """A datagram of sound or picture as the server sent it, lost later or not.

    timestamp: RTP's, in ticks of 48 kHz for sound, of 90 kHz for pictures, from an origin that is random per stream.
    """

    payload_type: int
    timestamp: int


class LossyLine:
    """The line of a connected client. It is perfect until `loss` or `jitter` are set, in both directions.

    loss: share of datagrams that never arrive; 1 is a line that was cut. jitter: each is late by up to so many seconds,
    evenly, so that they overtake each other. `sent` lists, in order, what the server has sent since this was made.
    """

    def __init__(self, caller: LiveClient, seed: int = 0) -> None:
        self.loss = self.jitter = 0.0
        self.num_lost = 0
        self.sent: list[Sent] = []
        self._random, self._loop = random.Random(seed), asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._arrived: asyncio.Queue[bytes | ConnectionError] = asyncio.Queue()
        ice = caller._connection.sctp.transport.transport  # everything is bundled into one
        self._send, self._receive = ice._send, ice._recv
        ice._send, ice._recv = self._out, self._in
        self._start(self._pump())

    async def _pump(self) -> None:
        while True:
            try:
                data = await self._receive()
            except ConnectionError as error:
                self._arrived.put_nowait(error)
                return
            if 128 <= data[0] < 192 and not is_rtcp(data):  # the header of RTP is not encrypted
                packet = RtpPacket.parse(data)
                self.sent.append(Sent(packet.payload_type, packet.timestamp))
            self._pass_on(lambda data=data: self._arrived.put_nowait(data))

    async def _in(self) -> bytes:
        data = await self._arrived.get()
        if isinstance(data, ConnectionError):
            raise data
        return data

    async def _out(self, data: bytes) -> None:
        if self.loss or self.jitter:
            self._pass_on(lambda: self._start(self._send_late(data)))
        else:
            await self._send(data)

    async def _send_late(self, data: bytes) -> None:
        with contextlib.suppress(ConnectionError):  # hung up meanwhile
            await self._send(data)

    def _pass_on(self, deliver) -> None:
        if self._random.random() < self.loss:
            self.num_lost += 1
        elif self.jitter:
            self._loop.call_later(self._random.uniform(0, self.jitter), deliver)
        else:
            deliver()

    def _start(self, work) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
