"""The checkpoint that is packaged with this distribution: its name, and where it lies."""

from pathlib import Path

BUNDLED = "wan-streamer-tiny"
# What one can say to it, for who meets it for the first time.
SUGGESTIONS = (
    *("hello", "who are you", "my name is tom", "what is two plus three", "what color is it", "am i smiling"),
    *("count to ten", "stop"),
)


def bundled_checkpoint() -> Path:
    """The folder of the checkpoint that is packaged with this distribution."""
    return Path(__file__).parent / BUNDLED
