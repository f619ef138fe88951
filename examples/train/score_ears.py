"""Does the agent understand its users? Closed loop, right by its words alone: no picture is drawn, no sound is judged.

    python examples/train/score_ears.py                         # espeak users of the test split
    python examples/train/score_ears.py --bank runs/voice_bank  # natural voices, never trained on
    python examples/train/score_ears.py --bank runs/voice_bank --audio-encoder runs/ears/audio_encoder

A tenth of what `wan-streamer eval` costs, and no replacement for it: who speaks, and when, is told by the sound.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from duplex_world.agent_voice import AgentVoice
from duplex_world.dyad import build_dyad
from duplex_world.render import render_frames
from duplex_world.scenarios import UNADDRESSED
from duplex_world.splits import SPLIT_SIZE, SPLITS
from duplex_world.tensors import to_video
from duplex_world.training_tensors import LOOK_SIZE, LOOKS
from duplex_world.voice_bank import VoiceBank
from rich.progress import track
from streamer_pipeline import StreamerPipeline
from streamer_pipeline.data.dyads import StoredDyad
from streamer_pipeline.evaluation.closed_loop import converse, without_picture
from streamer_pipeline.evaluation.statistics import Score, rate
from streamer_pipeline.evaluation.turns import goes_on, stays_quiet, stops
from streamer_pipeline.units import FRAMES_PER_UNIT
from transformers import AutoModel, PreTrainedModel

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
    it ("overheard", "aside"), and of all times."""
    said, other = defaultdict(list), defaultdict(list)
    for performance in converse(without_picture(pipeline), (user.stored() for user in users), batch_size=batch_size):
        labels = performance.labels
        for owed in labels["expect"]:
            if owed["kind"] == "say":
                right = performance.said(owed["first_unit"], owed["end_unit"]) == owed["text"]
                for row in ("answers", labels["scenario"]):
                    said[row].append(right)
        for row, judge in (("stops", stops), ("goes on", goes_on), ("quiet", stays_quiet)):
            other[row] += judge(performance)
        if labels["scenario"] in UNADDRESSED:
            other[labels["scenario"]] += stays_quiet(performance)
    return {row: rate(outcomes) for row, outcomes in (said | other).items()}


def with_ears(pipeline: StreamerPipeline, encoder: PreTrainedModel) -> StreamerPipeline:
    """The same agent with another audio encoder."""
    config = pipeline.config
    parts = pipeline.components | {"audio_encoder": encoder}
    return StreamerPipeline(**parts, prompt=config.prompt, num_inference_steps=config.num_inference_steps)


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
    bank: Annotated[Path | None, typer.Option(help="users speak by this bank; without it by espeak-ng")] = None,
    split: Annotated[str, typer.Option(help=" | ".join(SPLITS))] = "test",
    num_dyads: int = 150,
    scenarios: Annotated[str, typer.Option(help="names, in turn")] = " ".join(ASKED),
    num_threads: int = 1,
) -> None:
    torch.set_num_threads(num_threads)
    pipeline = StreamerPipeline.from_pretrained(checkpoint)
    if audio_encoder:
        pipeline = with_ears(pipeline, AutoModel.from_pretrained(audio_encoder, dtype=torch.float32))
    met = users(split, num_dyads, bank and VoiceBank(bank, split), scenarios.split())
    typer.echo(report(talk(pipeline, track(met, "talking", num_dyads))))


if __name__ == "__main__":
    typer.run(main)
