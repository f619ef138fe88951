"""Train the causal video VAE on talking heads, drawn while it trains: mostly the agent, some strangers.

    python examples/train/train_video_vae.py --preset tiny --run runs/video_vae

Run it again with the same `--run` to continue. The result is `<run>/video_vae`.
"""

from pathlib import Path
from typing import Annotated

import torch
import typer
from causal_vae import CausalVideoVAE
from causal_vae.losses import VideoReconstructionLoss
from causal_vae.training import VAETraining, build_trainer, export_vae, fit
from duplex_world.media_batches import MOUTH_WEIGHT, TalkingHeads, emphasis
from duplex_world.reconstruction_plots import Pictures
from torch.utils.data import DataLoader

MOTION_WEIGHT, SEAM_WEIGHT = 0.4, 5.0  # a still face that shimmers is seen sooner than one that is a little wrong
PRESETS = {
    "smoke": {"max_steps": 2, "batch_size": 2, "model": {"latent_width": 16, "cell_channels": 16, "fine_channels": 8}},
    "tiny": {"max_steps": 6000, "batch_size": 2, "model": {}},
}


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
