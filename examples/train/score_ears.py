"""Does the agent understand its users? Closed loop, right by its words alone: no picture is drawn, no sound is judged.

    python examples/train/score_ears.py                         # espeak users of the test split
    python examples/train/score_ears.py --bank runs/voice_bank  # natural voices, never trained on
    python examples/train/score_ears.py --bank runs/voice_bank --audio-encoder runs/ears/audio_encoder

A tenth of what `wan-streamer eval` costs, and no replacement for it: who speaks, and when, is told by the sound.
"""

from pathlib import Path
from typing import Annotated

import torch
import typer
from duplex_world.splits import SPLITS
from duplex_world.understanding import ASKED, talk, users
from duplex_world.voice_bank import VoiceBank
from rich.progress import track
from streamer_pipeline import StreamerPipeline
from streamer_pipeline.evaluation.statistics import Score
from transformers import AutoModel


def report(scores: dict[str, Score]) -> str:
    """One line per row, with 95 % Wilson intervals."""
    rows = (
        f"{name:12} {100 * s.value:5.1f} %  [{100 * s.low:.1f}, {100 * s.high:.1f}]  n {s.n}"
        for name, s in scores.items()
        if s.n
    )
    return "\n".join(rows)


def main(
    checkpoint: Annotated[str, typer.Option(help="folder, hub id or bundled name")] = "wan-streamer-tiny",
    audio_encoder: Annotated[Path | None, typer.Option(help="instead of the checkpoint's own")] = None,
    streamer: Annotated[Path | None, typer.Option(help="instead of the checkpoint's own Transformer")] = None,
    bank: Annotated[Path | None, typer.Option(help="users speak by this bank; without it by espeak-ng")] = None,
    split: Annotated[str, typer.Option(help=" | ".join(SPLITS))] = "test",
    num_dyads: int = 150,
    scenarios: Annotated[str, typer.Option(help="names, in turn")] = " ".join(ASKED),
    num_threads: int = 1,
) -> None:
    torch.set_num_threads(num_threads)
    parts = {"audio_encoder": audio_encoder, "streamer": streamer}
    other = {name: AutoModel.from_pretrained(at, dtype=torch.float32) for name, at in parts.items() if at}
    pipeline = StreamerPipeline.from_pretrained(checkpoint, **other)
    met = users(split, num_dyads, bank and VoiceBank(bank, split), scenarios.split())
    typer.echo(report(talk(pipeline, track(met, "talking", num_dyads))))


if __name__ == "__main__":
    typer.run(main)
