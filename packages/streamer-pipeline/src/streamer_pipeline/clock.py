"""The clock of a conversation, in numbers alone: whoever needs no more than these loads no tensor library."""

UNIT_MS = 160
FRAME_RATE = 25  # Hz
SAMPLE_RATE = 24_000  # Hz
FRAMES_PER_UNIT = FRAME_RATE * UNIT_MS // 1000  # 4
SAMPLES_PER_UNIT = SAMPLE_RATE * UNIT_MS // 1000  # 3840

HEIGHT, WIDTH = 192, 336  # what the report generates; every class takes other sizes as arguments
