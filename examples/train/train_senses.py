"""Give a perception encoder a start: read words off its tokens with one linear layer.

    python examples/train/train_senses.py --sense eyes --users runs/users --run runs/eyes   # what users show
    python examples/train/train_senses.py --sense ears --users runs/users --run runs/ears   # what users say

Minutes of this save hours: inside the Transformer, words reach an encoder only through all layers, and what was said
before is easier to copy than a picture is to see or a name is to hear. Writes `<run>/video_encoder` or
`<run>/audio_encoder`; the reading is thrown away.
"""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, TypeVar

import torch
import typer
from causal_codec import (
    CausalAudioEncoder,
    CausalAudioEncoderConfig,
    CausalVideoEncoder,
    CausalVideoEncoderConfig,
)
from causal_vae.training import build_trainer, fit
from duplex_world.conversations import Dyads
from duplex_world.reading import Reading, Slides, Speech
from streamer_core import StreamerTokenizer, preset
from torch.utils.data import DataLoader
from transformers import PreTrainedConfig

Encoder = TypeVar("Encoder", CausalAudioEncoder, CausalVideoEncoder)


class Sense(StrEnum):
    eyes = "eyes"
    ears = "ears"


SETTINGS = {
    Sense.eyes: {"max_steps": 2000, "batch_size": 24},
    Sense.ears: {"max_steps": 2500, "batch_size": 12},
}


def new_encoder(kind: type[Encoder], config: PreTrainedConfig, start_from: Path | None) -> Encoder:
    """With random weights of this shape, or as it was saved; in float32, for training."""
    return (kind.from_pretrained(start_from, dtype=torch.float32) if start_from else kind(config)).train()


def main(
    sense: Annotated[Sense, typer.Option(help="which encoder")],
    run: Annotated[Path, typer.Option(help="folder of this run")],
    users: Annotated[Path, typer.Option(help="dyads of prepare_dyads.py; latents are not needed")] = Path("runs/users"),
    val_dyads: Annotated[Path, typer.Option(help="dyads of the validation split")] = Path("runs/val"),
    max_steps: Annotated[int | None, typer.Option(help="instead of the sense's")] = None,
    start_from: Annotated[
        Path | None, typer.Option(help="an encoder of this sense whose weights to start from")
    ] = None,
    learning_rate: float = 2e-3,
    precision: Annotated[str, typer.Option(help="Lightning's: 32-true or bf16-mixed")] = "bf16-mixed",
    num_threads: int = 1,
) -> None:
    torch.set_num_threads(num_threads)
    torch.manual_seed(0)
    tokenizer = StreamerTokenizer.from_pretrained(users / "tokenizer")
    width, batch_size = preset("tiny").perception_dim, SETTINGS[sense]["batch_size"]
    max_steps = max_steps or SETTINGS[sense]["max_steps"]
    seen, unseen = (Dyads([folder], with_latents=False) for folder in (users, val_dyads))
    if sense is Sense.eyes:
        encoder = new_encoder(CausalVideoEncoder, CausalVideoEncoderConfig(output_dim=width), start_from)
        perceive, name = encoder.forward_frames, "video_encoder"
        batches, held_out = (
            Slides(dyads, tokenizer.pad_token_id, batch_size, vary) for dyads, vary in ((seen, True), (unseen, False))
        )
    else:
        encoder = new_encoder(CausalAudioEncoder, CausalAudioEncoderConfig(output_dim=width), start_from)
        perceive, name = encoder.forward, "audio_encoder"
        batches, held_out = (
            Speech(dyads, tokenizer, batch_size, vary) for dyads, vary in ((seen, True), (unseen, False))
        )
    trainer = build_trainer(run, max_steps, max(2, max_steps // 10), precision=precision)
    training = Reading(encoder, perceive, len(tokenizer), tokenizer.pad_token_id, learning_rate, max_steps)
    validation = DataLoader([held_out[step, 0] for step in range(8)], batch_size=None)
    fit(trainer, run, training, batches, validation)
    encoder.save_pretrained(run / name)
    typer.echo(f"saved {run / name}")


if __name__ == "__main__":
    typer.run(main)
