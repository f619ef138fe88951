"""Batches for VAEs and decoders: speech of all kinds, and talking heads that are drawn while training goes on."""

from functools import cache

import numpy as np
import torch
from causal_vae.training import EndlessBatches
from torch import Tensor

from .agent_voice import AgentVoice
from .clock import FRAMES_PER_UNIT, SAMPLES_PER_UNIT
from .dyad import build_dyad
from .espeak import speak
from .face import eye_boxes, face_box, mouth_box
from .grammar import USER_PHRASINGS
from .real_media import real_prompts
from .render import render_frames
from .scenarios import SCENARIOS
from .shapes import Tracks
from .splits import USER_VOICES
from .tensors import to_video

MOUTH_WEIGHT, EYE_WEIGHT = 24.0, 12.0
CLIP_FRAMES = 16


def speech_sources() -> list[tuple[float, np.ndarray]]:
    """(share of the batches, waveform at 24 kHz) for each kind of voice, clips joined with a little silence."""
    pause = np.zeros(SAMPLES_PER_UNIT, np.float32)
    agent_voice = AgentVoice()
    agent = [part for phrase in agent_voice.phrases for part in (agent_voice(phrase).wave, pause)]
    requests = [text for texts in USER_PHRASINGS.values() for text in texts if "%s" not in text]
    users = [speak(text, voice)[0] for voice in USER_VOICES["train"] for text in requests]
    prompts = [prompt.wave for prompt in real_prompts()[40:]]  # the first 40 are never trained on
    return [(share, np.concatenate(clips)) for share, clips in ((0.6, agent), (0.15, users), (0.25, prompts))]


class SpeechSegments(EndlessBatches):
    """Random segments (batch_size, 1, num_units * 3840) with random gain; one in twelve is plain silence."""

    def __init__(self, sources: list[tuple[float, np.ndarray]], batch_size: int, num_units: int = 4) -> None:
        super().__init__()
        self.sources, self.batch_size, self.length = sources, batch_size, num_units * SAMPLES_PER_UNIT

    def draw(self, step: int, rank: int) -> Tensor:
        random = np.random.default_rng(torch.initial_seed())
        return torch.stack([self._segment(random) for _ in range(self.batch_size)])

    def _segment(self, random: np.random.Generator) -> Tensor:
        shares = np.array([share for share, _ in self.sources])
        wave = self.sources[random.choice(len(shares), p=shares / shares.sum())][1]
        start = random.integers(len(wave) - self.length)
        gain = 0.0 if random.random() < 1 / 12 else random.uniform(0.5, 1.2)
        return torch.from_numpy(wave[start : start + self.length] * np.float32(gain))[None]


def emphasis(mouth: float = MOUTH_WEIGHT, height: int = 192, width: int = 336) -> Tensor:
    """(H, W) loss weight of mean one: the face counts more than the wall, mouth and eyes more than the face."""
    weight = torch.ones(height, width)
    for (top, left, bottom, right), extra in (
        (face_box(), 2.0),
        (mouth_box(), mouth),
        *((box, EYE_WEIGHT) for box in eye_boxes()),
    ):
        weight[top:bottom, left:right] += extra
    return weight / weight.mean()


def activity(motion: Tracks, random: np.random.Generator) -> np.ndarray:
    """(num_frames,) bool: where somebody speaks, nods, raises a hand or blinks; chance says which of them counts."""
    kind = random.random()
    if kind < 0.45:
        return motion["mouth_open"] > 0.05
    if kind < 0.65:
        return np.abs(np.gradient(motion["pitch"])) > 0.01
    return motion["hand"] > 0.1 if kind < 0.8 else motion["blink"] > 0.5


agent_voice = cache(AgentVoice)


class TalkingHeads(EndlessBatches):
    """Clips (batch_size, 3, num_units * 4, 192, 336), in [-1, 1]; a share of them shows the agent, the rest users.

    Clips where somebody speaks, nods, raises a hand or blinks are preferred: all are rarer and harder than a still
    face. Clips last four units, because a decoder that has only ever followed a stream's first unit fails on its third.
    """

    def __init__(
        self, batch_size: int, agent_share: float = 0.85, num_units: int = 4, first_dyad_seed: int = 0
    ) -> None:
        super().__init__()
        self.batch_size, self.agent_share, self.num_frames = batch_size, agent_share, num_units * FRAMES_PER_UNIT
        self.first_dyad_seed = first_dyad_seed

    def draw(self, step: int, rank: int) -> Tensor:
        random = np.random.default_rng(torch.initial_seed())
        return torch.stack([self._clip(random) for _ in range(self.batch_size)])

    def _clip(self, random: np.random.Generator) -> Tensor:
        scenario = "wave" if random.random() < 0.1 else None  # the only one in which the agent waves for sure
        dyad = build_dyad(self.first_dyad_seed + int(random.integers(900_000)), scenario, agent_voice())
        if random.random() < self.agent_share:
            motion, identity = dyad.agent_motion, dyad.agent_identity
        else:
            motion, identity = dyad.user_motion, dyad.user_identity
        active = np.flatnonzero(activity(motion, random)[: -self.num_frames])
        if len(active) and random.random() < 0.8:
            start = max(0, int(random.choice(active)) - int(random.integers(FRAMES_PER_UNIT)))
        else:
            start = int(random.integers(len(motion["mouth_open"]) - self.num_frames))
        return to_video(render_frames(motion, identity, frames=slice(start, start + self.num_frames)))


def agent_clips(num_clips: int, size: tuple[int, int]) -> list[Tensor]:
    """Clips (1, 3, 16, H, W) of the agent, from conversations of every kind."""
    voice, clips = agent_voice(), []
    for seed, scenario in enumerate([*SCENARIOS] * num_clips):
        dyad = build_dyad(seed, scenario, voice)
        for start in range(0, 4 * dyad.num_units - CLIP_FRAMES, 3 * CLIP_FRAMES):
            frames = render_frames(dyad.agent_motion, dyad.agent_identity, size, slice(start, start + CLIP_FRAMES))
            clips.append(to_video(frames)[None])
            if len(clips) == num_clips:
                return clips
    return clips
