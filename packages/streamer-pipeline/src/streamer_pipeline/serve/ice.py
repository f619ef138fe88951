"""Servers that help a client and this server to find a way to each other: STUN tells addresses, TURN relays."""

from __future__ import annotations

import re
from dataclasses import dataclass

_SERVER = re.compile(
    r"(?P<scheme>stuns?|turns?):((?P<user>[^:@\s]+):(?P<secret>[^@\s]+)@)?"
    r"(?P<rest>([^:@?\s\[]+|\[[0-9a-fA-F:]+\])(:\d{1,5})?(\?transport=(udp|tcp))?)"
)


@dataclass(frozen=True)
class IceServer:
    """One server, as WebRTC names it: an address such as `turn:host:3478?transport=udp`, and who may use it."""

    urls: str
    username: str | None = None
    credential: str | None = None

    @classmethod
    def parse(cls, text: str) -> IceServer:
        """`stun:HOST[:PORT]` or `turn:USER:SECRET@HOST[:PORT][?transport=udp|tcp]`, also `stuns` and `turns`.

        Raises:
            ValueError: it is neither.
        """
        found = _SERVER.fullmatch(text)
        if found is None or found["scheme"].startswith("turn") != (found["user"] is not None):
            raise ValueError(
                f"{text!r} names no STUN or TURN server: give stun:HOST:PORT or turn:USER:SECRET@HOST:PORT, "
                "as turn:me:secret@turn.example.org:3478?transport=udp"
            )
        return cls(f"{found['scheme']}:{found['rest']}", found["user"], found["secret"])
