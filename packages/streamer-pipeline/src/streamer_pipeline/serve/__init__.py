"""`wan-streamer serve`: a page, and a protocol for programs, to talk to a pipeline live (extra `serve`).

Signalling is one POST; sound, picture and words travel by WebRTC (aiortc).
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
