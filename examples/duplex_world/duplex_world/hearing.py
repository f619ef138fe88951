"""Lessons for the ears of a finished agent, whose Transformer is frozen and whose eyes have looked already."""

from dataclasses import replace
from pathlib import Path

import torch
from causal_codec import CausalVideoEncoder
from causal_vae.training import adamw_with_cosine
from streamer_core import StreamerTokenizer, UnitStreams
from streamer_pipeline.data.duplex_batch import DuplexBatch
from streamer_pipeline.data.tasks import TASKS, Mixture, Tensors
from streamer_pipeline.data.windows import Conversations
from streamer_pipeline.training.modules import DuplexTraining
from torch import Tensor

from .conversations import PROMPT, Dyads

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


def _around_question(dyad: Tensors, tokenizer: StreamerTokenizer) -> tuple[int, int]:
    """Nothing of what comes long before or after the user speaks: no ear learns from it."""
    heard = (dyad["user_heard"] != tokenizer.pad_token_id).any(1).nonzero()[:, 0]
    if not len(heard):
        return 0, min(9, len(dyad["state"]))
    return max(0, int(heard[0]) - 6), min(len(dyad["state"]), int(heard[-1]) + _ANSWER_UNITS)


class Heard(Conversations):
    """Windows of "hearing" and "words" whose pictures are tokens already."""

    def __init__(self, dyads: Dyads, tokenizer: StreamerTokenizer, mixture: Mixture, **shape: object) -> None:
        tasks = {"hearing": TASKS["hearing"], "words": replace(TASKS["words"], span=_around_question)}
        sources = {"words": dyads}
        if "hearing" in mixture.weights:
            sources["hearing"] = Spellable(dyads, tokenizer)
        super().__init__(sources, tokenizer, mixture, prompt=PROMPT, tasks=tasks, **shape)

    def draw(self, step: int, rank: int) -> DuplexBatch:
        if step % _REFRESH_EVERY == 0:
            for dyads in self.sources.values():
                dyads.refresh()
        return super().draw(step, rank)

    def pictures(self, frames: Tensor) -> Tensor:
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
