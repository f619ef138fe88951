"""The grid every part of the world is laid on: one unit = 160 ms = 4 frames = 3,840 samples."""

from streamer_pipeline.clock import FRAME_RATE, FRAMES_PER_UNIT, SAMPLE_RATE, SAMPLES_PER_UNIT, UNIT_MS

__all__ = ["FRAMES_PER_UNIT", "FRAME_RATE", "SAMPLES_PER_UNIT", "SAMPLE_RATE", "UNIT_MS", "UNIT_SECONDS"]
UNIT_SECONDS = UNIT_MS / 1000


def unit_at(seconds: float) -> int:
    """Index of the unit that holds the moment `seconds`."""
    return int(seconds * SAMPLE_RATE // SAMPLES_PER_UNIT)


def frame_at(seconds: float) -> int:
    """Index of the video frame that holds the moment `seconds`."""
    return int(seconds * FRAME_RATE)


def units_for(num_samples: int) -> int:
    """Number of units that hold `num_samples` samples, the last one perhaps partly."""
    return -(-num_samples // SAMPLES_PER_UNIT)
