"""What a live user sends, as whole units in a bounded queue: sound is the clock, a missing camera is no reason to wait.

No time is read here. Who is late is told by the streams themselves, so the same pushes always give the same units.
"""

from __future__ import annotations

from collections import deque
from dataclasses import replace

import torch
from torch import Tensor

from ..units import FRAMES_PER_UNIT, SAMPLES_PER_UNIT, UnitBuffer, UserUnit, to_media

_SAMPLES_PER_FRAME = SAMPLES_PER_UNIT // FRAMES_PER_UNIT
_PATIENCE_FRAMES = 2  # 80 ms: how far a camera that is there may be behind the sound
_ABSENT_FRAMES = 2 * FRAMES_PER_UNIT  # so many frames in a row without any sound: there is no microphone
_PUSH_FRAMES = FRAMES_PER_UNIT  # long pieces are taken in by as much at a time


class LiveIntake:
    """Forms units from ragged live streams and keeps the newest of them.

    Policy:
    - The sound is the clock: a unit is formed when its 3,840 samples are there.
    - Missing frames are the last frame again (black, before there was one). A camera that sends may be 80 ms behind
      the sound before that happens; one that sent nothing for a whole unit is not waited for.
    - Frames that are more than one unit ahead of the sound are dropped and counted, so the user's picture and sound
      never drift apart by more. After 8 frames without any sound, silence takes the place of sound.
    - At most `max_waiting_units` units wait. One more, and the oldest is dropped and counted; what was typed in it
      goes to the next, because words are not repeated and sound soon is history.

    Args:
        height, width: of the user's picture.
    """

    def __init__(self, height: int, width: int, max_waiting_units: int) -> None:
        if max_waiting_units < 1:
            raise ValueError(f"max_waiting_units is at least 1, got {max_waiting_units}")
        self.num_dropped_units = 0
        self.num_dropped_frames = 0
        self.num_repeated_frames = 0
        self._buffer = UnitBuffer(height, width)
        self._waiting: deque[UserUnit] = deque()
        self._max_waiting = max_waiting_units
        self._last_frame = torch.full((3, 1, height, width), -1.0)
        self._camera_is_there = True  # until a unit passes without a frame
        self._frames_in_unit = 0  # frames pushed since the last unit was formed
        self._frames_since_sound = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def push_audio(self, samples: Tensor) -> None:
        """samples: (1, T) float32 at 24 kHz in [-1, 1], any T. What is refused changes nothing."""
        for piece in to_media("samples", samples, (1, None)).split(_PUSH_FRAMES * _SAMPLES_PER_FRAME, dim=1):
            self._buffer.push_audio(piece)
            if piece.shape[1]:
                self._frames_since_sound = 0
            self._form_units()

    def push_video(self, frames: Tensor) -> None:
        """frames: (3, T, H, W) float32 RGB at 25 fps in [-1, 1], any T. What is refused changes nothing."""
        for frame in to_media("frames", frames, (3, None, self._buffer.height, self._buffer.width)).split(1, dim=1):
            self._push_frame(frame)

    def push_text(self, text: str) -> None:
        self._buffer.push_text(text)

    @property
    def waiting_text(self) -> str:
        """What was typed and is in no unit that was taken."""
        return " ".join([*(unit.text for unit in self._waiting if unit.text), self._buffer.waiting_text])

    def take(self) -> UserUnit | None:
        """The oldest waiting unit, or None."""
        return self._waiting.popleft() if self._waiting else None

    def _push_frame(self, frame: Tensor) -> None:
        buffer = self._buffer
        if not frame.numel():
            return
        self._frames_since_sound += 1
        if self._frames_since_sound > _ABSENT_FRAMES:
            missing = (buffer.num_buffered_frames + 1) * _SAMPLES_PER_FRAME - buffer.num_buffered_samples
            buffer.push_audio(torch.zeros(1, max(0, missing)))
        ahead = buffer.num_buffered_frames + 1 - buffer.num_buffered_samples // _SAMPLES_PER_FRAME
        if ahead > 2 * FRAMES_PER_UNIT:  # the unit that is being filled, and one more
            self.num_dropped_frames += 1
            return
        buffer.push_video(frame)
        self._last_frame = frame.detach().clone()
        self._frames_in_unit += 1
        self._camera_is_there = True
        self._form_units()

    def _form_units(self) -> None:
        buffer = self._buffer
        while buffer.num_buffered_samples >= SAMPLES_PER_UNIT:
            missing = FRAMES_PER_UNIT - buffer.num_buffered_frames
            if missing > 0:
                patience = _PATIENCE_FRAMES * _SAMPLES_PER_FRAME if self._camera_is_there else 0
                if buffer.num_buffered_samples < SAMPLES_PER_UNIT + patience:
                    return
                buffer.push_video(self._last_frame.expand(-1, missing, -1, -1))
                self.num_repeated_frames += missing
            self._camera_is_there = self._frames_in_unit > 0 or missing <= 0
            self._frames_in_unit = 0
            unit = buffer.pop()
            assert unit is not None
            self._add(unit)

    def _add(self, unit: UserUnit) -> None:
        self._waiting.append(unit)
        if len(self._waiting) > self._max_waiting:
            dropped = self._waiting.popleft()
            self.num_dropped_units += 1
            if dropped.text:
                after = self._waiting[0]
                self._waiting[0] = replace(after, text=" ".join(filter(None, (dropped.text, after.text))))
