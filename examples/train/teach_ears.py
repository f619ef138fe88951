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
from causal_vae.training import adamw_with_cosine, build_trainer, fit
from duplex_world.conversations import Conversations, Dyads, Mixture, units_of
from streamer_core import StreamerModel, StreamerTokenizer, UnitStreams
from streamer_pipeline import StreamerPipeline
from streamer_pipeline.training.modules import DuplexBatch, DuplexTraining
from torch import Tensor
from torch.utils.data import DataLoader

TASKS = {"hearing": 0.4, "words": 0.6}
VALIDATION_BATCHES = 8
_REFRESH_EVERY = 100  # batches
_ANSWER_UNITS = 12  # after the user's last word: so much of the answer shows what was understood


class WatchedDyads(Dyads):
    """Stored dyads whose looks were taken in already: `user_frames` are the video encoder's tokens (U, tokens, dim)."""

    def __init__(self, folder: Path, video_encoder: CausalVideoEncoder) -> None:
        self._look = video_encoder.eval().forward_frames
        super().__init__([folder], with_latents=False)

    @torch.no_grad()
    def _kept(self, dyad: dict[str, Tensor]) -> dict[str, Tensor]:
        frames = dyad["user_frames"].float().div_(127.5).sub_(1)
        tokens, _ = self._look(frames.transpose(0, 1)[None])
        return dyad | {"user_frames": tokens[0].unflatten(0, (len(frames), -1)).half()}


class Spellable(Dyads):
    """Those of some dyads whose users say only words that are one token each: the others were never written by ear."""

    def __init__(self, dyads: Dyads, tokenizer: StreamerTokenizer) -> None:
        self._all, self._checked, self._tokenizer = dyads, 0, tokenizer
        self._dyads = []
        self.refresh()

    def refresh(self) -> None:
        first = {
            i for i, piece in enumerate(map(self._tokenizer.decode, range(len(self._tokenizer)))) if piece[:1] == " "
        }
        first.add(self._tokenizer.pad_token_id)
        for index in range(self._checked, len(self._all)):
            if first.issuperset(self._all[index]["user_heard"].flatten().tolist()):
                self._dyads.append(self._all[index])
        self._checked = len(self._all)


class Heard(Conversations):
    """Windows of "hearing" and "words" whose pictures are tokens already."""

    def __init__(self, dyads: Dyads, tokenizer: StreamerTokenizer, **shape: object) -> None:
        super().__init__(dyads, None, tokenizer, **shape)
        self.spellable = Spellable(dyads, tokenizer)

    def draw(self, step: int, rank: int) -> DuplexBatch:
        if step % _REFRESH_EVERY == 0:
            self.dyads.refresh()
            self.spellable.refresh()
        return super().draw(step, rank)

    def _window(self, source: Dyads, task: str) -> dict[str, Tensor]:
        return super()._window(self.spellable if task == "hearing" else source, task)

    def _cut(self, dyad: dict[str, Tensor], task: str) -> dict[str, Tensor]:
        """Nothing of what comes long before or after the user speaks: no ear learns from it."""
        if task == "hearing":
            return super()._cut(dyad, task)
        heard = (dyad["user_heard"] != self.tokenizer.pad_token_id).any(1).nonzero()[:, 0]
        if not len(heard):
            return units_of(dyad, 0, 9)
        return units_of(dyad, max(0, int(heard[0]) - 6), min(len(dyad["state"]), int(heard[-1]) + _ANSWER_UNITS))

    def _pictures(self, frames: Tensor) -> Tensor:
        return frames.float()


class EarTraining(DuplexTraining):
    """Only the audio encoder learns; `user_frames` of a batch are video tokens (B, tokens, K, dim)."""

    def streams(self, batch: DuplexBatch) -> UnitStreams:
        tokens, _ = self.audio_encoder(batch.user_audio)
        tokens = tokens.unflatten(1, (batch.state.shape[1], -1))
        seen = batch.user_frames.transpose(1, 2)
        return UnitStreams(batch.user_text, tokens, seen, batch.state, batch.agent_text, None, None)

    def configure_optimizers(self) -> dict:
        h = self.hparams
        return adamw_with_cosine(
            self.audio_encoder.parameters(), h.learning_rate, h.max_steps, betas=(0.9, 0.98), weight_decay=0.01
        )


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
