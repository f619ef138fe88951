"""Numbers with their uncertainty: rates, means, quantiles, and a permutation test of lagged correlation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

NUM_RESAMPLES = 999


@dataclass(frozen=True)
class Score:
    """A measured value, its 95 % confidence interval, and the number of things it was measured on.

    `value` is None where nothing could be measured (n = 0); `low` and `high` are None where no interval is given.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    n: int = 0


def rate(outcomes: Sequence[bool]) -> Score:
    """The share of true outcomes with its score interval (Wilson 1927), which stays inside 0..1."""
    from scipy.stats import binomtest

    if not outcomes:
        return Score(None)
    interval = binomtest(sum(outcomes), len(outcomes)).proportion_ci(method="wilson")
    return Score(sum(outcomes) / len(outcomes), float(interval.low), float(interval.high), len(outcomes))


def quantile(values: Sequence[float], q: float) -> Score:
    """A quantile with its bootstrap percentile interval (Efron 1979)."""
    if not len(values):
        return Score(None)
    return _bootstrap(np.asarray(values, float), lambda x: np.quantile(x, q, axis=-1))


def mean(values: Sequence[float]) -> Score:
    """A mean with its bootstrap percentile interval."""
    if not len(values):
        return Score(None)
    return _bootstrap(np.asarray(values, float), lambda x: x.mean(axis=-1))


def ratio(parts: Sequence[float], wholes: Sequence[float]) -> Score:
    """The sum of parts over the sum of their wholes, with a bootstrap interval over pairs; n is the sum of wholes."""
    pairs = np.array([parts, wholes], float)
    if not pairs[1].sum():
        return Score(None)
    drawn = np.random.default_rng(0).integers(pairs.shape[1], size=(NUM_RESAMPLES, pairs.shape[1]))
    above, below = pairs[:, drawn].sum(axis=-1)
    low, high = np.quantile((above / np.maximum(below, 1))[below > 0], (0.025, 0.975))
    return Score(float(pairs[0].sum() / pairs[1].sum()), float(low), float(high), int(pairs[1].sum()))


def _bootstrap(values: np.ndarray, statistic: Callable[..., Any]) -> Score:
    drawn = np.random.default_rng(0).choice(values, (NUM_RESAMPLES, len(values)))
    low, high = np.quantile(statistic(drawn), (0.025, 0.975))
    return Score(float(statistic(values)), float(low), float(high), len(values))


def events_per_minute(num_events: int, minutes: float) -> Score:
    """A rate of rare events with its exact Poisson interval (Garwood 1936); n is the number of events."""
    from scipy.stats import chi2

    if minutes <= 0:
        return Score(None)
    low = chi2.ppf(0.025, 2 * num_events) / 2 if num_events else 0.0
    high = chi2.ppf(0.975, 2 * num_events + 2) / 2
    return Score(num_events / minutes, float(low / minutes), float(high / minutes), num_events)


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson's r of two tracks; 0 where one of them is constant."""
    a, b = a - a.mean(), b - b.mean()
    norm = np.sqrt((a @ a) * (b @ b))
    return float(a @ b / norm) if norm > 1e-12 else 0.0


def lagged_correlations(leader: np.ndarray, follower: np.ndarray, lags: range) -> np.ndarray:
    """r of `leader[t]` with `follower[t + lag]` for every lag: a follower that is late by 3 peaks at lag 3."""
    num = len(leader)
    return np.array(
        [
            correlation(leader[max(0, -lag) : num - max(0, lag)], follower[max(0, lag) : num + min(0, lag)])
            for lag in lags
        ]
    )


def reaction_p_value(events: list[np.ndarray], reactions: list[np.ndarray], lags: range) -> Score:
    """Whether agents react to events, against chance: a permutation test over time-shifted reactions.

    The statistic is the largest, over lags, of the correlation averaged over clips. Under the null each clip's reaction
    is rotated in time by a random amount, which keeps its own rhythm and loses its tie to the events.

    Args:
        events, reactions: one track (T,) each per clip.

    Returns:
        The p-value; n is the number of clips.
    """
    tracks = zip(events, reactions, strict=True)
    pairs = [(e, r) for e, r in tracks if len(e) > 2 * len(lags) and e.std() > 0 and r.std() > 0]
    if not pairs:
        return Score(None)
    spectra = [_rotated_correlations(event, reaction) for event, reaction in pairs]
    rng = np.random.default_rng(0)

    def statistic(shifts: list[int]) -> float:
        rows = [np.take(c, [s + lag for lag in lags], mode="wrap") for c, s in zip(spectra, shifts, strict=True)]
        return float(np.mean(rows, axis=0).max())

    observed = statistic([0] * len(spectra))
    null = [statistic([int(rng.integers(len(c))) for c in spectra]) for _ in range(NUM_RESAMPLES)]
    return Score((1 + sum(value >= observed for value in null)) / (1 + NUM_RESAMPLES), n=len(pairs))


def _rotated_correlations(leader: np.ndarray, follower: np.ndarray) -> np.ndarray:
    """r of the leader with the follower rotated back by 0, 1, ..., T - 1 frames."""
    a = (leader - leader.mean()) / leader.std()
    b = (follower - follower.mean()) / follower.std()
    return np.fft.irfft(np.conj(np.fft.rfft(a)) * np.fft.rfft(b), len(a)) / len(a)
