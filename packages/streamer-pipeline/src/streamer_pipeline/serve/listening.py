"""What a server needs of its machine, asked for before anything is loaded: an address, and the means for HTTPS."""

from __future__ import annotations

import errno
import socket
import ssl
from pathlib import Path
from typing import Any

_PORT_TROUBLE = {errno.EADDRINUSE: "is taken by another program", errno.EACCES: "is for administrators alone"}


def listen(host: str, port: int) -> list[socket.socket]:
    """Sockets on every address of the host, listening: of two servers that start at once, the second is told here.

    Who calls before the checkpoint is loaded waits.

    Raises:
        OSError: the host is none of this machine, or the port cannot be had; the message says which.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise OSError(f"there is no host {host!r}: give a name or an address of this machine, as 127.0.0.1") from error
    sockets: list[socket.socket] = []
    for family, kind, protocol, _, address in dict.fromkeys(found):
        try:
            sockets.append(_listen(family, kind, protocol, address))
        except OSError as error:
            if error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                continue  # a name may stand for addresses of a kind that this machine does not use
            for opened in sockets:
                opened.close()
            reason = _PORT_TROUBLE.get(error.errno or 0, f"cannot be had ({error.strerror})")
            raise OSError(f"port {port} of {host} {reason}; give another --port") from error
    if not sockets:
        raise OSError(f"{host} is not an address of this machine: give one that is, as 127.0.0.1 or 0.0.0.0")
    return sockets


def _listen(family: int, kind: int, protocol: int, address: tuple[Any, ...]) -> socket.socket:
    opened = socket.socket(family, kind, protocol)
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)  # IPv4 has a socket of its own
        opened.bind(address)
        opened.listen()
    except OSError:
        opened.close()
        raise
    return opened


def check_certificate(certificate: Path | None, key: Path | None) -> None:
    """Raise ValueError unless HTTPS is possible with these PEM files, or none is asked for."""
    if certificate is None:
        if key is not None:
            raise ValueError(f"the key {key} needs the certificate that it belongs to: give --certificate too")
        return
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password="")
    except OSError as error:  # also what OpenSSL finds wrong
        raise ValueError(
            f"{certificate}{f' and {key}' if key else ''} cannot be used for HTTPS: both are PEM files, the key is the "
            f"certificate's own and without a password ({error})"
        ) from error
