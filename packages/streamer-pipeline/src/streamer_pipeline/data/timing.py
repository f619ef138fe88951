"""Whether two recordings ran on one clock, whether there is a voice in them, and whether words lie where they sound."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from ..clock import SAMPLE_RATE
from .words import Word

SILENCE_DB = -60.0  # below full scale: quieter than this at its loudest, a recording holds no voice
_LEVEL_SECONDS = 0.02
_AUDIBLE_DB = 6.0  # above the quietest tenth of a recording
_DECIMATION = 3  # leaks are looked for at 8 kHz
_WINDOW_SECONDS, _MOST_WINDOWS = 8.0, 60
_LARGEST_LAG = 2.0  # seconds
_CLEAR_PEAK = 8.0  # standard deviations of the correlation; independent voices stay below 6
_FEWEST_WINDOWS = 4
_SCATTER_SECONDS = 0.005


class Leak(NamedTuple):
    """How the two recordings of a conversation lie to each other, by what each microphone heard of the other voice.

    offset: seconds by which the second is late at its beginning. rate: seconds it is later still after every second.
    """

    offset: float
    rate: float


def loudest_db(wave: np.ndarray) -> float:
    """The level of the loudest 20 ms of `(N,)`, in dB below full scale."""
    levels = _levels(wave)
    return float(levels.max()) if len(levels) else -np.inf


def audible_share(words: Iterable[Word], wave: np.ndarray) -> float:
    """The share of the words in whose time something is heard in `(N,)` at 24 kHz; 1 without words."""
    levels = _levels(wave)
    if not len(levels):
        return 0.0
    audible = levels >= max(np.quantile(levels, 0.1) + _AUDIBLE_DB, SILENCE_DB)
    heard = [audible[int(w.start / _LEVEL_SECONDS) : int(w.end / _LEVEL_SECONDS) + 1].any() for w in words]
    return float(np.mean(heard)) if heard else 1.0


def measure_leak(first: np.ndarray, second: np.ndarray) -> Leak | None:
    """Compare two recordings `(N,)` at 24 kHz by what they have in common; None if that is too little to tell.

    Windows are correlated with whitened spectra (GCC-PHAT); through the lags of those that agree clearly goes a line
    (Theil and Sen), which bears with a few that are wrong.
    """
    from scipy.stats import theilslopes

    length = min(len(first), len(second)) // _DECIMATION * _DECIMATION
    first, second = (wave[:length].reshape(-1, _DECIMATION).mean(1) for wave in (first, second))
    rate = SAMPLE_RATE // _DECIMATION
    window = int(_WINDOW_SECONDS * rate)
    starts = np.linspace(0, len(first) - window, _MOST_WINDOWS).astype(int) if len(first) > window else []
    lags = [(start / rate, _lag(first[start:][:window], second[start:][:window], rate)) for start in np.unique(starts)]
    clear = np.array([(time, lag) for time, lag in lags if lag is not None])
    if len(clear) < _FEWEST_WINDOWS:
        return None
    slope, intercept, *_ = theilslopes(clear[:, 1], clear[:, 0])
    if np.median(np.abs(clear[:, 1] - intercept - slope * clear[:, 0])) > _SCATTER_SECONDS:
        return None  # the leaks go both ways with different delays, or the lags are chance
    return Leak(float(intercept), float(slope))


def stretched(wave: np.ndarray, rate: float) -> np.ndarray:
    """`(N,)` of a clock that lost `rate` seconds per second, on the right clock: `(N / (1 + rate),)`."""
    from scipy.signal import resample

    return wave if rate == 0 else resample(wave, round(len(wave) / (1 + rate))).astype(np.float32)


def _levels(wave: np.ndarray) -> np.ndarray:
    size = int(_LEVEL_SECONDS * SAMPLE_RATE)
    power = np.square(wave[: len(wave) // size * size], dtype=np.float32).reshape(-1, size).mean(1)
    return 10 * np.log10(power + 1e-12)


def _lag(first: np.ndarray, second: np.ndarray, rate: int) -> float | None:
    """Seconds by which `second` is late, if the two have something in common."""
    size = 2 * len(first)
    cross = np.fft.rfft(second, size) * np.conj(np.fft.rfft(first, size))
    correlation = np.fft.irfft(cross / (np.abs(cross) + 1e-12), size)
    most = int(_LARGEST_LAG * rate)
    near = np.concatenate([correlation[-most:], correlation[: most + 1]])
    best = int(np.argmax(near))
    return (best - most) / rate if near[best] > _CLEAR_PEAK * near.std() else None
