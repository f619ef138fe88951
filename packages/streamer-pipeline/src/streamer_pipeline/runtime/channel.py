"""How thinker and performer reach each other: packed tensors in order, bounded, over whatever lies between.

Every channel has two ends with the same three methods. A message is one tensor of bytes (1-d, uint8); `MessageLayout`
says how several tensors become one. What is sent is copied or handed over: the sender does not write to it again.
"""

from __future__ import annotations

import select
import threading
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Protocol

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

if TYPE_CHECKING:
    from multiprocessing.synchronize import Semaphore

CAPACITY = 2  # messages that may be on their way in one direction: commit delay 1 needs two, none needs more


class ChannelClosed(RuntimeError):
    """The other end is gone; the message says why, if it said so."""


class Channel(Protocol):
    """One end."""

    def send(self, message: Tensor) -> None:
        """Send bytes; blocks while `CAPACITY` messages are on their way. ChannelClosed if nobody will read it."""

    def receive(self) -> Tensor:
        """The next message; blocks until there is one. ChannelClosed when the other end has closed."""

    def close(self, reason: str = "") -> None:
        """Tell the other end that nothing more will come. Closing twice is fine."""


@dataclass(frozen=True)
class MessageLayout:
    """Several tensors as one: name -> (shape, dtype), known to both sides, so that no description travels.

    List wider types first: every part must begin at a multiple of its item's size.
    """

    parts: dict[str, tuple[tuple[int, ...], torch.dtype]]

    @property
    def nbytes(self) -> int:
        return sum(self._sizes)

    @property
    def _sizes(self) -> list[int]:
        return [torch.Size(shape).numel() * dtype.itemsize for shape, dtype in self.parts.values()]

    def pack(self, tensors: dict[str, Tensor]) -> Tensor:
        """The tensors' bytes, one after the other.

        Raises:
            ValueError: a tensor has another shape or type than was agreed.
        """
        pieces = []
        for name, (shape, dtype) in self.parts.items():
            part = tensors[name]
            if tuple(part.shape) != shape or part.dtype != dtype:
                raise ValueError(f"{name} is {dtype} {shape} by agreement, got {part.dtype} {tuple(part.shape)}")
            pieces.append(part.reshape(-1).view(torch.uint8))
        return torch.cat(pieces)

    def unpack(self, message: Tensor) -> dict[str, Tensor]:
        """Views into the message.

        Raises:
            ValueError: the message has another length.
        """
        if message.numel() != self.nbytes:
            raise ValueError(
                f"a message of {self.nbytes} bytes was agreed, got {message.numel()}: is it one checkpoint?"
            )
        pieces = message.split(self._sizes)
        return {
            name: piece.view(dtype).view(shape)
            for (name, (shape, dtype)), piece in zip(self.parts.items(), pieces, strict=True)
        }


class ThreadChannel:
    """Between threads of one process: tensors change hands, nothing is copied."""

    def __init__(self, outgoing: _Mailbox, incoming: _Mailbox) -> None:
        self._outgoing, self._incoming = outgoing, incoming

    @classmethod
    def pair(cls) -> tuple[ThreadChannel, ThreadChannel]:
        there, back = _Mailbox(), _Mailbox()
        return cls(there, back), cls(back, there)

    def send(self, message: Tensor) -> None:
        self._outgoing.put(message)

    def receive(self) -> Tensor:
        return self._incoming.get()

    def close(self, reason: str = "") -> None:
        self._outgoing.close(reason)
        self._incoming.close(reason)


class _Mailbox:
    """A bounded queue that can be closed: what is in it can still be read."""

    def __init__(self) -> None:
        self._messages: deque[Tensor] = deque()
        self._changed = threading.Condition()
        self._reason: str | None = None

    def put(self, message: Tensor) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._reason is not None or len(self._messages) < CAPACITY)
            if self._reason is not None:
                raise ChannelClosed(self._reason or "the channel was closed")
            self._messages.append(message)
            self._changed.notify_all()

    def get(self) -> Tensor:
        with self._changed:
            self._changed.wait_for(lambda: self._reason is not None or self._messages)
            if not self._messages:
                raise ChannelClosed(self._reason or "the channel was closed")
            message = self._messages.popleft()
            self._changed.notify_all()
            return message

    def close(self, reason: str) -> None:
        with self._changed:
            self._reason = reason if self._reason is None else self._reason
            self._changed.notify_all()


