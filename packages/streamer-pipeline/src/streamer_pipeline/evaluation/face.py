"""What an agent's face does, as tracks over time, and who reads them from pictures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from ..clock import HEIGHT, WIDTH

_FACE_SHARE = 0.9  # of the frames: with a face in fewer of them nothing is said of the face


@dataclass(frozen=True, eq=False)
class FaceTracks:
    """Tracks (T,) at 25 fps; None where the meter does not measure it, NaN in frames where it finds no face.

    motion: mean change of the pixels since the frame before (0..1). mouth: how far the mouth is open, and eyes: how far
    the eyes are, both in any unit. brows: how high the brows are above the eyes. found: whether there is a face.
    identity: (T, D), whose face it is: the nearer, the more alike.
    """

    motion: np.ndarray
    mouth: np.ndarray | None = None
    eyes: np.ndarray | None = None
    brows: np.ndarray | None = None
    found: np.ndarray | None = None
    identity: np.ndarray | None = None

    def delayed(self, num_frames: int) -> FaceTracks:
        """The same face, later: the first frame is held."""
        return self._each(lambda x: np.concatenate([np.repeat(x[:1], num_frames, axis=0), x])[: len(x)])

    @classmethod
    def joined(cls, pieces: list[FaceTracks], num_frames: int) -> FaceTracks:
        """Consecutive pieces, cut or held at their end to `num_frames`."""
        known = [name for name, track in vars(pieces[0]).items() if track is not None]
        whole = cls(**{name: np.concatenate([getattr(piece, name) for piece in pieces]) for name in known})
        return whole._each(lambda x: np.concatenate([x, np.repeat(x[-1:], num_frames, axis=0)])[:num_frames])

    def _each(self, change: Callable[[np.ndarray], np.ndarray]) -> FaceTracks:
        changed: dict[str, Any] = {name: None if x is None else change(x) for name, x in vars(self).items()}
        return FaceTracks(**changed)


def is_there(track: np.ndarray) -> bool:
    """Whether a track (T,) or (T, D) is known in nine of ten frames."""
    return bool(np.mean(~np.isnan(track.reshape(len(track), -1)[:, 0])) >= _FACE_SHARE)


def without_gaps(track: np.ndarray | None) -> np.ndarray | None:
    """A track (T,) with its gaps filled in between their neighbours; None where the face is not there."""
    if track is None or not is_there(track):
        return None
    frames, known = np.arange(len(track)), ~np.isnan(track)
    return np.interp(frames, frames[known], track[known])


class FaceMeter(Protocol):
    """Reads an agent's face."""

    def __call__(self, frames: Tensor, previous: Tensor | None = None) -> FaceTracks:
        """Measure frames (3, T, H, W) in [-1, 1]; `previous` (3, 1, H, W) is the frame before, if there was one."""
        ...

    def face(self, frames: Tensor) -> np.ndarray:
        """The face's part of frames (3, T, H, W) in [-1, 1]: (3, T, h, w) in 0..1."""
        ...


class PictureMeter:
    """Knows of no face: measures how the whole picture moves, at 192x336."""

    def __call__(self, frames: Tensor, previous: Tensor | None = None) -> FaceTracks:
        picture = self.face(frames)
        return FaceTracks(motion=motion(picture, None if previous is None else self.face(previous)))

    def face(self, frames: Tensor) -> np.ndarray:
        return (at_size(frames, (HEIGHT, WIDTH)).float().numpy() + 1) / 2


def at_size(frames: Tensor, size: tuple[int, int]) -> Tensor:
    """Frames (3, T, H, W), scaled where they have another size."""
    if frames.shape[2:] == size:
        return frames
    return F.interpolate(frames.transpose(0, 1), size, mode="bilinear", antialias=True).transpose(0, 1)


def motion(frames: np.ndarray, previous: np.ndarray | None = None) -> np.ndarray:
    """(T,) mean change of frames (3, T, h, w) since the frame before; 0 in the first where there was none."""
    before = frames[:, :1] if previous is None else previous
    return np.abs(np.diff(np.concatenate([before, frames], axis=1), axis=1)).mean(axis=(0, 2, 3))
