"""Small models of public classes with random weights, saved in their own formats, for where the hub is out of reach."""

from collections.abc import Callable
from pathlib import Path

from diffusers import AutoencoderKLWan
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    MimiConfig,
    MimiModel,
    Qwen2Tokenizer,
    Qwen3Config,
    Qwen3ForCausalLM,
    Siglip2Config,
    Siglip2Model,
    VoxtralRealtimeEncoder,
    VoxtralRealtimeEncoderConfig,
)

TEXTS = ["hello there, how are you?", "it is red and round", "I can see you wave"]


def save_qwen3(folder: Path) -> Path:
    """Qwen3 and a tokenizer of its class; the vocabulary has rows to spare, as the public one has."""
    alphabet = {byte: index for index, byte in enumerate(sorted(ByteLevel.alphabet()))}
    tokenizer = Qwen2Tokenizer(vocab=alphabet, merges=[]).train_new_from_iterator(TEXTS, vocab_size=300)
    config = Qwen3Config(
        vocab_size=len(tokenizer) + 16,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=24,
    )
    Qwen3ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def save_wan_vae(folder: Path) -> Path:
    AutoencoderKLWan(base_dim=8).save_pretrained(folder)
    return folder


def save_mimi(folder: Path) -> Path:
    config = MimiConfig(
        hidden_size=32,
        num_filters=4,
        num_hidden_layers=2,
        intermediate_size=64,
        num_attention_heads=4,
        num_key_value_heads=4,
        codebook_dim=16,
        vector_quantization_hidden_dimension=16,
        codebook_size=32,
        num_quantizers=4,
        upsample_groups=32,
    )
    MimiModel(config).save_pretrained(folder)
    return folder


def save_voxtral(folder: Path) -> Path:
    config = VoxtralRealtimeEncoderConfig(
        hidden_size=48, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, head_dim=12, sliding_window=50
    )
    VoxtralRealtimeEncoder(config).save_pretrained(folder)
    return folder


def save_siglip2(folder: Path) -> Path:
    shape = {"hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    Siglip2Model(Siglip2Config(vision_config=shape, text_config={**shape, "vocab_size": 64})).save_pretrained(folder)
    return folder


STAND_INS: dict[str, Callable[[Path], Path]] = {
    "qwen3": save_qwen3,
    "wan_vae": save_wan_vae,
    "mimi": save_mimi,
    "voxtral": save_voxtral,
    "siglip2": save_siglip2,
}
