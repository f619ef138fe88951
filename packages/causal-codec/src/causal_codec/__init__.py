"""Causal perception encoders and small rendering decoders for live audio and video."""

from diffusers.models.modeling_utils import ModelMixin  # noqa: F401  (pipelines look base classes up here)
from transformers import AutoConfig, AutoModel, PreTrainedModel  # noqa: F401

from .adapters.siglip import SiglipVideoEncoder, SiglipVideoEncoderConfig
from .adapters.speech_embedding import (
    SpeechEmbedding,
    SpeechEmbeddingAudioEncoder,
    SpeechEmbeddingAudioEncoderConfig,
    SpeechEmbeddingConfig,
)
from .adapters.voxtral import VoxtralAudioEncoder, VoxtralAudioEncoderConfig
from .audio_encoder import CausalAudioEncoder, CausalAudioEncoderConfig, LogMelFrontEnd
from .decoders import CausalAudioDecoder, CausalVideoDecoder
from .video_encoder import CausalVideoEncoder, CausalVideoEncoderConfig

AutoConfig.register("causal_audio_encoder", CausalAudioEncoderConfig, exist_ok=True)
AutoConfig.register("causal_video_encoder", CausalVideoEncoderConfig, exist_ok=True)
AutoConfig.register("siglip_video_encoder", SiglipVideoEncoderConfig, exist_ok=True)
AutoConfig.register("speech_embedding", SpeechEmbeddingConfig, exist_ok=True)
AutoConfig.register("speech_embedding_audio_encoder", SpeechEmbeddingAudioEncoderConfig, exist_ok=True)
AutoConfig.register("voxtral_audio_encoder", VoxtralAudioEncoderConfig, exist_ok=True)
AutoModel.register(CausalAudioEncoderConfig, CausalAudioEncoder, exist_ok=True)
AutoModel.register(CausalVideoEncoderConfig, CausalVideoEncoder, exist_ok=True)
AutoModel.register(SiglipVideoEncoderConfig, SiglipVideoEncoder, exist_ok=True)
AutoModel.register(SpeechEmbeddingConfig, SpeechEmbedding, exist_ok=True)
AutoModel.register(SpeechEmbeddingAudioEncoderConfig, SpeechEmbeddingAudioEncoder, exist_ok=True)
AutoModel.register(VoxtralAudioEncoderConfig, VoxtralAudioEncoder, exist_ok=True)

__version__ = "0.2.0"
__all__ = [
    "CausalAudioDecoder",
    "CausalAudioEncoder",
    "CausalAudioEncoderConfig",
    "CausalVideoDecoder",
    "CausalVideoEncoder",
    "CausalVideoEncoderConfig",
    "LogMelFrontEnd",
    "SiglipVideoEncoder",
    "SiglipVideoEncoderConfig",
    "SpeechEmbedding",
    "SpeechEmbeddingAudioEncoder",
    "SpeechEmbeddingAudioEncoderConfig",
    "SpeechEmbeddingConfig",
    "VoxtralAudioEncoder",
    "VoxtralAudioEncoderConfig",
]
