"""Build dyads of the duplex world once and store what training reads: user media, words, agent latents.

    python examples/train/prepare_dyads.py --audio-vae runs/audio_vae/audio_vae --video-vae runs/video_vae/video_vae

Without `--video-vae` the agent's picture is left out, without `--audio-vae` its sound, too: hearing, seeing and
answering in words need neither. Writes `<out>/tokenizer` and one safetensors file per 50 dyads; files that are there
already are kept.
"""

from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from causal_vae import CausalAudioVAE, CausalVideoVAE
from duplex_world.agent_voice import AgentVoice
from duplex_world.dyad import Dyad, build_dyad
from duplex_world.grammar import NATURAL_PHRASINGS, USER_PHRASINGS
from duplex_world.splits import split_of
from duplex_world.training_tensors import MIX, build_tokenizer, encode_dyad, store
from duplex_world.voice_bank import VoiceBank
from streamer_core import StreamerTokenizer


def main(
    audio_vae: Annotated[Path | None, typer.Option(help="folder of the trained audio VAE")] = None,
    video_vae: Annotated[Path | None, typer.Option(help="folder of the trained video VAE")] = None,
    out: Annotated[Path, typer.Option(help="where the files go")] = Path("runs/dyads"),
    num_dyads: int = 800,
    first_seed: int = 0,
    scenarios: Annotated[str, typer.Option(help="names, repeated for more of a kind")] = MIX,
    tokenizer: Annotated[Path | None, typer.Option(help="of weights that shall be trained on; else a new one")] = None,
    bank: Annotated[Path | None, typer.Option(help="natural voices, of make_voice_bank.py")] = None,
    natural_share: Annotated[float, typer.Option(help="of the users, if there is a bank")] = 0.8,
    natural_phrasings: Annotated[bool, typer.Option(help="users by espeak-ng put things as those of the bank")] = False,
    response_delay: int = 1,
    num_threads: int = 1,
) -> None:
    torch.set_num_threads(num_threads)
    out.mkdir(parents=True, exist_ok=True)
    table = NATURAL_PHRASINGS if bank or natural_phrasings else USER_PHRASINGS
    tokenizer = StreamerTokenizer.from_pretrained(tokenizer) if tokenizer else build_tokenizer(table)
    tokenizer.save_pretrained(out / "tokenizer")
    voice, names = AgentVoice(), scenarios.split()
    phrasings = NATURAL_PHRASINGS if natural_phrasings else USER_PHRASINGS
    natural = bank and VoiceBank(bank, split_of(first_seed))

    def built(seed: int) -> Dyad:
        is_natural = np.random.default_rng([seed, 200]).random() < natural_share
        spoken = natural if is_natural else None
        return build_dyad(seed, names[seed % len(names)], voice, response_delay, spoken, bool(natural), phrasings)

    coders = (
        audio_vae and CausalAudioVAE.from_pretrained(audio_vae),
        video_vae and CausalVideoVAE.from_pretrained(video_vae),
    )
    store(
        out,
        range(first_seed, first_seed + num_dyads),
        lambda seed: encode_dyad(built(seed), tokenizer, *coders),
    )
    typer.echo(f"{num_dyads} dyads in {out}")


if __name__ == "__main__":
    typer.run(main)
