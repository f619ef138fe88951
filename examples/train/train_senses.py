"""Give a perception encoder a start: read words off its tokens with one linear layer.

    python examples/train/train_senses.py --sense eyes --users runs/users --run runs/eyes   # what users show
    python examples/train/train_senses.py --sense ears --users runs/users --run runs/ears   # what users say

Minutes of this save hours: inside the Transformer, words reach an encoder only through all layers, and what was said
before is easier to copy than a picture is to see or a name is to hear. Writes `<run>/video_encoder` or
`<run>/audio_encoder`; the reading is thrown away.
"""

from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, TypeVar

import lightning
import torch
import typer
from causal_codec import (
    CausalAudioEncoder,
    CausalAudioEncoderConfig,
    CausalVideoEncoder,
    CausalVideoEncoderConfig,
)
from causal_vae.training import EndlessBatches, adamw_with_cosine, build_trainer, fit
from duplex_world.conversations import Conversations, Dyads, Mixture, draw, vary_camera
from streamer_core import StreamerTokenizer, WeightedMean, preset
from streamer_pipeline.training.modules import log_validation
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import PreTrainedConfig

Encoder = TypeVar("Encoder", CausalAudioEncoder, CausalVideoEncoder)
NUM_LOOKS = 8
NUM_SPEECH_UNITS = 32


class Sense(StrEnum):
    eyes = "eyes"
    ears = "ears"


SETTINGS = {
    Sense.eyes: {"max_steps": 2000, "batch_size": 24},
    Sense.ears: {"max_steps": 2500, "batch_size": 12},
}


class Slides(EndlessBatches):
    """Batches of `NUM_LOOKS` pictures of different people, one or two looks each, and the words (looks, 2)."""

    def __init__(self, dyads: Dyads, pad_token_id: int, batch_size: int, vary: bool = True) -> None:
        super().__init__()
        self.dyads, self.pad, self.batch_size, self.vary = dyads, pad_token_id, batch_size, vary

    def draw(self, step: int, rank: int) -> tuple[Tensor, Tensor]:
        frames, words = zip(*(self._row() for _ in range(self.batch_size)), strict=True)
        return torch.stack(frames), torch.stack(words)

    def _row(self) -> tuple[Tensor, Tensor]:
        frames, words = [], []
        while len(frames) < NUM_LOOKS:
            dyad = draw(self.dyads)
            shown = (dyad["user_seen"] != self.pad).any(1).nonzero()[:, 0]
            units = shown if len(shown) and torch.rand(()) < 0.85 else torch.arange(len(dyad["state"]))
            unit = int(units[torch.randint(len(units), ())])
            times = int(torch.randint(1, 3, ()))
            frames += [dyad["user_frames"][unit]] * times
            words += [dyad["user_seen"][unit]] * times
        pictures = torch.stack(frames[:NUM_LOOKS]).float().div_(127.5).sub_(1)
        return (vary_camera(pictures) if self.vary else pictures).transpose(0, 1), torch.stack(words[:NUM_LOOKS])


class Speech(EndlessBatches):
    """Batches of what different people say in a row, and the words (units, 2) that ended in the unit before."""

    def __init__(self, dyads: Dyads, tokenizer: StreamerTokenizer, batch_size: int, vary: bool = True) -> None:
        super().__init__()
        hearing = {"mixture": Mixture({"hearing": 1.0}), "response_delay": 0, "user_text_slots": 0, "vary": vary}
        rows = batch_size // 2  # of a media batch; those of language have twice as many
        self.conversations = Conversations(
            dyads, None, tokenizer, num_units=NUM_SPEECH_UNITS, batch_size=rows, **hearing
        )

    def draw(self, step: int, rank: int) -> tuple[Tensor, Tensor]:
        batch = self.conversations.draw(step, rank)
        return batch.user_audio, batch.agent_text


class Reading(lightning.LightningModule):
    """An encoder and a linear layer from the tokens of one unit to two words.

    Args:
        perceive: media (B, ...) -> tokens (B, K * upsample, dim) of K units by `encoder`.
    """

    def __init__(
        self,
        encoder: CausalAudioEncoder | CausalVideoEncoder,
        perceive: Callable[[Tensor], tuple[Tensor, object]],
        vocab_size: int,
        pad_token_id: int,
        learning_rate: float,
        max_steps: int,
    ) -> None:
        super().__init__()
        self.encoder, self.perceive = encoder, perceive
        self.read = nn.Linear(encoder.config.tokens_per_unit * encoder.config.output_dim, 2 * vocab_size)
        self.save_hyperparameters(ignore=["encoder", "perceive"])

    def terms(self, batch: tuple[Tensor, Tensor]) -> dict[str, WeightedMean]:
        """Cross-entropy, and of the units with words the share that is read without error."""
        media, words = batch
        tokens, _ = self.perceive(media)
        logits = self.read(tokens.unflatten(1, (words.shape[1], -1)).flatten(2)).unflatten(2, (2, -1))
        entropy = nn.functional.cross_entropy(logits.flatten(0, 2), words.flatten(), reduction="none")
        right, spoken = (logits.argmax(-1) == words).all(-1), (words != self.hparams.pad_token_id).any(-1)
        return {
            "loss": WeightedMean.of(entropy, torch.ones_like(entropy)),
            "right": WeightedMean.of(right.float(), spoken),
        }

    def training_step(self, batch: tuple[Tensor, Tensor], batch_index: int) -> Tensor:
        means = {name: term.mean() for name, term in self.terms(batch).items()}
        self.log_dict({f"train/{name}": mean for name, mean in means.items()}, prog_bar=True)
        return means["loss"]

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_index: int) -> None:
        log_validation(self, {f"val/{name}": term for name, term in self.terms(batch).items()}, prog_bar=True)

    def configure_optimizers(self) -> dict:
        return adamw_with_cosine(self.parameters(), self.hparams.learning_rate, self.hparams.max_steps, (0.9, 0.99))


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
