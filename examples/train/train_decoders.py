"""Distil a small real-time renderer from a trained VAE's decoder, on the media the VAE was trained on.

    python examples/train/train_decoders.py --what video --vae runs/video_vae/video_vae --run runs/video_decoder

Run it again with the same `--run` to continue. The result is `<run>/audio_decoder` or `<run>/video_decoder`, ready for
`CausalAudioDecoder.from_pretrained` or `CausalVideoDecoder.from_pretrained`.
"""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from causal_codec import CausalAudioDecoder, CausalVideoDecoder
from causal_codec.training import DecoderDistillation
from causal_vae import CausalAudioVAE, CausalVideoVAE
from causal_vae.losses import AudioReconstructionLoss, VideoReconstructionLoss
from causal_vae.training import build_trainer, fit
from duplex_world.clock import SAMPLES_PER_UNIT
from duplex_world.media_batches import SpeechSegments, TalkingHeads, emphasis, speech_sources
from duplex_world.real_media import real_prompts
from duplex_world.reconstruction_plots import Pictures, Spectrograms
from torch.utils.data import DataLoader


class What(StrEnum):
    audio = "audio"
    video = "video"


PRESETS = {
    "smoke": {
        "audio": {"max_steps": 2, "batch_size": 2, "model": {"dim": 16, "depth": 1}},
        "video": {
            "max_steps": 2,
            "batch_size": 2,
            "model": {"latent_width": 16, "cell_channels": 16, "fine_channels": 8, "depth": 1},
        },
    },
    "tiny": {
        "audio": {"max_steps": 1500, "batch_size": 8, "model": {}},
        "video": {"max_steps": 4000, "batch_size": 3, "model": {}},
    },
}


def audio_parts(vae_folder: Path, start_from: Path | None, settings: dict, agent_share: float):
    """(teacher, student, loss, segments to train on, held-out recordings, callback class) for sound."""
    vae = CausalAudioVAE.from_pretrained(vae_folder)
    if start_from:
        student = CausalAudioDecoder.from_pretrained(start_from)
    else:
        shared = ("sample_rate", "hop_length", "frames_per_latent", "latent_channels")
        student = CausalAudioDecoder(**{name: vae.config[name] for name in shared}, **settings["model"])
    held_out = [torch.from_numpy(np.resize(prompt.wave, 12 * SAMPLES_PER_UNIT))[None] for prompt in real_prompts()[:4]]
    segments = SpeechSegments(speech_sources(), settings["batch_size"])
    return vae, student, AudioReconstructionLoss(), segments, held_out, Spectrograms


def video_parts(vae_folder: Path, start_from: Path | None, settings: dict, agent_share: float):
    """(teacher, student, loss, clips to train on, held-out clips, callback class) for the picture."""
    vae = CausalVideoVAE.from_pretrained(vae_folder)
    if start_from:
        student = CausalVideoDecoder.from_pretrained(start_from)
    else:
        shared = ("frames_per_latent", "spatial_strides", "latent_channels", "picture_size")
        student = CausalVideoDecoder(**{name: vae.config[name] for name in shared}, **settings["model"])
        student.decoder.picture.load_state_dict(vae.decoder.picture.state_dict())
    clips = TalkingHeads(settings["batch_size"], agent_share)
    held_out = TalkingHeads(4, agent_share, first_dyad_seed=1_000_000)[0, 0]
    return vae, student, VideoReconstructionLoss(emphasis()), clips, held_out, Pictures


def main(
    what: Annotated[What, typer.Option(help="which decoder")],
    vae: Annotated[Path, typer.Option(help="folder of the trained VAE whose latents are rendered")],
    run: Annotated[Path, typer.Option(help="folder of this run")],
    preset: Annotated[str, typer.Option(help=" | ".join(PRESETS))] = "tiny",
    max_steps: Annotated[int | None, typer.Option(help="instead of the preset's")] = None,
    start_from: Annotated[Path | None, typer.Option(help="a decoder folder whose weights to start from")] = None,
    agent_share: Annotated[float, typer.Option(help="share of video clips that show the agent")] = 0.85,
    num_threads: int = 1,
) -> None:
    torch.set_num_threads(num_threads)
    torch.manual_seed(0)
    settings = PRESETS[preset][what]
    max_steps = max_steps or settings["max_steps"]
    run.mkdir(parents=True, exist_ok=True)
    parts = audio_parts if what is What.audio else video_parts
    teacher, student, loss, media, held_out, pictures = parts(vae, start_from, settings, agent_share)
    training = DecoderDistillation(teacher, student, loss, learning_rate=1e-3, max_steps=max_steps)
    trainer = build_trainer(run, max_steps, max(2, max_steps // 10), [pictures(run)])
    fit(trainer, run, training, media, DataLoader(held_out, batch_size=4))
    folder = run / f"{what}_decoder"
    student.save_pretrained(folder)
    typer.echo(f"saved {folder}")


if __name__ == "__main__":
    typer.run(main)
