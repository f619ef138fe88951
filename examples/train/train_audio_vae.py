"""Train the causal audio VAE on speech: the agent's voice, synthetic users and real recorded prompts.

    python examples/train/train_audio_vae.py --preset tiny --run runs/audio_vae

Run it again with the same `--run` to continue. The result is `<run>/audio_vae`.
"""

from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from causal_vae import CausalAudioVAE
from causal_vae.losses import AudioReconstructionLoss
from causal_vae.training import VAETraining, build_trainer, export_vae, fit
from duplex_world.clock import SAMPLES_PER_UNIT
from duplex_world.media_batches import SpeechSegments, speech_sources
from duplex_world.real_media import real_prompts
from duplex_world.reconstruction_plots import Spectrograms
from torch.utils.data import DataLoader

PRESETS = {
    "smoke": {"max_steps": 4, "batch_size": 2, "model": {"encoder_dim": 16, "decoder_dim": 16}},
    "tiny": {"max_steps": 9000, "batch_size": 8, "model": {}},
}


def main(
    run: Annotated[Path, typer.Option(help="folder of this run")] = Path("runs/audio_vae"),
    preset: Annotated[str, typer.Option(help=" | ".join(PRESETS))] = "tiny",
    max_steps: Annotated[int | None, typer.Option(help="instead of the preset's")] = None,
    num_threads: int = 1,
) -> None:
    torch.set_num_threads(num_threads)
    torch.manual_seed(0)
    settings = PRESETS[preset]
    max_steps = max_steps or settings["max_steps"]
    run.mkdir(parents=True, exist_ok=True)
    sources = speech_sources()
    vae = CausalAudioVAE(**settings["model"])
    training = VAETraining(vae, AudioReconstructionLoss(), kl_weight=3e-4, learning_rate=1e-3, max_steps=max_steps)
    held_out = [torch.from_numpy(np.resize(prompt.wave, 12 * SAMPLES_PER_UNIT))[None] for prompt in real_prompts()[:4]]
    trainer = build_trainer(run, max_steps, max(2, max_steps // 10), [Spectrograms(run)])
    segments = SpeechSegments(sources, settings["batch_size"])
    fit(trainer, run, training, segments, DataLoader(held_out, batch_size=4))
    agent = SpeechSegments(sources[:1], batch_size=32)
    export_vae(vae, [agent[step, 0] for step in range(8)], run / "audio_vae")
    typer.echo(f"saved {run / 'audio_vae'}")


if __name__ == "__main__":
    typer.run(main)
