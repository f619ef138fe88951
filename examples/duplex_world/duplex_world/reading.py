"""Reading lessons for a perception encoder: batches with words to read, and the linear layer that reads them."""

from collections.abc import Callable

import lightning
import torch
from causal_codec import CausalAudioEncoder, CausalVideoEncoder
from causal_vae.training import EndlessBatches, adamw_with_cosine
from streamer_core import StreamerTokenizer, WeightedMean
from streamer_pipeline.data.augment import vary_camera
from streamer_pipeline.data.tasks import Mixture
from streamer_pipeline.training.modules import log_validation
from torch import Tensor, nn

from .conversations import Dyads, WorldConversations, draw

NUM_LOOKS = 8
NUM_SPEECH_UNITS = 32


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
        self.conversations = WorldConversations(
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
