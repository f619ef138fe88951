"""Train the causal video VAE on talking heads, drawn while it trains: mostly the agent, some strangers.

    python examples/train_video_vae.py --preset tiny --run runs/video_vae

Run it again with the same `--run` to continue. The result is `<run>/video_vae`.
"""

from functools import cache
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from causal_vae import CausalVideoVAE
from causal_vae.losses import VideoReconstructionLoss
from causal_vae.training import EndlessBatches, VAETraining, build_trainer, export_vae, fit
from duplex_world.agent_voice import AgentVoice
from duplex_world.dyad import build_dyad
from duplex_world.face import eye_boxes, face_box, mouth_box
from duplex_world.render import render_frames
from duplex_world.shapes import Tracks
from duplex_world.tensors import to_video
from lightning.pytorch.callbacks import Callback
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

FRAMES_PER_UNIT = 4
MOUTH_WEIGHT, EYE_WEIGHT = 24.0, 12.0
MOTION_WEIGHT, SEAM_WEIGHT = 0.4, 5.0  # a still face that shimmers is seen sooner than one that is a little wrong
PRESETS = {
    "smoke": {"max_steps": 2, "batch_size": 2, "model": {"latent_width": 16, "cell_channels": 16, "fine_channels": 8}},
    "tiny": {"max_steps": 6000, "batch_size": 2, "model": {}},
}


def emphasis(mouth: float = MOUTH_WEIGHT, height: int = 192, width: int = 336) -> Tensor:
    """(H, W) loss weight of mean one: the face counts more than the wall, mouth and eyes more than the face."""
    weight = torch.ones(height, width)
    for (top, left, bottom, right), extra in (
        (face_box(), 2.0),
        (mouth_box(), mouth),
        *((box, EYE_WEIGHT) for box in eye_boxes()),
    ):
        weight[top:bottom, left:right] += extra
    return weight / weight.mean()


def activity(motion: Tracks, random: np.random.Generator) -> np.ndarray:
    """(num_frames,) bool: where somebody speaks, nods, raises a hand or blinks; chance says which of them counts."""
    kind = random.random()
    if kind < 0.45:
        return motion["mouth_open"] > 0.05
    if kind < 0.65:
        return np.abs(np.gradient(motion["pitch"])) > 0.01
    return motion["hand"] > 0.1 if kind < 0.8 else motion["blink"] > 0.5


agent_voice = cache(AgentVoice)


class TalkingHeads(EndlessBatches):
    """Clips (batch_size, 3, num_units * 4, 192, 336), in [-1, 1]; a share of them shows the agent, the rest users.

    Clips where somebody speaks, nods, raises a hand or blinks are preferred: all are rarer and harder than a still
    face. Clips last four units, because a decoder that has only ever followed a stream's first unit fails on its third.
    """

    def __init__(
        self, batch_size: int, agent_share: float = 0.85, num_units: int = 4, first_dyad_seed: int = 0
    ) -> None:
        super().__init__()
        self.batch_size, self.agent_share, self.num_frames = batch_size, agent_share, num_units * FRAMES_PER_UNIT
        self.first_dyad_seed = first_dyad_seed

    def draw(self, step: int, rank: int) -> Tensor:
        random = np.random.default_rng(torch.initial_seed())
        return torch.stack([self._clip(random) for _ in range(self.batch_size)])

    def _clip(self, random: np.random.Generator) -> Tensor:
        scenario = "wave" if random.random() < 0.1 else None  # the only one in which the agent waves for sure
        dyad = build_dyad(self.first_dyad_seed + int(random.integers(900_000)), scenario, agent_voice())
        if random.random() < self.agent_share:
            motion, identity = dyad.agent_motion, dyad.agent_identity
        else:
            motion, identity = dyad.user_motion, dyad.user_identity
        active = np.flatnonzero(activity(motion, random)[: -self.num_frames])
        if len(active) and random.random() < 0.8:
            start = max(0, int(random.choice(active)) - int(random.integers(FRAMES_PER_UNIT)))
        else:
            start = int(random.integers(len(motion["mouth_open"]) - self.num_frames))
        return to_video(render_frames(motion, identity, frames=slice(start, start + self.num_frames)))


class Pictures(Callback):
    """Writes frames over their reconstructions after each validation."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_validation_batch_end(self, trainer, module, reconstruction, media, batch_index, dataloader_index=0) -> None:
        rows = [torch.cat(list(video[:4, :, -2]), dim=2) for video in (media, reconstruction)]
        pixels = (torch.cat(rows, dim=1).clamp(-1, 1) + 1) * 127.5
        picture = pixels.byte().permute(1, 2, 0).numpy()
        Image.fromarray(picture).save(self.folder / f"reconstruction-{trainer.global_step:06d}.png")


def main(
    run: Annotated[Path, typer.Option(help="folder of this run")] = Path("runs/video_vae"),
    preset: Annotated[str, typer.Option(help=" | ".join(PRESETS))] = "tiny",
    max_steps: Annotated[int | None, typer.Option(help="instead of the preset's")] = None,
    agent_share: Annotated[float, typer.Option(help="share of clips that show the agent")] = 0.85,
    start_from: Annotated[Path | None, typer.Option(help="a video VAE folder whose weights to start from")] = None,
    learning_rate: float = 1.5e-3,
    mouth: Annotated[float, typer.Option(help="extra loss weight of the mouth's few pixels")] = MOUTH_WEIGHT,
    decoder_only: Annotated[
        bool, typer.Option(help="keep the encoder, and so the latents, of --start-from as they are")
    ] = False,
    latent_noise: Annotated[
        float, typer.Option(help="largest noise on latents, which a decoder learns to forgive")
    ] = 0.0,
    precision: Annotated[str, typer.Option(help="Lightning's: 32-true or bf16-mixed")] = "32-true",
    num_threads: int = 1,
) -> None:
    torch.set_num_threads(num_threads)
    torch.manual_seed(0)
    settings = PRESETS[preset]
    max_steps = max_steps or settings["max_steps"]
    run.mkdir(parents=True, exist_ok=True)
    clips = TalkingHeads(settings["batch_size"], agent_share)
    if decoder_only and not start_from:
        raise typer.BadParameter("--decoder-only needs --start-from, the video VAE whose encoder is kept")
    if start_from:
        vae = CausalVideoVAE.from_pretrained(start_from).train()
    else:
        vae = CausalVideoVAE(**settings["model"])
        vae.init_from_data(torch.cat([clips[step, 0] for step in range(100 // settings["batch_size"])]))
    vae.encoder.requires_grad_(not decoder_only)
    loss = VideoReconstructionLoss(emphasis(mouth), motion=MOTION_WEIGHT, seam=SEAM_WEIGHT)
    training = VAETraining(
        vae, loss, kl_weight=2e-6, learning_rate=learning_rate, max_steps=max_steps, latent_noise=latent_noise
    )
    held_out = TalkingHeads(8, agent_share, first_dyad_seed=1_000_000)[0, 0]
    trainer = build_trainer(run, max_steps, max(2, max_steps // 15), [Pictures(run)], precision)
    fit(trainer, run, training, clips, DataLoader(held_out, batch_size=8))
    if decoder_only:
        vae.save_pretrained(run / "video_vae")  # with the latents' statistics of before: dyads stay valid
    else:
        agent = TalkingHeads(batch_size=16, agent_share=1.0)
        export_vae(vae, [agent[step, 0] for step in range(16)], run / "video_vae")
    typer.echo(f"saved {run / 'video_vae'}")


if __name__ == "__main__":
    typer.run(main)
