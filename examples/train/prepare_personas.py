"""Build what `train_personas.py` trains on: dyads with every face and voice, and references for prompts.

    python examples/train/prepare_personas.py --audio-vae runs/audio_vae/audio_vae --tokenizer runs/users/tokenizer

The bundled video VAE knows one face. Here an eigenpicture VAE (`linear_video.py`) is fitted to all of them, which takes
seconds. Writes `<out>/video_vae`, `<out>/tokenizer`, `<out>/references.safetensors` and dyads, 50 to a file; what is
there already is kept.
"""

from itertools import cycle, islice
from pathlib import Path
from typing import Annotated

import torch
import typer
from causal_vae import CausalAudioVAE
from duplex_world.agent_voice import AgentVoice
from duplex_world.dyad import build_dyad
from duplex_world.grammar import agent_phrases
from duplex_world.linear_video import EigenpictureVAE
from duplex_world.persona_dyads import VAE_OPTIONS, agent_clip, encode_all_personas, persona_of, with_behaviors
from duplex_world.personas import PERSONAS
from duplex_world.training_tensors import MIX, store
from safetensors.torch import save_file
from streamer_core import StreamerTokenizer
from torch import Tensor

DIRECTED_SHARE = 5  # of 29 dyads: the body must follow words that nothing else explains
PERSONA_MIX = " ".join([MIX, *["directed"] * DIRECTED_SHARE])
CLIP_UNITS = 4


def fit_vae(voice: AgentVoice, first_seed: int, num_clips: int) -> EigenpictureVAE:
    """Principal components of every face in motion."""
    clips = []
    for seed, scenario in enumerate(islice(cycle(["wave", "directed", "count", "interrupt", "color"]), num_clips)):
        dyad = build_dyad(first_seed + seed, scenario, voice)
        first = (5 * seed) % (dyad.num_units - CLIP_UNITS)
        clips += [agent_clip(dyad, persona, slice(first, first + CLIP_UNITS)) for persona in PERSONAS]
    return EigenpictureVAE(**VAE_OPTIONS).fit(clips)


@torch.inference_mode()
def references(
    audio_vae: CausalAudioVAE, video_vae: EigenpictureVAE, voice: AgentVoice, num_phrases: int
) -> dict[str, Tensor]:
    """Latents of personas in which phrases of some length are heard, as `encode_reference` would give them."""
    latents: dict[str, Tensor] = {}
    phrases = [phrase for phrase in agent_phrases() if len(phrase.split()) > 2][:num_phrases]
    for name in PERSONAS:
        personas = [persona_of(name, name, voice(phrase).wave, seed) for seed, phrase in enumerate(phrases)]
        sounds = torch.stack([persona.voice for persona in personas])
        stills = torch.stack([persona.picture for persona in personas])[:, :, None]
        num_units = sounds.shape[2] // 3840
        latents[f"{name}_audio"] = audio_vae.encode(sounds)[0].mean
        latents[f"{name}_video"] = torch.cat(
            [video_vae.encode(still[None].expand(-1, -1, 4 * num_units, -1, -1))[0].mean for still in stills]
        )
    return {key: tensor.contiguous() for key, tensor in latents.items()}


def main(
    audio_vae: Annotated[Path, typer.Option(help="folder of the trained audio VAE")] = Path("runs/audio_vae/audio_vae"),
    tokenizer: Annotated[Path, typer.Option(help="of the run to start from")] = Path("runs/users/tokenizer"),
    out: Annotated[Path, typer.Option(help="where the files go")] = Path("runs/personas"),
    num_dyads: int = 400,
    first_seed: int = 400_000,
    scenarios: Annotated[str, typer.Option(help="names, repeated for more of a kind")] = PERSONA_MIX,
    video_vae: Annotated[Path | None, typer.Option(help="a fitted one, instead of fitting")] = None,
    num_clips: Annotated[int, typer.Option(help="of each persona, that the VAE is fitted to")] = 60,
    num_references: Annotated[int, typer.Option(help="of each persona, for prompts")] = 100,
    num_threads: int = 1,
) -> None:
    torch.set_num_threads(num_threads)
    out.mkdir(parents=True, exist_ok=True)
    voice, names = AgentVoice(), scenarios.split()
    words = with_behaviors(StreamerTokenizer.from_pretrained(tokenizer))
    words.save_pretrained(out / "tokenizer")
    sound = CausalAudioVAE.from_pretrained(audio_vae)
    folder = video_vae or out / "video_vae"
    picture = EigenpictureVAE.from_pretrained(folder) if folder.exists() else fit_vae(voice, first_seed, num_clips)
    picture.save_pretrained(out / "video_vae")
    save_file(references(sound, picture, voice, num_references), out / "references.safetensors")
    store(
        out,
        range(first_seed, first_seed + num_dyads),
        lambda seed: encode_all_personas(build_dyad(seed, names[seed % len(names)], voice), words, sound, picture),
    )
    typer.echo(f"{num_dyads} dyads in {out}")


if __name__ == "__main__":
    typer.run(main)
