"""One unseen user who goes through several scenarios, to try an agent on."""

import numpy as np

from .agent_voice import AgentVoice
from .clock import SAMPLE_RATE
from .dyad import Dyad, build_dyad
from .render import render_frames
from .splits import SPLIT_SIZE, SPLITS


def same_user(scenes: list[str]) -> list[Dyad]:
    """One test dyad per scene, all with the voice of the first."""
    voice, dyads, seed = AgentVoice(), [], SPLIT_SIZE * SPLITS.index("test")
    for scene in scenes:
        while True:
            seed += 1
            dyad = build_dyad(seed, scene, voice)
            if not dyads or dyad.user_voice == dyads[0].user_voice:
                dyads.append(dyad)
                break
    return dyads


def synthetic_user(scenes: list[str]) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Frames, sound `(num_samples, 1)` and a line of text for each thing said, of one user through all scenes."""
    dyads, lines, start = same_user(scenes), [], 0.0
    for dyad in dyads:
        lines += [f"{start + segment.start:5.2f} s  {segment.text}" for segment in dyad.user_segments]
        start += len(dyad.user_audio) / SAMPLE_RATE
    frames = [render_frames(dyad.user_motion, dyads[0].user_identity) for dyad in dyads]
    return np.concatenate(frames), np.concatenate([dyad.user_audio for dyad in dyads])[:, None], lines
