"""What a face does, read from its pixels: no model, no landmarks, only colours in the boxes of the data set.

The measures know that lips and the inside of a mouth are less green than skin, and that eyes are cooler than skin, lids
and brows. How well they follow the truth is measured by `agreement` on recordings whose motion is known.
"""

import numpy as np
from streamer_pipeline.evaluation.face import FaceTracks, at_size, motion, without_gaps
from streamer_pipeline.evaluation.statistics import correlation
from torch import Tensor

WORLD_SIZE = 192, 336  # the picture size that the boxes of a data set are stated for
_MOUTH_MARGIN = 0.26  # share of the mouth box on either side that hair may enter
_LIP_LEVEL = 0.77  # of the skin's green: below is lip or mouth
_LIP_SOFTNESS = 0.2
_MOUTH_ROW = 0.25  # share of a row's pixels that must be mouth for the row to count fully
_EYE_WARMTH = 0.08  # R - G of what is warmer than an eye, in 0..1
_BROW_LEVEL = 0.45  # mean of R, G, B: darker above the eye is brow
_LID_ROWS, _BROW_ROWS = 6, 22  # above the middle of an eye its lid ends, and its brow never reaches further
_BROW_LIFT = 3  # rows that a raised brow leaves its box by
_FAINT = 0.05
_STILL = 0.02  # standard deviation of a true track that does not move


class DrawnFaceMeter:
    """Reads `FaceTracks` from frames.

    Args:
        boxes: "mouth_box", "face_box", two "eye_boxes" with brows: (top, left, bottom, right) in pixels of 192x336.
    """

    def __init__(self, boxes: dict) -> None:
        self._mouth, self._face = tuple(boxes["mouth_box"]), tuple(boxes["face_box"])
        self._eyes = [tuple(box) for box in boxes["eye_boxes"]]
        inset = round(_MOUTH_MARGIN * (self._mouth[3] - self._mouth[1]))
        self._mouth = self._mouth[0], self._mouth[1] + inset, self._mouth[2], self._mouth[3] - inset
        self._brows = [(max(0, top - _BROW_LIFT), left, bottom, right) for top, left, bottom, right in self._eyes]

    def face(self, frames: Tensor) -> np.ndarray:
        """The face's part of frames (3, T, H, W) in [-1, 1]: (3, T, h, w) in 0..1."""
        return _crop(at_size(frames, WORLD_SIZE), self._face)

    def __call__(self, frames: Tensor, previous: Tensor | None = None) -> FaceTracks:
        """Measure frames (3, T, H, W) in [-1, 1]; `previous` (3, 1, H, W) is the frame before, if there was one."""
        frames = at_size(frames, WORLD_SIZE)
        face = _crop(frames, self._face)
        return FaceTracks(
            mouth=_mouth_height(_crop(frames, self._mouth)),
            eyes=np.mean([_eye_area(_crop(frames, box)) for box in self._eyes], axis=0),
            motion=motion(face, None if previous is None else self.face(previous)),
            brows=np.mean([_brow_height(_crop(frames, box)) for box in self._brows], axis=0),
        )


def _crop(frames: Tensor, box: tuple[int, int, int, int]) -> np.ndarray:
    top, left, bottom, right = box
    return (frames[:, :, top:bottom, left:right].float().numpy() + 1) / 2


def _mouth_height(crop: np.ndarray) -> np.ndarray:
    """The share of rows that the mouth takes up: lips and inside are less green than the skin around them."""
    green = crop[1]
    skin = np.median(green, axis=(1, 2), keepdims=True)
    mouthness = np.clip((_LIP_LEVEL * skin - green) / (_LIP_SOFTNESS * skin + 1e-6), 0, 1)
    return np.clip(mouthness.mean(axis=2) / _MOUTH_ROW, 0, 1).mean(axis=1)


def _eyeness(crop: np.ndarray) -> np.ndarray:
    """White and iris, (T, h, w): both are cooler than skin, lids and brows."""
    return np.clip(crop[1] - crop[0] + _EYE_WARMTH, 0, None)


def _eye_area(crop: np.ndarray) -> np.ndarray:
    return _eyeness(crop).mean(axis=(1, 2))


def _brow_height(crop: np.ndarray) -> np.ndarray:
    """Rows from the middle of the dark band above the eye to the middle of the eye, both in one crop."""
    rows = np.arange(crop.shape[2])
    eye = _middle(_eyeness(crop).sum(axis=2), rows, np.full(crop.shape[1], len(rows) / 2))
    above = np.clip(eye[:, None] - _LID_ROWS - rows, 0, 1) * np.clip(rows - eye[:, None] + _BROW_ROWS, 0, 1)
    dark = np.clip(_BROW_LEVEL - crop.mean(axis=0), 0, None).sum(axis=2)
    return eye - _middle(above * dark, rows, eye - _BROW_ROWS / 2)


def _middle(weights: np.ndarray, rows: np.ndarray, otherwise: np.ndarray) -> np.ndarray:
    """The centre (T,) of weights (T, h) over rows; `otherwise` where there are none, as of the eye in a blink."""
    return (weights @ rows + _FAINT * otherwise) / (weights.sum(axis=1) + _FAINT)


def agreement(face: FaceTracks, drawn: dict[str, list[float]]) -> dict[str, float]:
    """r of the measured with the drawn truth, for judging the judge: mouth opening, and open eyes, where they move and
    are measured."""
    truths = {"mouth": np.array(drawn["mouth_open"]), "eyes": -np.array(drawn["blink"])}
    tracks = {name: without_gaps(getattr(face, name)) for name, truth in truths.items() if truth.std() > _STILL}
    return {name: correlation(track, truths[name]) for name, track in tracks.items() if track is not None}
