"""Whether parts keep the contract and fit each other: asked once, when a pipeline is built, and never while it runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from itertools import combinations
from typing import Any

from causal_vae import StreamSpec
from diffusers import FlowMatchEulerDiscreteScheduler
from torch import nn

from ..units import FRAMES_PER_UNIT, SAMPLE_RATE

# The pipeline's own clock, which no part can change.
CLOCK = StreamSpec(sample_rate=SAMPLE_RATE, frames_per_unit=FRAMES_PER_UNIT, frames_per_latent=FRAMES_PER_UNIT)

KINDS = ("audio", "video")
_STREAMER_FIELDS = (
    *("user_audio_tokens", "user_video_tokens", "perception_dim", "audio_latents_per_unit", "audio_latent_channels"),
    *("video_latent_channels", "video_latent_height", "video_latent_width"),
)
_STREAMING = ("stride", "upsample", "chunk_shape", "init_state", "forward")
CONTRACT = {
    "streamer": ("prefill", "step", "embed_user", "embed_language", "embed_response", "velocities"),
    "tokenizer": ("encode_words", "decode_stream"),
    "scheduler": ("solve",),
    "audio_encoder": _STREAMING,
    "video_encoder": _STREAMING,
    "audio_vae": (*_STREAMING, "encode", "decode"),
    "video_vae": (*_STREAMING, "encode", "decode"),
    "audio_decoder": _STREAMING,
    "video_decoder": _STREAMING,
}
"""What a part, or its class, must have to be used as that component."""


def check_contract(name: str, part: Any) -> None:
    """Raise ValueError, with what is missing, unless a part (an object or its class) can be the component `name`."""
    called = getattr(part, "__name__", type(part).__name__)
    missing = [attribute for attribute in CONTRACT[name] if not hasattr(part, attribute)]
    is_stock_solver = name == "scheduler" and issubclass(_class_of(part), FlowMatchEulerDiscreteScheduler)
    if missing and not is_stock_solver:
        raise ValueError(f"{called} cannot be the {name}: it has no {', '.join(missing)} (see `causal_vae.streaming`)")


def _class_of(part: Any) -> type:
    return part if isinstance(part, type) else type(part)


def check_fit(parts: Mapping[str, Any]) -> None:
    """Check the components of a pipeline by name; None where there is none.

    Raises:
        ValueError: one does not keep the contract, nothing can render, or two differ in a number that both declare.
    """
    given = {name: part for name, part in parts.items() if part is not None}
    for name, part in given.items():
        check_contract(name, part)
    for kind in KINDS:
        if not given.keys() & {f"{kind}_vae", f"{kind}_decoder"}:
            raise ValueError(f"nothing can render {kind}: give {kind}_decoder or {kind}_vae")
    specs = {f"{name} ({type(part).__name__})": spec_of(name, part) for name, part in given.items()}
    for (first, one), (second, other) in combinations({"pipeline": CLOCK, **specs}.items(), 2):
        for field, here, there in one.conflicts(other):
            raise ValueError(
                f"{second} has {field} {there}, {first} has {here}: they do not fit; a part of another shape needs a "
                f"streamer trained on it"
            )
    _check_tokenizer(parts["tokenizer"], parts["streamer"])


def streamer_fields(parts: Mapping[str, Any], height: int, width: int) -> dict[str, int]:
    """Fields of a `StreamerConfig` that fit these encoders and VAEs, for pictures of `height` x `width` pixels.

    How many latents make a token (`audio_patch_size`, `video_patch_height`, `video_patch_width`) is left to choose.

    Args:
        parts: by the names that a pipeline gives them.

    Raises:
        ValueError: two parts differ in a number that both declare, or pictures of this size are no whole latent grid.
    """
    told: dict[str, tuple[int, str]] = {}
    for name, part in parts.items():
        for field, value in asdict(spec_of(name, part)).items():
            if value is None:
                continue
            known, teller = told.setdefault(field, (value, name))
            if known != value:
                raise ValueError(f"{name} has {field} {value}, {teller} has {known}: no streamer fits both")
    found = {field: value for field, (value, _) in told.items()}
    if (side := found.get("pixels_per_cell")) is not None:
        if height % side or width % side:
            raise ValueError(f"pictures are a multiple of {side} pixels high and wide; got {height} x {width}")
        found = {"video_latent_height": height // side, "video_latent_width": width // side} | found
    return {field: value for field, value in found.items() if field in _STREAMER_FIELDS}


def spec_of(name: str, part: Any) -> StreamSpec:
    """What a part declares; of one that declares nothing, what its config says under our names."""
    declared = getattr(part, "stream_spec", None)
    if isinstance(declared, StreamSpec):
        return declared
    if not isinstance(part, nn.Module):
        return StreamSpec()
    kind, _, role = name.partition("_")
    config = getattr(part, "config", None)
    ours = {"perception_dim": "output_dim"} if role == "encoder" else {f"{kind}_latent_channels": "latent_channels"}
    told = {field: getattr(config, theirs, None) for field, theirs in ours.items()}
    return StreamSpec(**{field: value for field, value in told.items() if isinstance(value, int)})


def _check_tokenizer(tokenizer: Any, streamer: Any) -> None:
    """Raise ValueError where words or control tokens are not those that the streamer was trained on."""
    config = streamer.config
    highest = max(tokenizer.get_vocab().values(), default=-1)
    if highest >= config.vocab_size:
        raise ValueError(
            f"the tokenizer has {highest + 1} words, the streamer a vocabulary of {config.vocab_size}: take both from "
            f"one checkpoint"
        )
    ids = {"<|pad|>": (tokenizer.pad_token_id, config.pad_token_id)}
    theirs = dict(zip(config.state_names, config.state_token_ids, strict=True))
    for name, token in getattr(tokenizer, "state_ids", {}).items():
        if name in theirs:
            ids[f"<|{name}|>"] = token, theirs[name]
    for name, (here, there) in ids.items():
        if here != there:
            raise ValueError(
                f"{name} is token {here} of the tokenizer and {there} of the streamer: take both from one checkpoint"
            )
