"""Does the agent listen with its face, and does it live while it says nothing?"""

from __future__ import annotations

import numpy as np

from ..clock import FRAME_RATE, FRAMES_PER_UNIT
from .dialogue import spoken_runs
from .face import without_gaps
from .recorded_conversation import RecordedConversation
from .sound import PIECES_PER_UNIT, active_pieces
from .statistics import Score, reaction_p_value

_REACTION_LAGS = range(FRAME_RATE + 1)  # a reaction comes within a second
_CLOSED = 0.5  # share of a clip's usual eye area below which eyes are closed
_PIECES_PER_FRAME = PIECES_PER_UNIT // FRAMES_PER_UNIT
_ALIKE = 1e-9


def listening_scores(conversations: list[RecordedConversation]) -> dict[str, Score]:
    """p-values of brows that follow the user's speech, and of motion that follows its end (a nod)."""
    seen = [(c.face, user_speech(c)) for c in conversations if c.face is not None]
    heard = [(face, speech) for face, speech in seen if speech.any()]
    browed = [(brows, speech) for face, speech in heard if (brows := without_gaps(face.brows)) is not None]
    ends = [np.maximum(0, -np.diff(speech, append=0)) for _, speech in heard]
    return {
        "listening.brows": reaction_p_value(
            [speech for _, speech in browed], [brows for brows, _ in browed], _REACTION_LAGS
        ),
        "listening.motion": reaction_p_value(ends, [face.motion for face, _ in heard], _REACTION_LAGS),
    }


def user_speech(conversation: RecordedConversation) -> np.ndarray:
    """(T,) 1 in the frames in which the user's words sound, where they are known."""
    track = np.zeros(FRAMES_PER_UNIT * len(conversation.texts))
    for run in spoken_runs(conversation.labels, "user") or ():
        track[int(run.start * FRAME_RATE) : int(run.end * FRAME_RATE) + 1] = 1
    return track


def blinks(eyes: np.ndarray) -> int:
    """How often eyes close: falls of the eye area below half of what is usual in this clip."""
    closed = eyes < _CLOSED * np.median(eyes)
    return int((closed[1:] & ~closed[:-1]).sum())


def idle_scores(conversations: list[RecordedConversation], references: list[RecordedConversation]) -> dict[str, Score]:
    """Blinks and motion of the silent face, relative to the recorded agent in the same dyads: 1 is alike."""
    recorded = {c.key: c.face for c in references if c.face is not None}
    pairs = [(c, recorded[c.key]) for c in conversations if c.face is not None and c.key in recorded]
    faces = [(c.face, original) for c, original in pairs if c.face is not None]
    tracks = [(without_gaps(f.eyes), without_gaps(original.eyes)) for f, original in faces]
    eyes = [(mine, original) for mine, original in tracks if mine is not None and original is not None]
    originals = {c.key: c for c in references}
    quiet = _quiet_motion([c for c, _ in pairs]), _quiet_motion([originals[c.key] for c, _ in pairs])
    return {
        "idle.blinks": _ratio(_blink_rate([e for e, _ in eyes]), _blink_rate([e for _, e in eyes]), len(eyes)),
        "idle.motion": _ratio(*quiet, len(pairs)),
    }


def _ratio(value: float, original: float, n: int) -> Score:
    return Score(value / original, n=n) if n and original > _ALIKE else Score(None)


def _blink_rate(tracks: list[np.ndarray]) -> float:
    """Blinks per second."""
    return FRAME_RATE * sum(map(blinks, tracks)) / max(1, sum(map(len, tracks)))


def _quiet_motion(conversations: list[RecordedConversation]) -> float:
    """Mean motion of the face in frames without sound of its own."""
    quiet = [c.face.motion[_silent_frames(c, len(c.face.motion))] for c in conversations if c.face is not None]
    return float(np.concatenate(quiet).mean()) if quiet else 0.0


def _silent_frames(conversation: RecordedConversation, num_frames: int) -> np.ndarray:
    active = active_pieces(conversation.wave)[: _PIECES_PER_FRAME * num_frames]
    return np.asarray(~active.reshape(-1, _PIECES_PER_FRAME).any(axis=1))
