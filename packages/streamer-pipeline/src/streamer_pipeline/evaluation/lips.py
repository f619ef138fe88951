"""Do the lips move with the sound? Correlation of the mouth in the picture with the energy in the sound, by lag."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..units import FRAME_RATE
from .face import without_gaps
from .recorded_conversation import RecordedConversation
from .sound import PIECE_MS, active_pieces, decibels, levels
from .statistics import Score, lagged_correlations, mean, rate

MAX_LAG = 6  # frames of 40 ms
_PIECES_PER_FRAME = 1000 // FRAME_RATE // PIECE_MS
_MIN_SPEECH = FRAME_RATE // 2  # frames with sound that a clip needs
_FLOOR_DB = -50.0
_AROUND_SPEECH = 12  # frames before and after speech that are compared, too


@dataclass(frozen=True)
class LipSync:
    """Of one clip: `offset` in frames where mouth and sound fit best (above 0 the picture is late), and r at lag 0."""

    offset: int
    zero_lag: float


def energy(wave: np.ndarray) -> np.ndarray:
    """Level in dB above a floor, per video frame, as (T,)."""
    rms = levels(wave)
    frames = np.sqrt(
        np.square(rms[: len(rms) // _PIECES_PER_FRAME * _PIECES_PER_FRAME]).reshape(-1, _PIECES_PER_FRAME).mean(1)
    )
    return np.maximum([decibels(value) for value in frames], _FLOOR_DB) - _FLOOR_DB


def lip_sync(conversation: RecordedConversation) -> LipSync | None:
    """None where there is too little speech, or no mouth to be seen."""
    mouth = None if conversation.face is None else without_gaps(conversation.face.mouth)
    if mouth is None:
        return None
    active = active_pieces(conversation.wave)
    speech = active[: len(active) // _PIECES_PER_FRAME * _PIECES_PER_FRAME].reshape(-1, _PIECES_PER_FRAME).any(1)
    if speech.sum() < _MIN_SPEECH:
        return None
    where = np.flatnonzero(speech)
    near = slice(max(0, where[0] - _AROUND_SPEECH), where[-1] + 1 + _AROUND_SPEECH)
    by_lag = lagged_correlations(energy(conversation.wave)[near], mouth[near], range(-MAX_LAG, MAX_LAG + 1))
    return LipSync(int(by_lag.argmax()) - MAX_LAG, float(by_lag[MAX_LAG]))


def lip_scores(conversations: list[RecordedConversation]) -> dict[str, Score]:
    """Share of clips in step within one frame, and the mean correlation at no lag."""
    clips = [clip for p in conversations if (clip := lip_sync(p)) is not None]
    return {
        "lips.in_step": rate([abs(clip.offset) <= 1 for clip in clips]),
        "lips.zero_lag": mean([clip.zero_lag for clip in clips]),
    }
