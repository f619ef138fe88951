"""Causal perception encoders and small rendering decoders for live audio and video."""

from diffusers.models.modeling_utils import ModelMixin  # noqa: F401  (pipelines look base classes up here)
from transformers import AutoConfig, AutoModel, PreTrainedModel  # noqa: F401

from .audio_encoder import CausalAudioEncoder, CausalAudioEncoderConfig, LogMelFrontEnd
from .decoders import CausalAudioDecoder, CausalVideoDecoder
from .video_encoder import CausalVideoEncoder, CausalVideoEncoderConfig

for _config, _model in (
    (CausalAudioEncoderConfig, CausalAudioEncoder),
    (CausalVideoEncoderConfig, CausalVideoEncoder),
):
    AutoConfig.register(_config.model_type, _config, exist_ok=True)
    AutoModel.register(_config, _model, exist_ok=True)

__version__ = "0.1.0"
__all__ = [
    "CausalAudioDecoder",
    "CausalAudioEncoder",
    "CausalAudioEncoderConfig",
    "CausalVideoDecoder",
    "CausalVideoEncoder",
    "CausalVideoEncoderConfig",
    "LogMelFrontEnd",
]
