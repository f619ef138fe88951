"""Does the agent listen with its face, and does it live while it says nothing?"""

from __future__ import annotations

import numpy as np

from ..units import FRAME_RATE
from .recorded_conversation import RecordedConversation
from .sound import PIECES_PER_UNIT, active_pieces
from .statistics import Score, reaction_p_value

_REACTION_LAGS = range(FRAME_RATE + 1)  # a reaction comes within a second
_CLOSED = 0.5  # share of a clip's usual eye area below which eyes are closed
_PIECES_PER_FRAME = PIECES_PER_UNIT // 4
_ALIKE = 1e-9


def listening_scores(conversations: list[RecordedConversation]) -> dict[str, Score]:
    """p-values of brows that follow the user's speech, and of motion that follows its end (a nod)."""
    seen = [p for p in conversations if p.face is not None and p.labels["user"]["segments"]]
    speech = [user_speech(p.labels) for p in seen]
    ends = [np.maximum(0, -np.diff(track, append=0)) for track in speech]
    return {
        "listening.brows": reaction_p_value(speech, [p.face.brows for p in seen], _REACTION_LAGS),
        "listening.motion": reaction_p_value(ends, [p.face.motion for p in seen], _REACTION_LAGS),
    }


def user_speech(labels: dict) -> np.ndarray:
    """(T,) 1 in the frames in which the user speaks."""
    track = np.zeros(4 * labels["num_units"])
    for segment in labels["user"]["segments"]:
        track[int(segment["start"] * FRAME_RATE) : int(segment["end"] * FRAME_RATE) + 1] = 1
    return track


def blinks(eyes: np.ndarray) -> int:
    """How often eyes close: falls of the eye area below half of what is usual in this clip."""
    closed = eyes < _CLOSED * np.median(eyes)
    return int((closed[1:] & ~closed[:-1]).sum())


def idle_scores(conversations: list[RecordedConversation], references: list[RecordedConversation]) -> dict[str, Score]:
    """Blinks and motion of the silent face, relative to the recorded agent in the same dyads: 1 is alike."""
    recorded = {p.labels["seed"]: p for p in references if p.face is not None}
    seen = [p for p in conversations if p.face is not None and p.labels["seed"] in recorded]
    originals = [recorded[p.labels["seed"]] for p in seen]
    return {
        "idle.blinks": _ratio(_blink_rate(seen), _blink_rate(originals), len(seen)),
        "idle.motion": _ratio(_quiet_motion(seen), _quiet_motion(originals), len(seen)),
    }


def _ratio(value: float, original: float, n: int) -> Score:
    return Score(value / original, n=n) if n and original > _ALIKE else Score(None)


def _blink_rate(conversations: list[RecordedConversation]) -> float:
    """Blinks per second."""
    num_frames = sum(len(p.face.eyes) for p in conversations)
    return FRAME_RATE * sum(blinks(p.face.eyes) for p in conversations) / max(1, num_frames)


def _quiet_motion(conversations: list[RecordedConversation]) -> float:
    """Mean motion of the face in frames without sound of its own."""
    quiet = [p.face.motion[_silent_frames(p)] for p in conversations]
    return float(np.concatenate(quiet).mean()) if quiet else 0.0


def _silent_frames(conversation: RecordedConversation) -> np.ndarray:
    active = active_pieces(conversation.wave)[: _PIECES_PER_FRAME * len(conversation.face.motion)]
    return ~active.reshape(-1, _PIECES_PER_FRAME).any(axis=1)
