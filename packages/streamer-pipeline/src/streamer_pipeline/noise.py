"""Randomness of a conversation: a function of (seed, unit), so that a session's noise needs no generator's state.

Every (seed, unit, purpose) is a key of its own of the counter-based generator Philox (Salmon et al. 2011), so no two
share a stream, however near they are. Numbers are drawn on the CPU: a conversation is the same on every device.
"""

from __future__ import annotations

from hashlib import blake2b

import numpy as np
import torch
from streamer_core import Latents, StreamerConfig
from torch import Tensor

SEEDS = range(-(2**63), 2**63)


def response_noise(config: StreamerConfig, seed: int, unit: int) -> Latents:
    """Noise of one unit's response, "audio" and "video" (1, tokens, dim): always the same, so no side need send it."""
    generator, c = _generator(seed, unit, "response"), config
    shapes = {
        "audio": (1, c.agent_audio_tokens, c.audio_token_dim),
        "video": (1, c.agent_video_tokens, c.video_token_dim),
    }
    return {name: torch.from_numpy(generator.standard_normal(shape, np.float32)) for name, shape in shapes.items()}


def language_noise(config: StreamerConfig, seed: int, unit: int) -> Tensor:
    """Gumbel noise of one unit's language slots (1, slots, V), drawn apart from the response's."""
    shape = 1, 1 + config.agent_text_slots, config.vocab_size
    exponential = _generator(seed, unit, "language").standard_exponential(shape, np.float32)
    return -torch.from_numpy(exponential).clamp(min=1e-20).log()


def _generator(seed: int, unit: int, purpose: str) -> np.random.Generator:
    key = blake2b(f"{purpose} {seed} {unit}".encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(key, "little")))
