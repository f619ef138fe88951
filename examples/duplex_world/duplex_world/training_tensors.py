"""A dyad as the tensors that training reads: user media, words, agent latents; and files of them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from causal_vae import CausalAudioVAE, CausalVideoVAE
from rich.progress import track
from safetensors.torch import save_file
from streamer_core import StreamerTokenizer
from streamer_pipeline.data.words import fill_slots
from torch import Tensor

from .augment import other_camera, other_room, own_echo, photograph
from .clock import FRAME_RATE, FRAMES_PER_UNIT, unit_at
from .conversations import PROMPTS
from .dyad import Dyad
from .grammar import (
    NAMES,
    USER_PHRASINGS,
    agent_phrases,
    fingers_phrase,
    phrasings,
    spelled_out,
)
from .render import render_frames
from .scenarios import SCENARIOS
from .tensors import to_video

PER_FILE = 50
TEXT_SLOTS = 2
# What has many answers, or is easily mistaken for something else, comes more often.
MIX = " ".join(
    [
        *SCENARIOS,
        "color object object fingers smile did plus plus plus recall recall myname pause interrupt backchannel",
    ]
)
LOOK_SIZE = (64, 112)  # what the video encoder looks at, once per unit
LOOKS = slice(FRAMES_PER_UNIT - 1, None, FRAMES_PER_UNIT)
PHOTOGRAPH_SHARE = 0.25
HAS_BFLOAT16 = torch.cpu._is_avx512_bf16_supported()  # in hardware; elsewhere it would be slower


def build_tokenizer(table: dict[str, tuple[str, ...]] = USER_PHRASINGS) -> StreamerTokenizer:
    """Every word of the world is one token; anything else is spelled by bytes. Which of two equally frequent pieces
    gets the lower id may differ between machines: weights go with their own (`--tokenizer`)."""
    requests = [text for request in table for text in phrasings(request, table)]
    users = [text % tuple(NAMES[: text.count("%s")]) for text in requests]
    users = [" ".join(long for word in text.split() for long in spelled_out(word)) for text in users]
    return StreamerTokenizer.train((agent_phrases() + users + [*PROMPTS.values()]) * 4, vocab_size=640)


def spread(words: list[list[str]], tokenizer: StreamerTokenizer, num_slots: int = TEXT_SLOTS) -> Tensor:
    """Words per unit -> token ids (U, slots); words that do not fit wait for the next unit."""
    return torch.tensor(fill_slots(words, tokenizer.encode_words, num_slots, tokenizer.pad_token_id))


def heard_words(dyad: Dyad) -> list[list[str]]:
    """Per unit the user's words that ended in the unit before: by then they can be known."""
    words: list[list[str]] = [[] for _ in range(dyad.num_units)]
    for word in dyad.user_words:
        words[min(unit_at(word.end) + 1, dyad.num_units - 1)] += spelled_out(word.text)
    return words


def seen_words(dyad: Dyad) -> list[list[str]]:
    """Per unit at most two words for what the user shows in its last frame."""
    motion, words = dyad.user_motion, []
    for frame in range(dyad.num_units * FRAMES_PER_UNIT)[LOOKS]:
        shown: list[str] = []
        for event in dyad.visual_events:
            track_name = "smile" if event.kind == "smile" else "hand"
            if event.start <= frame / FRAME_RATE < event.end and motion[track_name][frame] > 0.6:
                shown = {
                    "hold": [event.color, event.object],
                    "wave": ["waved"],
                    "smile": ["smiling"],
                    "fingers": fingers_phrase(max(0, event.fingers)).split(),
                }[event.kind]
        words.append(shown)
    return words


@torch.inference_mode()
def encode_dyad(
    dyad: Dyad,
    tokenizer: StreamerTokenizer,
    audio_vae: CausalAudioVAE | None = None,
    video_vae: CausalVideoVAE | None = None,
) -> dict[str, Tensor]:
    """One dyad as tensors on its wall clock: latents are posterior means (C, ...), user media are small integers."""
    states, rng = tokenizer.state_ids, np.random.default_rng([dyad.seed, 100])
    backdrop = photograph(rng, (2 * LOOK_SIZE[0], 2 * LOOK_SIZE[1])) if rng.random() < PHOTOGRAPH_SHARE else None
    looks = render_frames(dyad.user_motion, dyad.user_identity, LOOK_SIZE, LOOKS, backdrop)
    heard = own_echo(other_room(dyad.user_audio, rng), dyad.agent_audio, rng)
    tensors = {
        "user_audio": (torch.from_numpy(heard) * 32767).to(torch.int16),
        "user_frames": torch.from_numpy(other_camera(looks, rng)).permute(0, 3, 1, 2),
        "user_heard": spread(heard_words(dyad), tokenizer),
        "user_seen": spread(seen_words(dyad), tokenizer),
        "state": torch.tensor([states["speak" if speaking else "listen"] for speaking in dyad.agent_speaking]),
        "text": spread(dyad.agent_words, tokenizer),
    }
    if audio_vae is not None:
        tensors["audio_latents"] = audio_vae.encode(torch.from_numpy(dyad.agent_audio)[None, None])[0].mean[0]
    if video_vae is not None:
        latents, past = [], None
        for first in range(0, FRAMES_PER_UNIT * dyad.num_units, 32):  # in pieces: a whole clip's activations are large
            frames = render_frames(dyad.agent_motion, dyad.agent_identity, frames=slice(first, first + 32))
            with torch.autocast("cpu", torch.bfloat16, enabled=HAS_BFLOAT16):
                posterior, past = video_vae.encode(to_video(frames)[None], past)
            latents.append(posterior.mean[0].float())
        tensors["video_latents"] = torch.cat(latents, dim=1)
    return {name: tensor.contiguous() for name, tensor in tensors.items()}


def store(out: Path, seeds: range, encode: Callable[[int], dict[str, Tensor]]) -> None:
    """Encode the dyads of `seeds` into files of `PER_FILE`; files that are there already are kept."""
    for first in track(seeds[::PER_FILE], "encoding"):
        path = out / f"dyads-{first:07d}.safetensors"
        if path.exists():
            continue
        tensors: dict[str, Tensor] = {}
        for seed in range(first, min(first + PER_FILE, seeds.stop)):
            tensors |= {f"{seed}.{name}": tensor for name, tensor in encode(seed).items()}
        save_file(tensors, path.with_suffix(".partial"))
        path.with_suffix(".partial").rename(path)