class ProcessChannel:
    """Between processes of one machine: bytes lie in shared memory, a pipe says that they are there.

    The pipe carries only a length per message, so it never fills and both ends may send at once; it also tells when the
    other process has died. An end can be given to a process that is being started (`torch.multiprocessing`, spawn).
    """

    def __init__(
        self, pipe: Connection, outgoing: tuple[Tensor, Semaphore], incoming: tuple[Tensor, Semaphore]
    ) -> None:
        self._pipe = pipe
        (self._out, self._out_room), (self._in, self._in_room) = outgoing, incoming
        self._num_sent = self._num_received = 0

    @classmethod
    def pair(cls, num_bytes: int) -> tuple[ProcessChannel, ProcessChannel]:
        """Both ends; `num_bytes` is the length of the longest message."""
        context = mp.get_context("spawn")
        near, far = context.Pipe()
        there, back = (
            (torch.zeros(CAPACITY, num_bytes, dtype=torch.uint8).share_memory_(), context.Semaphore(CAPACITY))
            for _ in range(2)
        )
        return cls(near, there, back), cls(far, back, there)

    def send(self, message: Tensor) -> None:
        num_bytes = message.numel()
        if num_bytes > self._out.shape[1]:
            raise ValueError(f"this channel was made for messages of {self._out.shape[1]} bytes, got {num_bytes}")
        while not self._out_room.acquire(timeout=1.0):
            self._check_peer()
        self._out[self._num_sent % CAPACITY, :num_bytes].copy_(message)
        self._num_sent += 1
        self._tell(num_bytes)

    def receive(self) -> Tensor:
        try:
            num_bytes = self._pipe.recv()
        except (EOFError, OSError) as error:
            raise ChannelClosed("the other process has ended") from error
        if isinstance(num_bytes, str):
            raise ChannelClosed(num_bytes or "the channel was closed")
        message = self._in[self._num_received % CAPACITY, :num_bytes].clone()
        self._num_received += 1
        self._in_room.release()
        return message

    def close(self, reason: str = "") -> None:
        if not self._pipe.closed:
            with suppress(ChannelClosed):
                self._tell(reason)
            self._pipe.close()

    def given_away(self) -> None:
        """Forget this process's copy of an end that another process now has, so that its death is noticed."""
        self._pipe.close()

    def _check_peer(self) -> None:
        """Raise what the other process left behind, if it has ended (POSIX)."""
        poll = select.poll()
        poll.register(self._pipe.fileno(), 0)  # a hang-up is reported whatever was asked for
        if poll.poll(0):
            while True:
                self.receive()

    def _tell(self, what: int | str) -> None:
        try:
            self._pipe.send(what)
        except OSError as error:
            raise ChannelClosed("the other process has ended") from error


class DistributedChannel:
    """Between two ranks of the default `torch.distributed` group: gloo on CPU (nccl on GPU: not verified).

    A message is announced by its length, because ranks can only receive what they know the size of. Sending does not
    wait for the other rank until `CAPACITY` messages are on their way.

    Args:
        peer: rank of the other end.
        device: where messages live; nccl moves CUDA tensors only.
    """

    def __init__(self, peer: int, device: torch.device | str = "cpu") -> None:
        self._peer, self._device = peer, device
        self._sending: deque[list[tuple[dist.Work | None, Tensor]]] = deque()
        self._is_closed = False

    def send(self, message: Tensor) -> None:
        self._send(message.to(self._device), message.numel())

    def receive(self) -> Tensor:
        announced = torch.empty(1, dtype=torch.int64, device=self._device)
        self._wait_for(announced)
        num_bytes = int(announced)
        message = torch.empty(abs(num_bytes), dtype=torch.uint8, device=self._device)
        if num_bytes:
            self._wait_for(message)
        if num_bytes <= 0:
            raise ChannelClosed(bytes(message.tolist()).decode() or "the channel was closed")
        return message

    def close(self, reason: str = "") -> None:
        if not self._is_closed:
            self._is_closed = True
            text = torch.tensor(list(reason.encode()), dtype=torch.uint8, device=self._device)
            with suppress(RuntimeError):  # the other rank has already left
                self._send(text, -len(text))
                while self._sending:
                    self._finish_oldest()

    def _send(self, message: Tensor, announced: int) -> None:
        if len(self._sending) == CAPACITY:
            self._finish_oldest()
        parts = [torch.tensor([announced], device=self._device), message]
        self._sending.append([(dist.isend(part, self._peer), part) for part in parts if part.numel()])

    def _finish_oldest(self) -> None:
        for work, _ in self._sending.popleft():
            if work is not None:
                work.wait()

    def _wait_for(self, buffer: Tensor) -> None:
        try:
            dist.recv(buffer, self._peer)
        except RuntimeError as error:
            raise ChannelClosed(f"rank {self._peer} has ended: {error}") from error
