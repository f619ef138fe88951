"""Causal latent coding of live audio and video, and the streaming primitives that every other part is built on."""

from diffusers.models.modeling_utils import ModelMixin  # noqa: F401  (pipelines look the base class up here)

from .adapters.mimi import MimiAudioVAE
from .adapters.wan import WanVideoVAE
from .attention import SlidingWindowAttention
from .audio_vae import AudioDecoder, CausalAudioVAE, CausalConvNeXt
from .certification.certificate import Certificate, certify
from .certification.comparison import compare_certificates, compare_parts
from .config_fields import check_fields
from .distributions import DiagonalGaussian
from .hub.cards import ModelCardMixin
from .hub.loading import CheckedFiles, CheckedLoading, as_dtype, take_dtype
from .layers import CausalConv1d, CausalConv3d, CausalConvTranspose1d
from .spec import StreamSpec, per_unit
from .spectral import InverseSTFT, LogMel, mel_filterbank
from .streaming import (
    State,
    StreamingModule,
    StreamingSequential,
    clone_state,
    execution_device,
    flatten_state,
    index_state,
    map_state,
    reset_state,
    select_state,
    stack_states,
    state_nbytes,
    substates,
    unflatten_state,
)
from .video_vae import CausalVideoVAE, VideoDecoder

__version__ = "0.2.0"
__all__ = [
    "AudioDecoder",
    "CausalAudioVAE",
    "CausalConv1d",
    "CausalConv3d",
    "CausalConvNeXt",
    "CausalConvTranspose1d",
    "CausalVideoVAE",
    "Certificate",
    "CheckedFiles",
    "CheckedLoading",
    "DiagonalGaussian",
    "InverseSTFT",
    "LogMel",
    "MimiAudioVAE",
    "ModelCardMixin",
    "SlidingWindowAttention",
    "State",
    "StreamSpec",
    "StreamingModule",
    "StreamingSequential",
    "VideoDecoder",
    "WanVideoVAE",
    "as_dtype",
    "certify",
    "check_fields",
    "clone_state",
    "compare_certificates",
    "compare_parts",
    "execution_device",
    "flatten_state",
    "index_state",
    "map_state",
    "mel_filterbank",
    "per_unit",
    "reset_state",
    "select_state",
    "stack_states",
    "state_nbytes",
    "substates",
    "take_dtype",
    "unflatten_state",
]
