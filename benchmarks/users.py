"""The user of every benchmark: a minute of people who greet, ask and show, so that the agent speaks.

What a unit costs depends on what is said in it: each word that begins takes the Transformer over the language slots
again. So nobody here is noise. The people are unseen users of the duplex world, one after the other, recorded once as a
webcam would send them; when the minute is over it begins again.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from streamer_pipeline import FRAMES_PER_UNIT, SAMPLES_PER_UNIT, UNIT_MS, RecordingReader, UserUnit
from torch import Tensor

SCENES = "greet count object backchannel recall did plus wave count name color bye"
UNITS_PER_MINUTE = 60_000 // UNIT_MS


def make_recording(path: Path, scenes: str = SCENES, num_units: int = UNITS_PER_MINUTE) -> None:
    """Write the first `num_units` of one test dyad per scene, each with a user of its own, as an MP4 file.

    Raises:
        ValueError: the scenes are shorter than that.
    """
    from duplex_world.agent_voice import AgentVoice
    from duplex_world.dyad import build_dyad
    from duplex_world.movie import write_movie
    from duplex_world.render import render_frames
    from duplex_world.splits import SPLIT_SIZE, SPLITS

    voice, first_seed = AgentVoice(), SPLIT_SIZE * SPLITS.index("test")
    dyads = [build_dyad(first_seed + i, scene, voice) for i, scene in enumerate(scenes.split())]
    if (found := sum(dyad.num_units for dyad in dyads)) < num_units:
        raise ValueError(f"the scenes {scenes!r} last {found} units; {num_units} are wanted: name more scenes")
    frames = np.concatenate([render_frames(dyad.user_motion, dyad.user_identity) for dyad in dyads])
    sound = np.concatenate([dyad.user_audio for dyad in dyads])[:, None]
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"unfinished-{path.name}")
    write_movie(unfinished, frames[: num_units * FRAMES_PER_UNIT], sound[: num_units * SAMPLES_PER_UNIT])
    unfinished.rename(path)


@dataclass(frozen=True)
class TalkingUser:
    """A recording in memory, as bytes: reading a file while a unit is timed would be timed too.

    audio: (N, 1, 3840) float32 in [-1, 1]. video: (N, 3, 4, H, W) uint8.
    """

    audio: Tensor
    video: Tensor

    def units(self, num: int, phase: float = 0.0) -> Iterator[UserUnit]:
        """`num` units, again and again from the beginning; users of other phases are in other places of the minute.

        Args:
            phase: where to begin, as a share of the whole recording.
        """
        length = len(self.audio)
        for index in range(num):
            place = (round(phase * length) + index) % length
            yield UserUnit(self.audio[place], self.video[place].float() / 127.5 - 1)


@functools.lru_cache(maxsize=1)
def read_user(path: Path, height: int, width: int) -> TalkingUser:
    """The recording at `path`, cut and scaled to pictures of height x width; the latest one is kept."""
    units = [(unit.audio, ((unit.video + 1) * 127.5).round().byte()) for unit in RecordingReader(path, height, width)]
    audio, video = zip(*units, strict=True)
    return TalkingUser(torch.stack(audio), torch.stack(video))
