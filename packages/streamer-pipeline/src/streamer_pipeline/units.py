"""Units of media, and the one place where a ragged stream becomes whole ones.

One unit is 160 ms: 4 frames at 25 fps and 3,840 samples at 24 kHz. Everything behind this file (encoders, thinker,
performer) sees whole units only, so nothing there needs to know how a microphone, a browser or a file cuts its stream.

Shapes: audio (1, T) and video (3, T, H, W), float32, both in [-1, 1]; T is time and always dimension 1. NumPy arrays
of float32 are taken as they are, without a copy.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .clock import FRAME_RATE, FRAMES_PER_UNIT, HEIGHT, SAMPLE_RATE, SAMPLES_PER_UNIT, UNIT_MS, WIDTH

__all__ = [
    "FRAMES_PER_UNIT",
    "FRAME_RATE",
    "HEIGHT",
    "SAMPLES_PER_UNIT",
    "SAMPLE_RATE",
    "UNIT_MS",
    "WIDTH",
    "AgentUnit",
    "TensorQueue",
    "UnitBuffer",
    "UserUnit",
    "check_text",
    "to_media",
]


@dataclass(frozen=True, eq=False)
class UserUnit:
    """160 ms of the user: what the thinker takes in.

    audio: (1, 3840) float32 at 24 kHz in [-1, 1].
    video: (3, 4, H, W) float32 RGB at 25 fps in [-1, 1].
    text: what the user typed during this unit, or None.

    Raises:
        ValueError: a tensor has another shape, dtype or range, or holds a NaN; the text is no valid Unicode.
        TypeError: no tensor and no array; no text.
    """

    audio: Tensor
    video: Tensor
    text: str | None = None

    def __post_init__(self) -> None:
        audio = to_media("audio", self.audio, (1, SAMPLES_PER_UNIT))
        video = to_media("video", self.video, (3, FRAMES_PER_UNIT, None, None))
        if self.text is not None:
            check_text("text", self.text)
        object.__setattr__(self, "audio", audio)  # frozen for callers: an array becomes a tensor here
        object.__setattr__(self, "video", video)


@dataclass(frozen=True, eq=False)
class AgentUnit:
    """160 ms of the agent: what a session returns for one `UserUnit`.

    audio: (1, 3840); video: (3, 4, H, W); as in `UserUnit`.
    text: the words of this unit, "" while silent. state: what the state slot says, "listen" or "speak".
    heard: the user's words that the agent made out in this unit, "" where none, or where the checkpoint has no head for
    them (`StreamerConfig.hears_words`).
    index: number of the unit since the session began. latency: stage -> milliseconds.
    language: ids of the state slot and the text slots. latents: what was rendered, packed and clean, "audio" and
    "video" (tokens, dim).
    """

    audio: Tensor
    video: Tensor
    text: str
    state: str
    index: int = 0
    latency: dict[str, float] = field(default_factory=dict)
    language: tuple[int, ...] = ()
    latents: dict[str, Tensor] = field(default_factory=dict)
    heard: str = ""


class UnitBuffer:
    """Takes a stream in pieces of any length and gives it back in whole units (law 2 of the streaming contract).

    The units that come out are bitwise the same however the pushes were cut. A text belongs to the first unit that is
    not complete when it is pushed, so it does not matter either how often the caller calls `pop`.
    A push that is refused (ValueError, TypeError) changes nothing. Pushed tensors are copied: memory may be reused.

    max_units bounds each side, because a caller that pushes sound for ever and never a frame would fill the memory.
    375 units are one minute: 6 MB of sound, and 1.2 GB of video at 192x336 (where the bound is seldom met).
    """

    def __init__(self, height: int = HEIGHT, width: int = WIDTH, max_units: int = 375) -> None:
        if height < 1 or width < 1 or max_units < 1:
            raise ValueError(f"height, width and max_units are at least 1, got {height}, {width} and {max_units}")
        self.height, self.width, self.max_units = height, width, max_units
        self._audio, self._video = TensorQueue(), TensorQueue()
        self._texts: deque[tuple[int, str]] = deque()  # (unit it belongs to, text)
        self._num_popped = 0
        self._last_frame = torch.full((3, 1, height, width), -1.0)  # black, until a frame has been seen

    @property
    def num_buffered_samples(self) -> int:
        return self._audio.length

    @property
    def num_buffered_frames(self) -> int:
        return self._video.length

    @property
    def num_buffered_units(self) -> int:
        """Whole units that `pop` can give now."""
        return min(self._audio.length // SAMPLES_PER_UNIT, self._video.length // FRAMES_PER_UNIT)

    def push_audio(self, samples: Tensor) -> None:
        """samples: (1, T) float32 at 24 kHz in [-1, 1], any T."""
        samples = to_media("samples", samples, (1, None))
        self._check_room("audio", self._audio.length + samples.shape[1], SAMPLES_PER_UNIT, "push_video")
        self._audio.push(samples)

    def push_video(self, frames: Tensor) -> None:
        """frames: (3, T, H, W) float32 RGB at 25 fps in [-1, 1], any T."""
        frames = to_media("frames", frames, (3, None, self.height, self.width))
        self._check_room("video", self._video.length + frames.shape[1], FRAMES_PER_UNIT, "push_audio")
        self._video.push(frames)

    def push_text(self, text: str) -> None:
        """Texts that fall into one unit are joined by a space."""
        check_text("text", text)
        if text:
            self._texts.append((self._num_popped + self.num_buffered_units, text))

    @property
    def waiting_text(self) -> str:
        """What was pushed and is in no unit yet."""
        return " ".join(text for _, text in self._texts)

    def pop(self) -> UserUnit | None:
        """The next unit, or None while fewer than 3,840 samples or fewer than 4 frames are there."""
        if self.num_buffered_units == 0:
            return None
        audio, video = self._audio.take(SAMPLES_PER_UNIT), self._video.take(FRAMES_PER_UNIT)
        self._last_frame = video[:, -1:].clone()
        texts = []
        while self._texts and self._texts[0][0] <= self._num_popped:
            texts.append(self._texts.popleft()[1])
        self._num_popped += 1
        return UserUnit(audio, video, " ".join(texts) or None)

    def flush(self) -> UserUnit | None:
        """The next unit, padded with silence and the last frame (black if there never was one) if it is not whole.

        None when nothing is left. One unit per call, so a caller at the end of a stream loops until None.
        """
        if not (self._audio.length or self._video.length or self._texts):
            return None
        if self._audio.length < SAMPLES_PER_UNIT:
            self._audio.push(torch.zeros(1, SAMPLES_PER_UNIT - self._audio.length))
        if (num_missing := FRAMES_PER_UNIT - self._video.length) > 0:
            last = self._video.pieces[-1][:, -1:] if self._video.length else self._last_frame
            self._video.push(last.expand(-1, num_missing, -1, -1))
        return self.pop()

    def _check_room(self, side: str, length: int, per_unit: int, other_push: str) -> None:
        if length > self.max_units * per_unit:
            raise ValueError(
                f"this push would make {length} {side} {'samples' if side == 'audio' else 'frames'} wait, the bound is "
                f"{self.max_units} units = {self.max_units * per_unit}: call pop() between pushes, and {other_push} so "
                f"that sound and picture advance together (now {self.num_buffered_samples} samples and "
                f"{self.num_buffered_frames} frames wait); nothing of this push was taken"
            )


class TensorQueue:
    """A queue of tensors (C, T, ...) read along time. Taking costs what is taken, whatever else is waiting."""

    def __init__(self) -> None:
        self.pieces: deque[Tensor] = deque()
        self.length = 0  # time steps waiting
        self._start = 0  # time steps of pieces[0] that are already taken

    def push(self, piece: Tensor) -> None:
        if piece.shape[1]:
            self.pieces.append(piece.detach().clone())
            self.length += piece.shape[1]

    def take(self, num: int) -> Tensor:
        assert num <= self.length
        self.length -= num
        parts = []
        while num:
            first = self.pieces[0]
            part = first[:, self._start : self._start + num]
            parts.append(part)
            num -= part.shape[1]
            self._start += part.shape[1]
            if self._start == first.shape[1]:
                self.pieces.popleft()
                self._start = 0
        return torch.cat(parts, dim=1)  # a copy even of one part, so that a unit never keeps a long piece alive


def to_media(name: str, x: Tensor | np.ndarray, shape: tuple[int | None, ...]) -> Tensor:
    """x as a tensor; it shares an array's memory.

    Raises:
        ValueError: it is not float32 of this shape (None is any size) with every value in [-1, 1].
        TypeError: it is no tensor and no array.
    """
    if isinstance(x, np.ndarray):
        if x.dtype != np.float32:
            raise ValueError(f"{name} is float32 in [-1, 1], got a NumPy array of {x.dtype}")
        x = torch.from_numpy(np.require(x, requirements=["C", "W"]))  # a copy only where torch cannot share the memory
    if not isinstance(x, Tensor):
        raise TypeError(f"{name} is a torch.float32 tensor or a NumPy array of float32, got {_kind(x)}")
    want = "(" + ", ".join("any" if n is None else str(n) for n in shape) + ")"
    if x.ndim != len(shape) or any(n is not None and n != m for n, m in zip(shape, x.shape, strict=True)):
        raise ValueError(f"{name} has shape {want}, got {tuple(x.shape)}")
    if x.dtype != torch.float32:
        raise ValueError(f"{name} is a torch.float32 tensor in [-1, 1], got {x.dtype}")
    if x.numel():
        low, high = x.aminmax()
        if not (low >= -1 and high <= 1):  # also true of NaN, which compares false
            raise ValueError(f"{name} is finite and in [-1, 1], got values from {low.item():.4g} to {high.item():.4g}")
    return x


def check_text(name: str, text: str) -> None:
    """What came from outside is text that can be encoded.

    Raises:
        TypeError: it is no str.
        ValueError: it holds half of a surrogate pair, as a browser or a file name may.
    """
    if not isinstance(text, str):
        raise TypeError(f"{name} is a str, got {_kind(text)}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{name} is valid Unicode, got {text[error.start]!a} alone as character {error.start}: half of a "
            f"surrogate pair, which stands for nothing"
        ) from error


def _kind(x: Any) -> str:
    """`5 (int)`, but only the type of what is long."""
    shown = ascii(x)
    return f"{shown} ({type(x).__name__})" if len(shown) <= 40 else f"an object of type {type(x).__name__}"


def split_units(audio: Tensor, video: Tensor) -> list[UserUnit]:
    """Whole recordings (1, T), (3, T', H, W) -> units, the last one padded.

    Raises:
        ValueError: a shape or a range is wrong, or there is neither sound nor picture.
    """
    if video.ndim != 4 or not video.shape[2] * video.shape[3]:
        raise ValueError(f"video has shape (3, frames, height, width), got {tuple(video.shape)}")
    if not (audio.numel() or video.numel()):
        raise ValueError("audio and video are empty: there is nobody to talk to")
    buffer = UnitBuffer(video.shape[2], video.shape[3], max_units=10**9)
    buffer.push_audio(audio)
    buffer.push_video(video)
    units = []
    while (unit := buffer.flush()) is not None:
        units.append(unit)
    return units
