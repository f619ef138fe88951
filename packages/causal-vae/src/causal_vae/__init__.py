"""Causal latent coding of live audio and video, and the streaming primitives that every other part is built on."""

from diffusers.models.modeling_utils import ModelMixin  # noqa: F401  (pipelines look the base class up here)

from .attention import SlidingAttention
from .audio_vae import AudioDecoder, CausalAudioVAE, CausalConvNeXt
from .cards import BringsCard
from .certificate import Certificate, certify
from .config_fields import check_fields
from .distributions import DiagonalGaussian
from .layers import CausalConv1d, CausalConv3d, CausalConvTranspose1d
from .loading import CheckedFiles, CheckedLoading, as_dtype, take_dtype
from .mimi_audio_vae import MimiAudioVAE
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
from .wan_video_vae import WanVideoVAE

__version__ = "0.1.0"
__all__ = [
    "AudioDecoder",
    "BringsCard",
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
    "SlidingAttention",
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
