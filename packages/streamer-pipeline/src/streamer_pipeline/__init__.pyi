# What the package exports; each name is imported from its module when it is first asked for.
from .batch import SessionBatch
from .channel import Channel, ChannelClosed, DistributedChannel, Parcel, ProcessChannel, ThreadChannel
from .checkpoints import bundled_checkpoint
from .conversation import ConversationWriter
from .dyads import StoredDyad, read_dyads, read_world
from .ledger import LatencyLedger, Span, StopWatch, UnitTiming
from .media import RecordingError, RecordingReader, RecordingWriter, side_by_side
from .performer import Performer
from .pipeline import StreamerPipeline, StreamerPipelineOutput
from .realtime import MonotonicClock, RealTimeSession, RealTimeStatistics
from .session import SessionOptions, StreamerSession
from .split import SplitSession, message_nbytes, perform, split_over_processes, split_over_threads
from .subtitles import captions, write_srt
from .thinker import Thinker
from .units import (
    FRAME_RATE,
    FRAMES_PER_UNIT,
    SAMPLE_RATE,
    SAMPLES_PER_UNIT,
    UNIT_MS,
    AgentUnit,
    UnitBuffer,
    UserUnit,
    split_units,
)
from .world import PreparedWorld, World

__version__: str
__all__ = [
    "FRAMES_PER_UNIT",
    "FRAME_RATE",
    "SAMPLES_PER_UNIT",
    "SAMPLE_RATE",
    "UNIT_MS",
    "AgentUnit",
    "Channel",
    "ChannelClosed",
    "ConversationWriter",
    "DistributedChannel",
    "LatencyLedger",
    "MonotonicClock",
    "Parcel",
    "Performer",
    "PreparedWorld",
    "ProcessChannel",
    "RealTimeSession",
    "RealTimeStatistics",
    "RecordingError",
    "RecordingReader",
    "RecordingWriter",
    "SessionBatch",
    "SessionOptions",
    "Span",
    "SplitSession",
    "StopWatch",
    "StoredDyad",
    "StreamerPipeline",
    "StreamerPipelineOutput",
    "StreamerSession",
    "Thinker",
    "ThreadChannel",
    "UnitBuffer",
    "UnitTiming",
    "UserUnit",
    "World",
    "bundled_checkpoint",
    "captions",
    "message_nbytes",
    "perform",
    "read_dyads",
    "read_world",
    "side_by_side",
    "split_over_processes",
    "split_over_threads",
    "split_units",
    "write_srt",
]
