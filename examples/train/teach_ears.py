"""Teach the ears of a finished agent to understand more voices, and change nothing else of it.

    python examples/train/prepare_dyads.py --bank runs/voice_bank --natural-share 0.67 --out runs/ears/dyads \\
        --tokenizer runs/wan-streamer-tiny/tokenizer --num-dyads 4000
    python examples/train/teach_ears.py --dyads runs/ears/dyads --run runs/ears

The audio encoder learns through the frozen Transformer: what is heard must lead to the right words, the user's own
("hearing") and the agent's answer ("words"). Looks are taken in once, by the frozen video encoder. Dyads stored
while this runs join in. Run it again with the same `--run` to continue. Writes `<run>/audio_encoder`.

With `--speech-embedding` the ears are wrapped before: they go on hearing what they heard, and learn to hear by the
public speech embedding as well, which itself stays as it is.
"""

from pathlib import Path
from typing import Annotated

import torch
import typer
from causal_codec import CausalAudioEncoder, CausalVideoEncoder, SpeechEmbeddingAudioEncoder
from causal_vae.training import build_trainer, fit
from duplex_world.hearing import EarTraining, Heard, WatchedDyads
from streamer_core import StreamerModel, StreamerTokenizer
from streamer_pipeline import StreamerPipeline
from streamer_pipeline.data.tasks import Mixture
from torch.utils.data import DataLoader

TASKS = {"hearing": 0.4, "words": 0.6}
VALIDATION_BATCHES = 8


def frozen(part: StreamerModel | CausalVideoEncoder) -> StreamerModel | CausalVideoEncoder:
    """Float32 and without gradients of its own; gradients pass through it."""
    return part.float().requires_grad_(False)


def main(
    dyads: Annotated[Path, typer.Option(help="of prepare_dyads.py, with this checkpoint's tokenizer")],
    run: Annotated[Path, typer.Option(help="folder of this run")] = Path("runs/ears"),
    checkpoint: Annotated[str, typer.Option(help="the agent: folder, hub id or bundled name")] = "wan-streamer-tiny",
    val_dyads: Annotated[list[Path] | None, typer.Option(help="of the validation split; several: one row each")] = None,
    max_steps: int = 2500,
    batch_size: int = 8,
    learning_rate: float = 5e-4,
    speech_embedding: Annotated[bool, typer.Option(help="give the ears the public speech embedding, too")] = False,
    validate_every: int = 200,
    precision: Annotated[str, typer.Option(help="Lightning's: 32-true or bf16-mixed")] = "bf16-mixed",
    num_threads: int = 1,
) -> None:
    torch.set_num_threads(num_threads)
    torch.manual_seed(0)
    pipeline = StreamerPipeline.from_pretrained(checkpoint)
    tokenizer, config = pipeline.tokenizer, pipeline.streamer.config
    stored = StreamerTokenizer.from_pretrained(dyads / "tokenizer")
    if stored.get_vocab() != tokenizer.get_vocab():
        raise typer.BadParameter(
            f"{dyads} was stored with another tokenizer; prepare it with --tokenizer {checkpoint}/tokenizer"
        )
    streamer, eyes = frozen(pipeline.streamer), frozen(pipeline.video_encoder)
    ears = pipeline.audio_encoder
    if speech_embedding and isinstance(ears, CausalAudioEncoder):
        ears = SpeechEmbeddingAudioEncoder.from_encoder(ears)
    ears = ears.float().train()
    shape = {
        "num_units": 48,
        "batch_size": batch_size // 2,  # of a media batch; those of language have twice as many rows
        "response_delay": config.response_delay,
        "user_text_slots": config.user_text_slots,
    }
    names, validation = [], []
    for folder in val_dyads or []:
        for task in TASKS:
            names.append(f"{folder.name}_{task}")
            unseen = Heard(WatchedDyads(folder, eyes), tokenizer, mixture=Mixture({task: 1.0}), vary=False, **shape)
            batches = [unseen[step, 0] for step in range(VALIDATION_BATCHES)]
            validation.append(DataLoader(batches, batch_size=None))
    seen = Heard(WatchedDyads(dyads, eyes), tokenizer, mixture=Mixture(TASKS), **shape)
    training = EarTraining(streamer, ears, eyes, learning_rate, max_steps, validation_names=tuple(names))
    trainer = build_trainer(run, max_steps, validate_every if validation else None, precision=precision)
    fit(trainer, run, training, seen, validation or None)
    ears.save_pretrained(run / "audio_encoder")
    typer.echo(f"saved {run / 'audio_encoder'}")


if __name__ == "__main__":
    typer.run(main)
