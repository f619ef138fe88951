"""The grid every part of the world is laid on (DESIGN section 4): one unit = 160 ms = 4 frames = 3,840 samples."""

SAMPLE_RATE = 24_000
FRAME_RATE = 25
UNIT_MS = 160
UNIT_SAMPLES = 3_840
UNIT_FRAMES = 4
UNIT_SECONDS = UNIT_MS / 1000


def unit_at(seconds: float) -> int:
    """Index of the unit that holds the moment `seconds`."""
    return int(seconds * SAMPLE_RATE // UNIT_SAMPLES)


def frame_at(seconds: float) -> int:
    """Index of the video frame that holds the moment `seconds`."""
    return int(seconds * FRAME_RATE)


def units_for(num_samples: int) -> int:
    """Number of units that hold `num_samples` samples, the last one perhaps partly."""
    return -(-num_samples // UNIT_SAMPLES)
