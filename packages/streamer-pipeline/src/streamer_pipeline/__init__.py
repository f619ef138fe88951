"""Full-duplex audio-visual conversation in units of 160 ms: thinker, performer, sessions and the pipeline."""

from .dyads import StoredDyad, read_dyads, read_world
from .ledger import LatencyLedger
from .media import RecordingError, RecordingReader, RecordingWriter, side_by_side
from .performer import Performer
from .pipeline import StreamerPipeline, StreamerPipelineOutput, bundled_checkpoint, split_units
from .session import SessionOptions, StreamerSession, step_sessions, unit_noise
from .subtitles import captions, write_srt
from .thinker import Thinker, Thought
from .units import (
    FRAME_RATE,
    FRAMES_PER_UNIT,
    SAMPLE_RATE,
    SAMPLES_PER_UNIT,
    UNIT_MS,
    AgentUnit,
    UnitBuffer,
    UserUnit,
)

__version__ = "0.1.0"
__all__ = [
    "FRAMES_PER_UNIT",
    "FRAME_RATE",
    "SAMPLES_PER_UNIT",
    "SAMPLE_RATE",
    "UNIT_MS",
    "AgentUnit",
    "LatencyLedger",
    "Performer",
    "RecordingError",
    "RecordingReader",
    "RecordingWriter",
    "SessionOptions",
    "StoredDyad",
    "StreamerPipeline",
    "StreamerPipelineOutput",
    "StreamerSession",
    "Thinker",
    "Thought",
    "UnitBuffer",
    "UserUnit",
    "bundled_checkpoint",
    "captions",
    "read_dyads",
    "read_world",
    "side_by_side",
    "split_units",
    "step_sessions",
    "unit_noise",
    "write_srt",
]
