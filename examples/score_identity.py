"""Does the agent stay who it is? Distance to its mean face, motion and sound level, 5 s at a time.

python examples/make_demo_recording.py runs/long --seconds 32
wan-streamer talk runs/long/recording.mp4 -o runs/long
python examples/score_identity.py runs/long/agent.mp4
"""

from pathlib import Path
from typing import Annotated

import torch
import typer
from streamer_pipeline import RecordingReader, StreamerPipeline
from torch import Tensor

UNITS_PER_ROW = 31  # 4.96 s


def decibel(power: Tensor) -> float:
    return 10 * torch.log10(power + 1e-10).item()


def main(
    film: Annotated[Path, typer.Argument(help="agent.mp4 of `wan-streamer talk`")],
    checkpoint: Annotated[str, typer.Option(help="whose mean face to compare with")] = "wan-streamer-tiny",
) -> None:
    face = StreamerPipeline.from_pretrained(checkpoint).video_vae.encoder.picture.mean[0]
    units = list(RecordingReader(film))
    for first in range(0, len(units) - UNITS_PER_ROW + 1, UNITS_PER_ROW):
        part = units[first : first + UNITS_PER_ROW]
        video = torch.cat([unit.video for unit in part], dim=1)
        audio = torch.cat([unit.audio for unit in part], dim=1)
        likeness = -decibel((video - face).square().mean() / 4)
        typer.echo(
            f"{first * 0.16:5.1f} s: {likeness:.1f} dB to the mean face, motion {video.diff(dim=1).abs().mean():.4f}, "
            f"sound {decibel(audio.square().mean()):.0f} dB"
        )


if __name__ == "__main__":
    typer.run(main)
