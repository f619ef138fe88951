"""Drawing shapes with OpenCV: parameter tracks -> RGB frames."""

from collections.abc import Mapping

import cv2
import numpy as np

from .face import NEUTRAL, Identity, face_shapes
from .hand import hand_shapes
from .shapes import WORLD_HEIGHT, Shape, world_to_pixels

_FRACTION_BITS = 4  # OpenCV takes fixed-point coordinates
_SUPERSAMPLED_BELOW = 128  # lines are at least one pixel wide, which is too bold in small pictures


def render_frames(
    params: Mapping[str, np.ndarray],
    identity: Identity,
    size: tuple[int, int] = (192, 336),
    frames: slice | np.ndarray | None = None,
    backdrop: np.ndarray | None = None,
) -> np.ndarray:
    """Draw a person.

    Args:
        params: tracks `(num_frames,)` by name; what is missing rests at `face.NEUTRAL`.
        size: (H, W). Below 128 rows the scene is drawn at twice the size and averaged down.
        frames: which frames to draw; None draws all.
        backdrop: uint8 `(h, w, 3)` picture to stand before, fitted to `size`; None is the identity's own wall.

    Returns:
        uint8 `(T, H, W, 3)`, RGB.

    Raises:
        ValueError: an unknown parameter name, or none at all.
    """
    unknown = set(params) - set(NEUTRAL)
    if unknown or not params:
        raise ValueError(f"unknown parameters {sorted(unknown)}; give at least one of {', '.join(NEUTRAL)}")
    chosen = {name: np.asarray(values)[slice(None) if frames is None else frames] for name, values in params.items()}
    num_frames = len(next(iter(chosen.values())))
    tracks = {name: np.full(num_frames, value) for name, value in NEUTRAL.items()} | chosen
    shapes = face_shapes(identity, tracks) + hand_shapes(identity, tracks)
    scale = 1 if size[0] >= _SUPERSAMPLED_BELOW else 2
    drawn_size = (scale * size[0], scale * size[1])
    behind = _wall(identity, drawn_size) if backdrop is None else cv2.resize(backdrop, drawn_size[::-1])
    drawn = _draw(shapes, behind, num_frames)
    if scale == 1:
        return drawn
    resized = [cv2.resize(frame, size[::-1], interpolation=cv2.INTER_AREA) for frame in drawn]
    return np.stack(resized) if resized else np.empty((0, *size, 3), np.uint8)


def _wall(identity: Identity, size: tuple[int, int]) -> np.ndarray:
    """A wall lit from above, `(H, W, 3)` uint8."""
    light = np.linspace(1.12, 0.80, size[0])[:, None, None] * np.array(identity.background, float)
    return np.clip(np.repeat(light, size[1], 1), 0, 255).astype(np.uint8)


def _draw(shapes: list[Shape], background: np.ndarray, num_frames: int) -> np.ndarray:
    size = background.shape[:2]
    out = np.empty((num_frames, *background.shape), np.uint8)
    out[:] = background
    fixed_point = 1 << _FRACTION_BITS
    # Pixel centres lie at half coordinates, hence the -0.5.
    points = [np.rint((world_to_pixels(s.points, size) - 0.5) * fixed_point).astype(np.int32) for s in shapes]
    widths = [s.width and max(1, round(s.width * size[0] / WORLD_HEIGHT)) for s in shapes]
    for t, frame in enumerate(out):
        for shape, path, width in zip(shapes, points, widths, strict=True):
            if shape.visible is not None and not shape.visible[t]:
                continue
            outline = path[t]
            if width is None:
                cv2.fillPoly(frame, [outline], shape.color, cv2.LINE_AA, _FRACTION_BITS)
            else:
                cv2.polylines(frame, [outline], False, shape.color, width, cv2.LINE_AA, _FRACTION_BITS)
    return out
