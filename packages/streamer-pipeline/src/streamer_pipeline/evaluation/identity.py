"""Is there a face, and does it stay the same person's?"""

from __future__ import annotations

import numpy as np

from ..clock import FRAME_RATE
from .face import FaceTracks, is_there
from .recorded_conversation import RecordedConversation
from .scorecard import Scores
from .statistics import mean


def identity_scores(conversations: list[RecordedConversation], references: list[RecordedConversation]) -> Scores:
    """The share of frames with a face, and distances of its identity: to its own first second, and to the recorded
    agent's in the same dyad. Both are means over conversations in which a face is nearly always there."""
    faces = {c.key: c.face for c in conversations if c.face is not None}
    recorded = {c.key: c.face for c in references if c.face is not None}
    kept = [distance for face in faces.values() if (distance := _from_first_second(face)) is not None]
    pairs = [(face, recorded[key]) for key, face in faces.items() if key in recorded and recorded[key] is not face]
    apart = [distance for face, original in pairs if (distance := _apart(face, original)) is not None]
    return {
        "face.found": mean([face.found.mean() for face in faces.values() if face.found is not None]),
        "face.kept": mean(kept),
        "face.recorded": mean(apart),
    }


def mean_identity(face: FaceTracks) -> np.ndarray | None:
    """(D,), None without a face."""
    if face.identity is None or not is_there(face.identity):
        return None
    return np.asarray(np.nanmean(face.identity, axis=0))


def _from_first_second(face: FaceTracks) -> float | None:
    if face.identity is None or len(face.identity) <= FRAME_RATE or not is_there(face.identity):
        return None
    first, later = face.identity[:FRAME_RATE], face.identity[FRAME_RATE:]
    if not is_there(first):
        return None
    return float(np.nanmean(np.linalg.norm(later - np.nanmean(first, axis=0), axis=1)))


def _apart(face: FaceTracks, original: FaceTracks) -> float | None:
    mine, theirs = mean_identity(face), mean_identity(original)
    return None if mine is None or theirs is None else float(np.linalg.norm(mine - theirs))
