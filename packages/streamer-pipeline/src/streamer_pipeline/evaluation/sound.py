"""When there is sound, by level alone: no model, no words. Times are wall clock."""

from __future__ import annotations

import numpy as np

from ..units import SAMPLE_RATE, SAMPLES_PER_UNIT, UNIT_MS

PIECE_MS = 20
PIECES_PER_UNIT = UNIT_MS // PIECE_MS
_PIECE_SAMPLES = SAMPLE_RATE * PIECE_MS // 1000
_ACTIVE_RMS = 10 ** (-38 / 20)  # of a piece: louder is sound
_MIN_ACTIVE = 2  # pieces; less is a click
# A silence this long ends a burst. Inside the reference voice's phrases no silence is longer than 120 ms.
BURST_GAP = 8  # pieces: 160 ms


def levels(wave: np.ndarray) -> np.ndarray:
    """RMS (P,) of every whole piece of 20 ms of a wave (N,)."""
    pieces = wave[: len(wave) // _PIECE_SAMPLES * _PIECE_SAMPLES].reshape(-1, _PIECE_SAMPLES)
    return np.sqrt(np.square(pieces, dtype=np.float64).mean(axis=1))


def active_pieces(wave: np.ndarray) -> np.ndarray:
    """(P,) whether each piece of 20 ms is louder than -38 dBFS."""
    return levels(wave) > _ACTIVE_RMS


def sounding_units(wave: np.ndarray) -> np.ndarray:
    """(U,) whether each unit has at least two audible pieces."""
    active = active_pieces(wave)
    whole = len(wave) // SAMPLES_PER_UNIT * PIECES_PER_UNIT
    return active[:whole].reshape(-1, PIECES_PER_UNIT).sum(axis=1) >= _MIN_ACTIVE


def bursts(wave: np.ndarray, gap: int = BURST_GAP) -> list[tuple[int, int]]:
    """Stretches of sound as [first, end) pieces, apart by at least `gap` silent pieces; clicks are dropped."""
    active = active_pieces(wave)
    where = np.flatnonzero(active)
    if not len(where):
        return []
    cuts = np.flatnonzero(np.diff(where) > gap)
    starts, ends = where[[0, *(cuts + 1)]], where[[*cuts, -1]] + 1
    return [(int(s), int(e)) for s, e in zip(starts, ends, strict=True) if active[s:e].sum() >= _MIN_ACTIVE]


def seconds(piece: int) -> float:
    """When a piece begins."""
    return piece * PIECE_MS / 1000


def excerpt(wave: np.ndarray, first: int, end: int, margin_ms: int = 120) -> np.ndarray:
    """The samples of pieces [first, end) and what is too soft to count around them, such as an f."""
    margin = SAMPLE_RATE * margin_ms // 1000
    return wave[max(0, first * _PIECE_SAMPLES - margin) : end * _PIECE_SAMPLES + margin]


def decibels(rms: float) -> float:
    """Level in dBFS."""
    return 20 * float(np.log10(max(rms, 1e-9)))
