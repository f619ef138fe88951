"""Where everything lies that is made or downloaded once and used again."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """`$WAN_STREAMER_CACHE`, else `~/.cache/wan-streamer`; it is made."""
    folder = Path(os.environ.get("WAN_STREAMER_CACHE") or "~/.cache/wan-streamer").expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    return folder
