"""What a picture is made of: shapes that move over T frames, in world units, known to no drawing library.

World: origin at the resting head's centre, x to the right of the picture, y down. The picture is `WORLD_HEIGHT` units
high at any resolution, so a small picture is the same scene seen by a scaled camera.

Legend: T frames, N points.
"""

from dataclasses import dataclass

import numpy as np

WORLD_HEIGHT = 226.0
WORLD_TOP = -92.0

Color = tuple[int, int, int]
Tracks = dict[str, np.ndarray]


@dataclass(frozen=True)
class Shape:
    """A filled polygon, or with `width` a round-ended line, through `points` `(T, N, 2)`.

    `visible` `(T,)` bool says in which frames it is drawn; None means in all.
    """

    points: np.ndarray
    color: Color
    width: float | None = None
    visible: np.ndarray | None = None


def tint(color: Color, factor: float) -> Color:
    """Darker (factor < 1) or lighter (> 1) variant of an RGB colour."""
    return tuple(int(min(255, channel * factor)) for channel in color)


def world_to_pixels(points: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """World points `(..., 2)` in pixels of a picture of `size` (H, W), its origin at the top left corner."""
    height, width = size
    return (points - (0.0, WORLD_TOP)) * (height / WORLD_HEIGHT) + (width / 2, 0.0)
