# What the package exports; each name is imported from its module when it is first asked for.
from .batch import SessionBatch
from .checkpoints import bundled_checkpoint
from .data.dyads import StoredDyad, read_dataset_info, read_dyads
from .ledger import LatencyLedger, Span, StopWatch, UnitTiming
from .media.containers import RecordingError
from .media.conversation import ConversationWriter
from .media.recordings import RecordingReader, RecordingWriter, side_by_side
from .media.subtitles import captions, write_srt
from .performer import Performer
from .persona import Persona, PreparedPersona
from .pipeline import StreamerPipeline, StreamerPipelineOutput
from .runtime.channel import Channel, ChannelClosed, DistributedChannel, MessageLayout, ProcessChannel, ThreadChannel
from .runtime.realtime import MonotonicClock, RealTimeSession, RealTimeStatistics
from .runtime.split import SplitSession, message_nbytes, perform, split_over_processes, split_over_threads
from .session import SessionOptions, StreamerSession
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
    "MessageLayout",
    "MonotonicClock",
    "Performer",
    "Persona",
    "PreparedPersona",
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
    "bundled_checkpoint",
    "captions",
    "message_nbytes",
    "perform",
    "read_dataset_info",
    "read_dyads",
    "side_by_side",
    "split_over_processes",
    "split_over_threads",
    "split_units",
    "write_srt",
]
