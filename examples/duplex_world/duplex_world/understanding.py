"""Closed loop without pictures of the agent: is what it does right by its words?"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from streamer_pipeline import StreamerPipeline
from streamer_pipeline.data.dyads import StoredDyad
from streamer_pipeline.evaluation.closed_loop import converse, without_picture
from streamer_pipeline.evaluation.speech import hearing_scores
from streamer_pipeline.evaluation.statistics import Score, rate

from .agent_voice import AgentVoice
from .clock import FRAMES_PER_UNIT
from .dyad import build_dyad
from .render import render_frames
from .scenarios import UNADDRESSED
from .scoring.turns import goes_on, stays_quiet, stops
from .splits import SPLIT_SIZE, SPLITS
from .tensors import to_video
from .training_tensors import LOOK_SIZE, LOOKS
from .voice_bank import VoiceBank

ASKED = [
    *("greet", "name", "color", "object", "fingers", "smile", "count", "plus", "myname", "recall", "did", "bye"),
    *("pause", "interrupt", "backchannel", "overheard", "aside"),
]
_FIRST_SEED = 900_000  # of a split: far from those that are trained on and from those of the score card


@dataclass(frozen=True)
class HeardUser:
    """A user as sound `(num_samples,)`, one look `(U, h, w, 3)` uint8 per unit, and the labels of the dyad."""

    labels: dict
    audio: np.ndarray
    looks: np.ndarray

    def stored(self) -> StoredDyad:
        video = to_video(self.looks).repeat_interleave(FRAMES_PER_UNIT, 1)
        nothing = torch.zeros(0)
        return StoredDyad(
            str(self.labels["seed"]), self.labels, torch.from_numpy(self.audio)[None], video, nothing, nothing
        )


def users(split: str, num_dyads: int, bank: VoiceBank | None, scenarios: list[str]) -> Iterator[HeardUser]:
    """Users of a split; with a bank those alone who speak by it throughout."""
    voice, first, built = AgentVoice(), SPLITS.index(split) * SPLIT_SIZE + _FIRST_SEED, 0
    for seed in range(first, first + 20 * num_dyads):
        if built == num_dyads:
            return
        dyad = build_dyad(seed, scenarios[built % len(scenarios)], voice, bank=bank)
        if bank is None or dyad.is_natural:
            built += 1
            looks = render_frames(dyad.user_motion, dyad.user_identity, LOOK_SIZE, LOOKS)
            yield HeardUser(dyad.labels(), dyad.user_audio, looks)


def talk(pipeline: StreamerPipeline, users: Iterable[HeardUser], batch_size: int = 8) -> dict[str, Score]:
    """All answers, those of each scenario, stopping, going on through back-channels, and quiet: when nobody speaks to
    it ("overheard", "aside"), and of all times; "hearing.wer", of the user's words as it writes them down."""
    said, other, performances = defaultdict(list), defaultdict(list), []
    for performance in converse(without_picture(pipeline), (user.stored() for user in users), batch_size=batch_size):
        labels = performance.labels
        performances.append(performance)
        for owed in labels["expect"]:
            if owed["kind"] == "say":
                right = performance.said(owed["first_unit"], owed["end_unit"]) == owed["text"]
                for row in ("answers", labels["scenario"]):
                    said[row].append(right)
        for row, judge in (("stops", stops), ("goes on", goes_on), ("quiet", stays_quiet)):
            other[row] += judge(performance)
        if labels["scenario"] in UNADDRESSED:
            other[labels["scenario"]] += stays_quiet(performance)
    return {row: rate(outcomes) for row, outcomes in (said | other).items()} | hearing_scores(performances)
