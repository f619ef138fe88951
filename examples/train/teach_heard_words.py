"""Teach a finished agent to write down what its user says, and change nothing else of it.

    python examples/train/prepare_dyads.py --natural-phrasings --out runs/heard/dyads --num-dyads 800 \\
        --tokenizer runs/wan-streamer-tiny/tokenizer
    python examples/train/teach_heard_words.py --dyads runs/heard/dyads --run runs/heard

A head on what the context pass computes anyway learns to say which words were heard; ears, eyes and Transformer stay
as they are, so that everything else the agent does is the same, bit for bit. Looks are taken in once. Run it again
with the same `--run` to continue. Writes `<run>/streamer`.
"""

from pathlib import Path
from typing import Annotated

import torch
import typer
from causal_vae.training import build_trainer, fit
from duplex_world.hearing import Heard, HeardWordsTraining, WatchedDyads
from streamer_pipeline import StreamerPipeline
from streamer_pipeline.data.tasks import Mixture
from torch.utils.data import DataLoader

VALIDATION_BATCHES = 8


def main(
    dyads: Annotated[Path, typer.Option(help="of prepare_dyads.py, with this checkpoint's tokenizer")],
    run: Annotated[Path, typer.Option(help="folder of this run")] = Path("runs/heard"),
    checkpoint: Annotated[str, typer.Option(help="the agent: folder, hub id or bundled name")] = "wan-streamer-tiny",
    val_dyads: Annotated[Path | None, typer.Option(help="of the validation split")] = None,
    max_steps: int = 1500,
    batch_size: int = 8,
    learning_rate: float = 2e-3,
    validate_every: int = 200,
    precision: Annotated[str, typer.Option(help="Lightning's: 32-true or bf16-mixed")] = "32-true",
    num_threads: int = 1,
) -> None:
    torch.set_num_threads(num_threads)
    torch.manual_seed(0)
    pipeline = StreamerPipeline.from_pretrained(checkpoint)
    parts = [part.float().requires_grad_(False) for part in (pipeline.streamer, pipeline.audio_encoder)]
    eyes, config = pipeline.video_encoder.float().requires_grad_(False), pipeline.streamer.config
    pipeline.streamer.add_heard_words()
    shape = {
        "num_units": 48,
        "batch_size": batch_size // 2,  # of a media batch; those of language have twice as many rows
        "response_delay": config.response_delay,
        "user_text_slots": config.user_text_slots,
        "mixture": Mixture({"words": 1.0}),
    }
    validation = None
    if val_dyads:
        unseen = Heard(WatchedDyads(val_dyads, eyes), pipeline.tokenizer, vary=False, **shape)
        validation = DataLoader([unseen[step, 0] for step in range(VALIDATION_BATCHES)], batch_size=None)
    seen = Heard(WatchedDyads(dyads, eyes), pipeline.tokenizer, **shape)
    training = HeardWordsTraining(*parts, eyes, learning_rate, max_steps, validation_names=("words",))
    trainer = build_trainer(run, max_steps, validate_every if validation else None, precision=precision)
    fit(trainer, run, training, seen, validation)
    pipeline.streamer.save_pretrained(run / "streamer")
    typer.echo(f"saved {run / 'streamer'}")


if __name__ == "__main__":
    typer.run(main)
