"""A synthetic duplex world: users and one agent who talk, show and look at each other in 160 ms units.

All of it is synthetic: espeak-ng users, one neural agent voice, drawn faces. Numbers measured in it must say so.
"""

from .agent_voice import AgentVoice, Rendition
from .clock import FRAME_RATE, FRAMES_PER_UNIT, SAMPLE_RATE, SAMPLES_PER_UNIT, UNIT_MS
from .dyad import Dyad, build_dyad
from .espeak import speak
from .face import AGENT, NEUTRAL, Identity, face_box, mouth_box, random_identity
from .grammar import agent_jsgf, agent_phrases
from .phonemes import PhonemeSpan, arpabet_viseme, espeak_viseme, mouth_track
from .render import render_frames
from .scenarios import SCENARIOS
from .script import AgentSegment, Expectation, UserSegment, VisualEvent
from .splits import SPLIT_SIZE, SPLITS, USER_VOICES, split_of

__all__ = [
    "AGENT",
    "FRAMES_PER_UNIT",
    "FRAME_RATE",
    "NEUTRAL",
    "SAMPLES_PER_UNIT",
    "SAMPLE_RATE",
    "SCENARIOS",
    "SPLITS",
    "SPLIT_SIZE",
    "UNIT_MS",
    "USER_VOICES",
    "AgentSegment",
    "AgentVoice",
    "Dyad",
    "Expectation",
    "Identity",
    "PhonemeSpan",
    "Rendition",
    "UserSegment",
    "VisualEvent",
    "agent_jsgf",
    "agent_phrases",
    "arpabet_viseme",
    "build_dyad",
    "espeak_viseme",
    "face_box",
    "mouth_box",
    "mouth_track",
    "random_identity",
    "render_frames",
    "speak",
    "split_of",
]
