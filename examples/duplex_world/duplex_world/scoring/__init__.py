"""The world's own rows of the score card: `wan-streamer eval CHECKPOINT --rows duplex_world.scoring:WorldRows`."""

from .rows import ROWS, WorldRows

__all__ = ["ROWS", "WorldRows"]
