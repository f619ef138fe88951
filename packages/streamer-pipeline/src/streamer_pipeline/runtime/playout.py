"""What is played while a conversation is live: one unit of sound and picture per tick, though the model be late.

No time is read here: the caller says when a tick is.
"""

from __future__ import annotations

from collections import deque
from dataclasses import replace

import torch
from torch import Tensor

from ..units import SAMPLE_RATE, AgentUnit

_FADE_SAMPLES = SAMPLE_RATE // 100  # 10 ms
_SILENCE = 0.01  # root mean square below which a unit without words is silent


class Playout:
    """A bounded queue of answers, and something to play at every tick.

    Policy:
    - Sound and picture of a unit leave together, and a filler is a whole unit too: they cannot drift apart.
    - Nothing ready: a filler. It holds the last frame; its sound goes on from the last sample and fades to silence in
      10 ms, and what follows it fades in, so there is no click. A filler has the index of the unit that it holds, no
      words of either side and no latency.
    - A unit that comes late is played when it comes, so every filler adds 160 ms of delay. A surplus (two or more units
      ready at a tick) is that delay made visible: its oldest units are shed, as long as they are silent.
    - Bound: at most `max_ready_units` answers are ready, after which `is_full` tells the worker to wait. The delay of
      play-out is therefore never above `max_ready_units` units, and falls by a unit for every silent one that is shed,
      to less than two.
    """

    def __init__(self, max_ready_units: int) -> None:
        if max_ready_units < 2:
            raise ValueError(f"max_ready_units is at least 2, or a surplus could not be seen; got {max_ready_units}")
        self.num_played = 0
        self.num_fillers = 0
        self.num_shed = 0
        self.max_ready = max_ready_units
        self._ready: deque[AgentUnit] = deque()
        self._last: AgentUnit | None = None
        self._is_broken = False  # the sound that follows does not continue the sound before

    def __len__(self) -> int:
        return len(self._ready)

    @property
    def is_full(self) -> bool:
        return len(self._ready) >= self.max_ready

    def add(self, unit: AgentUnit) -> None:
        assert not self.is_full
        self._ready.append(unit)

    def tick(self) -> AgentUnit:
        """What plays for the next 160 ms. At least one unit has been added before the first tick."""
        while len(self._ready) > 1 and _is_silent(self._ready[0]):
            self._ready.popleft()
            self.num_shed += 1
            self._is_broken = True
        if self._ready:
            unit = self._ready.popleft()
            self.num_played += 1
            if self._is_broken:
                unit = replace(unit, audio=_fade_in(unit.audio))
            self._is_broken = False
        else:
            assert self._last is not None
            unit = _hold(self._last)
            self.num_fillers += 1
            self._is_broken = True
        self._last = unit
        return unit


def _is_silent(unit: AgentUnit) -> bool:
    return not unit.text.strip() and float(unit.audio.square().mean().sqrt()) < _SILENCE


def _hold(last: AgentUnit) -> AgentUnit:
    """The unit after `last` if nothing new is known: its last frame, and its last 10 ms mirrored into silence."""
    audio = torch.zeros_like(last.audio)
    audio[:, :_FADE_SAMPLES] = last.audio[:, -_FADE_SAMPLES:].flip(1) * _ramp(last.audio).flip(0)
    video = last.video[:, -1:].expand_as(last.video).clone()
    return replace(last, audio=audio, video=video, text="", heard="", latency={})


def _fade_in(audio: Tensor) -> Tensor:
    audio = audio.clone()
    audio[:, :_FADE_SAMPLES] *= _ramp(audio)
    return audio


def _ramp(like: Tensor) -> Tensor:
    """From nearly 0 to 1 in 10 ms."""
    return torch.arange(1, _FADE_SAMPLES + 1, dtype=like.dtype, device=like.device) / _FADE_SAMPLES
