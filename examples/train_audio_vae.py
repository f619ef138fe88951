"""Train the causal audio VAE on speech: the agent's voice, synthetic users and real recorded prompts.

    python examples/train_audio_vae.py --preset tiny --run runs/audio_vae

Run it again with the same `--run` to continue. The result is `<run>/audio_vae`.
"""

from pathlib import Path
from typing import Annotated

import matplotlib.pyplot as plt
import numpy as np
import torch
import typer
from causal_vae import CausalAudioVAE
from causal_vae.losses import AudioReconstructionLoss
from causal_vae.training import EndlessBatches, VAETraining, build_trainer, export_vae, fit
from duplex_world.agent_voice import AgentVoice
from duplex_world.espeak import speak
from duplex_world.grammar import USER_PHRASINGS
from duplex_world.real_media import real_prompts
from duplex_world.splits import USER_VOICES
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torch.utils.data import DataLoader

UNIT = 3840
PRESETS = {
    "smoke": {"max_steps": 4, "batch_size": 2, "model": {"encoder_dim": 16, "decoder_dim": 16}},
    "tiny": {"max_steps": 9000, "batch_size": 8, "model": {}},
}


def speech_sources() -> list[tuple[float, np.ndarray]]:
    """(share of the batches, waveform at 24 kHz) for each kind of voice, clips joined with a little silence."""
    pause = np.zeros(UNIT, np.float32)
    agent_voice = AgentVoice()
    agent = [part for phrase in agent_voice.phrases for part in (agent_voice(phrase).wave, pause)]
    requests = [text for texts in USER_PHRASINGS.values() for text in texts if "%s" not in text]
    users = [speak(text, voice)[0] for voice in USER_VOICES["train"] for text in requests]
    prompts = [prompt.wave for prompt in real_prompts()[40:]]  # the first 40 are never trained on
    return [(share, np.concatenate(clips)) for share, clips in ((0.6, agent), (0.15, users), (0.25, prompts))]


class SpeechSegments(EndlessBatches):
    """Random segments (batch_size, 1, num_units * 3840) with random gain; one in twelve is plain silence."""

    def __init__(self, sources: list[tuple[float, np.ndarray]], batch_size: int, num_units: int = 4) -> None:
        super().__init__()
        self.sources, self.batch_size, self.length = sources, batch_size, num_units * UNIT

    def draw(self, step: int, rank: int) -> Tensor:
        random = np.random.default_rng(torch.initial_seed())
        return torch.stack([self._segment(random) for _ in range(self.batch_size)])

    def _segment(self, random: np.random.Generator) -> Tensor:
        shares = np.array([share for share, _ in self.sources])
        wave = self.sources[random.choice(len(shares), p=shares / shares.sum())][1]
        start = random.integers(len(wave) - self.length)
        gain = 0.0 if random.random() < 1 / 12 else random.uniform(0.5, 1.2)
        return torch.from_numpy(wave[start : start + self.length] * np.float32(gain))[None]


class Spectrograms(Callback):
    """Draws input over reconstruction after each validation."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_validation_batch_end(self, trainer, module, reconstruction, media, batch_index, dataloader_index=0) -> None:
        figure, axes = plt.subplots(2, 1, figsize=(12, 6), sharex=True)
        for axis, wave, title in zip(axes, (media, reconstruction), ("recording", "through the VAE"), strict=True):
            axis.specgram(wave[:, 0].flatten().float().numpy() + 1e-6, NFFT=720, Fs=24000, noverlap=480, vmin=-160)
            axis.set_title(title)
        figure.savefig(self.folder / f"spectrogram-{trainer.global_step:06d}.png")
        plt.close(figure)


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
    held_out = [torch.from_numpy(np.resize(prompt.wave, 12 * UNIT))[None] for prompt in real_prompts()[:4]]
    trainer = build_trainer(run, max_steps, max(2, max_steps // 10), [Spectrograms(run)])
    segments = SpeechSegments(sources, settings["batch_size"])
    fit(trainer, run, training, segments, DataLoader(held_out, batch_size=4))
    agent = SpeechSegments(sources[:1], batch_size=32)
    export_vae(vae, [agent[step, 0] for step in range(8)], run / "audio_vae")
    typer.echo(f"saved {run / 'audio_vae'}")


if __name__ == "__main__":
    typer.run(main)
