"""A loudspeaker and a microphone in one small room: what the agent says comes back to it as if the user had said it."""

from __future__ import annotations

import numpy as np
import torch
from scipy.signal import fftconvolve

from ..units import SAMPLE_RATE, SAMPLES_PER_UNIT, UserUnit

_DELAY_MS = (60, 200)  # of loudspeaker, air and microphone, drawn evenly for each room
_LEVEL_DB = -12.0  # of all that comes back, relative to what was played
_TAIL_MS = 200  # in which the room's echoes fall by 60 dB
_TAIL_SHARE = 0.3  # of the energy that comes back


def room_response(seed: int) -> np.ndarray:
    """(T,) the impulse response at 24 kHz: silence for the delay, the direct sound, a tail of decaying noise."""
    rng = np.random.default_rng(seed)
    delay = round(rng.uniform(*_DELAY_MS) * SAMPLE_RATE / 1000)
    length = _TAIL_MS * SAMPLE_RATE // 1000
    tail = rng.standard_normal(length) * 10 ** (-3 * np.arange(length) / length)
    tail *= np.sqrt(_TAIL_SHARE / np.sum(tail**2))
    response = np.concatenate([np.zeros(delay), [np.sqrt(1 - _TAIL_SHARE)], tail])
    return (response * 10 ** (_LEVEL_DB / 20)).astype(np.float32)


class AcousticLoop:
    """One conversation's room. Every unit of the user is heard through it, in order, then what plays meanwhile.

    A unit of the agent begins to sound when the user's next unit begins, as live. Nothing cancels the echo.
    """

    def __init__(self, seed: int) -> None:
        self._response = room_response(seed)
        self._played = np.zeros(len(self._response) - 1 + SAMPLES_PER_UNIT, np.float32)  # up to the end of this unit

    def microphone(self, unit: UserUnit) -> UserUnit:
        """The user's unit with the echo of what the agent has played."""
        echo = fftconvolve(self._played, self._response, mode="valid")
        audio = unit.audio + torch.from_numpy(echo.astype(np.float32))
        return UserUnit(audio.clamp(-1, 1), unit.video, unit.text)

    def play(self, audio: torch.Tensor) -> None:
        """Take (1, 3840) of the agent, which sounds while the user's next unit is recorded."""
        played = audio[0].clamp(-1, 1).float().cpu().numpy()
        self._played = np.concatenate([self._played[len(played) :], played])
