"""Give the video encoder a start: name what users show, frame by frame, with a linear reading of its tokens.

    python examples/train_eyes.py --users runs/users --run runs/eyes

Minutes of this save hours: inside the Transformer, words reach the encoder only through all layers, and what was said
before is easier to copy than a picture is to see. Writes `<run>/video_encoder`; the reading is thrown away.
"""

from pathlib import Path
from typing import Annotated

import lightning
import torch
import typer
from causal_codec import CausalVideoEncoder, CausalVideoEncoderConfig
from causal_vae.training import adamw_with_cosine, build_trainer, resume_point
from conversations import Dyads, draw, vary_camera
from streamer_core import StreamerTokenizer, preset
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

NUM_LOOKS = 8


class Slides(IterableDataset):
    """Endless rows of `NUM_LOOKS` pictures of different people, one or two looks each, and the words (looks, 2)."""

    def __init__(self, dyads: Dyads, pad_token_id: int, vary: bool = True) -> None:
        self.dyads, self.pad, self.vary = dyads, pad_token_id, vary

    def __iter__(self):
        while True:
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
            yield (vary_camera(pictures) if self.vary else pictures).transpose(0, 1), torch.stack(words[:NUM_LOOKS])


class Reading(lightning.LightningModule):
    """The encoder and a linear layer from the tokens of one look to two words."""

    def __init__(self, encoder: CausalVideoEncoder, vocab_size: int, learning_rate: float, max_steps: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.read = nn.Linear(encoder.upsample * encoder.config.output_dim, 2 * vocab_size)
        self.save_hyperparameters(ignore=["encoder"])

    def loss(self, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        frames, words = batch
        tokens, _ = self.encoder.forward_frames(frames)
        looks = tokens.unflatten(1, (NUM_LOOKS, -1)).flatten(2)
        logits = self.read(looks).unflatten(2, (2, -1))
        right = (logits.argmax(-1) == words).all(-1).float().mean()
        return nn.functional.cross_entropy(logits.flatten(0, 2), words.flatten()), right

    def training_step(self, batch: tuple[Tensor, Tensor], batch_index: int) -> Tensor:
        loss, right = self.loss(batch)
        self.log_dict({"train/loss": loss, "train/right": right}, prog_bar=True)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_index: int) -> None:
        loss, right = self.loss(batch)
        self.log_dict({"val/loss": loss, "val/right": right}, prog_bar=True)

    def configure_optimizers(self) -> dict:
        return adamw_with_cosine(self.parameters(), self.hparams.learning_rate, self.hparams.max_steps, (0.9, 0.99))


def main(
    users: Annotated[Path, typer.Option(help="dyads of prepare_dyads.py; latents are not needed")] = Path("runs/users"),
    val_dyads: Annotated[Path, typer.Option(help="dyads of the validation split")] = Path("runs/val"),
    run: Annotated[Path, typer.Option(help="folder of this run")] = Path("runs/eyes"),
    max_steps: int = 2000,
    batch_size: int = 24,
    learning_rate: float = 2e-3,
    precision: Annotated[str, typer.Option(help="Lightning's: 32-true or bf16-mixed")] = "bf16-mixed",
    num_threads: int = 1,
) -> None:
    torch.set_num_threads(num_threads)
    torch.manual_seed(0)
    tokenizer = StreamerTokenizer.from_pretrained(users / "tokenizer")
    pad = tokenizer.pad_token_id
    encoder = CausalVideoEncoder(CausalVideoEncoderConfig(output_dim=preset("tiny").perception_dim)).train()
    slides = DataLoader(Slides(Dyads([users], with_latents=False), pad), batch_size)
    unseen = iter(DataLoader(Slides(Dyads([val_dyads], with_latents=False), pad, vary=False), batch_size))
    held_out = DataLoader([next(unseen) for _ in range(8)], batch_size=None)
    trainer = build_trainer(run, max_steps, max(2, max_steps // 10), precision=precision)
    training = Reading(encoder, len(tokenizer), learning_rate, max_steps)
    trainer.fit(training, slides, held_out, ckpt_path=resume_point(run))
    encoder.save_pretrained(run / "video_encoder")
    typer.echo(f"saved {run / 'video_encoder'}")


if __name__ == "__main__":
    typer.run(main)
