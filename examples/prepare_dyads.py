"""Build dyads of the duplex world once and store what training reads: user media, agent words, agent latents.

    python examples/prepare_dyads.py --audio-vae runs/audio_vae/audio_vae --video-vae runs/video_vae/video_vae

Without `--video-vae` the agent's picture is left out (hearing and speaking can be learned before there is one). Writes
`<out>/tokenizer` and one safetensors file per 50 dyads; files that are there already are kept.
"""

import zlib
from pathlib import Path
from typing import Annotated

import torch
import typer
from causal_vae import CausalAudioVAE, CausalVideoVAE
from duplex_world.agent_voice import AgentVoice
from duplex_world.dyad import Dyad, build_dyad
from duplex_world.grammar import NAMES, USER_PHRASINGS, agent_phrases
from duplex_world.render import render_frames
from duplex_world.tensors import to_video
from rich.progress import track
from safetensors.torch import save_file
from streamer_core import StreamerTokenizer
from torch import Tensor

PER_FILE = 50
SCENARIOS = "greet name bye color wave silence silentshow pause smile greet name color"
LOOK_SIZE = (64, 112)  # what the video encoder looks at, once per unit


def build_tokenizer() -> StreamerTokenizer:
    """Every word of the world is one token; anything else is spelled by bytes."""
    users = [text % tuple(NAMES[: text.count("%s")]) for texts in USER_PHRASINGS.values() for text in texts]
    return StreamerTokenizer.train((agent_phrases() + users) * 4, vocab_size=640)


def language_ids(dyad: Dyad, tokenizer: StreamerTokenizer, num_slots: int) -> tuple[Tensor, Tensor]:
    """State ids (U,) and text ids (U, slots) per wall-clock unit; words that do not fit wait for the next unit."""
    states = tokenizer.state_ids
    state = torch.tensor([states["speak" if speaking else "listen"] for speaking in dyad.agent_speaking])
    text = torch.full((dyad.num_units, num_slots), tokenizer.pad_token_id)
    waiting: list[int] = []
    for unit, words in enumerate(dyad.agent_words):
        waiting += [token for word in words for token in tokenizer.encode_words(word)]
        now, waiting = waiting[:num_slots], waiting[num_slots:]
        text[unit, : len(now)] = torch.tensor(now, dtype=torch.int64)
    return state, text


@torch.inference_mode()
def encode_dyad(
    dyad: Dyad,
    tokenizer: StreamerTokenizer,
    audio_vae: CausalAudioVAE,
    video_vae: CausalVideoVAE | None,
    num_slots: int,
) -> dict[str, Tensor]:
    """One dyad as tensors on its wall clock: latents are posterior means (C, ...), user media are small integers."""
    state, text = language_ids(dyad, tokenizer, num_slots)
    looks = render_frames(dyad.user_motion, dyad.user_identity, LOOK_SIZE, slice(3, None, 4))
    tensors = {
        "user_audio": (torch.from_numpy(dyad.user_audio) * 32767).to(torch.int16),
        "user_frames": torch.from_numpy(looks).permute(0, 3, 1, 2).contiguous(),
        "state": state,
        "text": text,
        "audio_latents": audio_vae.encode(torch.from_numpy(dyad.agent_audio)[None, None])[0].mean[0],
    }
    if video_vae is not None:
        latents, past = [], None
        for first in range(0, 4 * dyad.num_units, 32):  # in pieces: a whole clip's activations are large
            frames = render_frames(dyad.agent_motion, dyad.agent_identity, frames=slice(first, first + 32))
            posterior, past = video_vae.encode(to_video(frames)[None], past)
            latents.append(posterior.mean[0])
        tensors["video_latents"] = torch.cat(latents, dim=1)
    return {name: tensor.contiguous() for name, tensor in tensors.items()}


def main(
    audio_vae: Annotated[Path, typer.Option(help="folder of the trained audio VAE")],
    video_vae: Annotated[Path | None, typer.Option(help="folder of the trained video VAE")] = None,
    out: Annotated[Path, typer.Option(help="where the files go")] = Path("runs/dyads"),
    num_dyads: int = 800,
    first_seed: int = 0,
    scenarios: Annotated[str, typer.Option(help="names, repeated for more of a kind")] = SCENARIOS,
    response_delay: int = 1,
    num_threads: int = 1,
) -> None:
    torch.set_num_threads(num_threads)
    out.mkdir(parents=True, exist_ok=True)
    tokenizer = build_tokenizer()
    tokenizer.save_pretrained(out / "tokenizer")
    voice, names = AgentVoice(), scenarios.split()
    coders = CausalAudioVAE.from_pretrained(audio_vae), video_vae and CausalVideoVAE.from_pretrained(video_vae)
    for first in track(range(0, num_dyads, PER_FILE), "encoding"):
        path = out / f"dyads-{first_seed + first:07d}.safetensors"
        if path.exists():
            continue
        tensors: dict[str, Tensor] = {}
        for seed in range(first_seed + first, first_seed + min(first + PER_FILE, num_dyads)):
            scenario = names[zlib.crc32(str(seed).encode()) % len(names)]
            dyad = build_dyad(seed, scenario, voice, response_delay)
            encoded = encode_dyad(dyad, tokenizer, *coders, num_slots=2)
            tensors |= {f"{seed}.{name}": tensor for name, tensor in encoded.items()}
        save_file(tensors, path.with_suffix(".partial"))
        path.with_suffix(".partial").rename(path)
    typer.echo(f"{num_dyads} dyads in {out}")


if __name__ == "__main__":
    typer.run(main)
