"""`wan-streamer serve`: a page, and protocols for programs, to talk to a pipeline live (extra `serve`).

`LiveServer` admits a `Conversation`, whatever a client speaks; `protocols` holds a file for each protocol; sound and
picture travel by one of two lines: `peer` (WebRTC) or `websocket`.
"""

from .admission import Capacity, measure_capacity
from .app import create_app, run
from .options import ServeOptions
from .server import LiveServer, ServerFull

__all__ = [
    "Capacity",
    "LiveServer",
    "ServeOptions",
    "ServerFull",
    "create_app",
    "measure_capacity",
    "run",
]
