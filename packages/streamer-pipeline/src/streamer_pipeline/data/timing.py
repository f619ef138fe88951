"""Whether two recordings ran on one clock, whether there is a voice in them, and whether words lie where they sound."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from ..clock import SAMPLE_RATE
from .words import Word

SILENCE_DB = -60.0  # below full scale: quieter than this at its loudest, a recording holds no voice
_LEVEL_SECONDS = 0.02
_AUDIBLE_DB = 6.0  # above the quietest tenth of a recording
_DECIMATION = 3  # leaks are looked for at 8 kHz
_WINDOW_SECONDS, _MOST_WINDOWS = 4.0, 120
_LARGEST_LAG = 2.0  # seconds
_LARGEST_RATE = 0.0005  # clocks of recorders differ by less
_SCATTER_SECONDS = 0.005  # of the lags of windows that agree: the voices leak over some air, one way or the other


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
    audible = _audible(wave)
    heard = [audible[int(w.start / _LEVEL_SECONDS) : int(w.end / _LEVEL_SECONDS) + 1].any() for w in words]
    return float(np.mean(heard)) if heard else 1.0


def tightened(words: Iterable[Word], wave: np.ndarray) -> Iterator[Word]:
    """Words without the silence at their edges: recognisers begin the first word after a pause too early."""
    audible = _audible(wave)
    for word in words:
        first = int(word.start / _LEVEL_SECONDS)
        heard = np.flatnonzero(audible[first : int(word.end / _LEVEL_SECONDS) + 1])
        start, end = (first + heard[[0, -1]] + [0, 1]) * _LEVEL_SECONDS if len(heard) else (word.start, word.end)
        yield Word(word.text, float(max(word.start, start)), float(min(word.end, end)))


def measure_leak(first: np.ndarray, second: np.ndarray) -> Leak | None:
    """Compare two recordings `(N,)` at 24 kHz by what they have in common; None if that is too little to tell.

    Windows are correlated with whitened spectra (GCC-PHAT). Most lags may be chance, but chance does not lie on one
    line: the line through two of them with which the most others agree is the answer if these are enough.
    """
    from scipy.stats import theilslopes

    length = min(len(first), len(second)) // _DECIMATION * _DECIMATION
    first, second = (wave[:length].reshape(-1, _DECIMATION).mean(1) for wave in (first, second))
    rate = SAMPLE_RATE // _DECIMATION
    window = int(_WINDOW_SECONDS * rate)
    count = min(_MOST_WINDOWS, len(first) // window)
    starts = np.linspace(0, max(0, len(first) - window), count).astype(int)
    found = [(start / rate, _lag(first[start:][:window], second[start:][:window], rate)) for start in starts]
    times, lags = np.array([(time, lag) for time, lag in found if lag is not None]).reshape(-1, 2).T
    one, other = np.triu_indices(len(times), 1)
    slopes = (lags[other] - lags[one]) / (times[other] - times[one])
    likely = np.abs(slopes) <= _LARGEST_RATE
    if not likely.any():
        return None
    slopes, one = slopes[likely], one[likely]
    lines = lags[one, None] + slopes[:, None] * (times - times[one, None])
    agree = np.abs(lags - lines) <= _SCATTER_SECONDS
    best = agree[np.argmax(agree.sum(1))]
    # Of random lags so many agreed in none of 3,000 tries.
    if best.sum() < 5 + len(times) // 12:
        return None
    slope, intercept, *_ = theilslopes(lags[best], times[best])
    return Leak(float(intercept), float(slope))


def stretched(wave: np.ndarray, rate: float) -> np.ndarray:
    """`(N,)` of a clock that lost `rate` seconds per second, on the right clock: `(N / (1 + rate),)`."""
    from scipy.signal import resample

    return wave if rate == 0 else resample(wave, round(len(wave) / (1 + rate))).astype(np.float32)


def _audible(wave: np.ndarray) -> np.ndarray:
    """Of every 20 ms, whether something is heard in it."""
    levels = _levels(wave)
    return levels >= max(np.quantile(levels, 0.1) + _AUDIBLE_DB, SILENCE_DB) if len(levels) else np.zeros(0, bool)


def _levels(wave: np.ndarray) -> np.ndarray:
    size = int(_LEVEL_SECONDS * SAMPLE_RATE)
    power = np.square(wave[: len(wave) // size * size], dtype=np.float32).reshape(-1, size).mean(1)
    return 10 * np.log10(power + 1e-12)


def _lag(first: np.ndarray, second: np.ndarray, rate: int) -> float | None:
    """Seconds by which `second` is late, if it is the same sound at all; None where one is perfectly silent."""
    size = 2 * len(first)
    cross = np.fft.rfft(second, size) * np.conj(np.fft.rfft(first, size))
    if not cross.any():
        return None
    correlation = np.fft.irfft(cross / (np.abs(cross) + 1e-12), size)
    most = int(_LARGEST_LAG * rate)
    near = np.concatenate([correlation[-most:], correlation[: most + 1]])
    return (int(np.argmax(near)) - most) / rate
