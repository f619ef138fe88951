"""The streaming Transformer of open Wan-Streamer: unit layout, key-value state, flow matching."""

from diffusers.schedulers.scheduling_utils import SchedulerMixin  # noqa: F401  (pipelines look the base class up here)
from transformers import AutoConfig, AutoModel, PreTrainedModel, PreTrainedTokenizerFast  # noqa: F401

from .cache import CacheSpec, advance, grow, init_kv_state, read_kv, start_history, write_kv
from .config import StreamerConfig, preset
from .generation import (
    Context,
    GeneratedUnit,
    choose_language,
    commit_response,
    context_pass,
    draft_language,
    generate_unit,
    response_velocity,
    revise_language,
    settle_language,
    write_down,
)
from .latent_adapters import VIDEO_ADAPTERS, with_video_latents
from .latents import pack_audio, pack_video, unpack_audio, unpack_video
from .layout import UnitLayout
from .losses import WeightedMean, streamer_loss
from .masks import training_mask
from .model import Reference, StreamerModel, StreamerOutput, UnitStreams
from .scheduler import (
    FlowMatchScheduler,
    Latents,
    Solver,
    UniPCFlowScheduler,
    as_solver,
    sample_logit_normal,
)
from .tokenizer import StreamerTokenizer
from .transformer import AttentionInputs, StreamerTransformer

AutoConfig.register("wan_streamer", StreamerConfig, exist_ok=True)
AutoModel.register(StreamerConfig, StreamerModel, exist_ok=True)

__version__ = "0.2.0"
__all__ = [
    "VIDEO_ADAPTERS",
    "AttentionInputs",
    "CacheSpec",
    "Context",
    "FlowMatchScheduler",
    "GeneratedUnit",
    "Latents",
    "Reference",
    "Solver",
    "StreamerConfig",
    "StreamerModel",
    "StreamerOutput",
    "StreamerTokenizer",
    "StreamerTransformer",
    "UniPCFlowScheduler",
    "UnitLayout",
    "UnitStreams",
    "WeightedMean",
    "advance",
    "as_solver",
    "choose_language",
    "commit_response",
    "context_pass",
    "draft_language",
    "generate_unit",
    "grow",
    "init_kv_state",
    "pack_audio",
    "pack_video",
    "preset",
    "read_kv",
    "response_velocity",
    "revise_language",
    "sample_logit_normal",
    "settle_language",
    "start_history",
    "streamer_loss",
    "training_mask",
    "unpack_audio",
    "unpack_video",
    "with_video_latents",
    "write_down",
    "write_kv",
]
