"""The checkpoint that is packaged with this distribution: its name, and where it lies."""

from pathlib import Path

BUNDLED = "wan-streamer-tiny"


def bundled_checkpoint() -> Path:
    """The folder of the checkpoint that is packaged with this distribution."""
    return Path(__file__).parent / BUNDLED
