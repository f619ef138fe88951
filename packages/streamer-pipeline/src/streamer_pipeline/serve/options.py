"""What a server was started with. One flat record, checked once."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from pathlib import Path

from ..units import HEIGHT, WIDTH
from .ice import IceServer


@dataclass(frozen=True, kw_only=True)
class ServeOptions:
    """How the live server behaves.

    Args:
        host, port: where the page and the signalling listen. Anything but loopback needs a token.
        token: what a client has to send as `Authorization: Bearer TOKEN`; None asks for nothing.
        origins: origins ("https://example.org") that may call beside the server's own page.
        max_sessions: conversations at once, if memory and speed allow them.
        memory_gib: memory that all sessions' states may take together.
        ice_servers: STUN and TURN servers, for clients and for this server, which uses the first of each kind.
        suggestions: what a user could say, for the page.
        record: folder for conversations whose user consents to be recorded; None records nothing.
        seed: of all noise; session n of a server gets seed + n.
        num_inference_steps: solver steps; None takes the checkpoint's own.
        height, width: the user's picture as the model gets it.
        max_seconds: length of a conversation.
        idle_seconds: a user who neither speaks nor types for so long is hung up on.
        hung_seconds: a client that sends no sound for so long is gone.
        resume_seconds: for so long the conversation of a client that was lost waits for it to come back.
        connect_seconds: a client whose media has not arrived after so long is gone.

    Raises:
        ValueError: a number is out of range, or the host is not loopback and there is no token.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    token: str | None = None
    origins: tuple[str, ...] = ()
    max_sessions: int = 1
    memory_gib: float = 4.0
    ice_servers: tuple[IceServer, ...] = ()
    suggestions: tuple[str, ...] = ()
    record: Path | None = None
    seed: int = 0
    num_inference_steps: int | None = None
    height: int = HEIGHT
    width: int = WIDTH
    max_seconds: float = 1800.0
    idle_seconds: float = 300.0
    hung_seconds: float = 10.0
    resume_seconds: float = 30.0
    connect_seconds: float = 20.0

    def __post_init__(self) -> None:
        if self.max_sessions < 1:
            raise ValueError(f"max_sessions is at least 1, got {self.max_sessions}")
        for name in ("memory_gib", "max_seconds", "idle_seconds", "hung_seconds", "connect_seconds"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is above 0, got {getattr(self, name)}")
        if not self.resume_seconds >= 0:
            raise ValueError(f"resume_seconds is 0 or more, got {self.resume_seconds}")
        if not self.is_loopback and not self.token:
            raise ValueError(
                f"the host {self.host} can be reached from other machines: give a token, or stay on 127.0.0.1"
            )

    @property
    def is_loopback(self) -> bool:
        return is_loopback(self.host)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach what listens on `host`."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
