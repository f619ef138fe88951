"""The raised hand beside the head: fingers to count, objects to name, and the wave."""

import numpy as np

from .face import Identity
from .grammar import COLORS, OBJECTS
from .shapes import Color, Shape, Tracks, tint

RGB = {
    "red": (214, 40, 40),
    "green": (40, 165, 70),
    "blue": (45, 85, 215),
    "yellow": (240, 205, 40),
    "white": (240, 240, 240),
    "black": (35, 35, 35),
    "purple": (140, 60, 170),
    "orange": (240, 130, 30),
}

_SCALE = 1.4
_BELOW_PICTURE = 190.0  # how far down a lowered hand waits, in world units
_OBJECT_Y = -30.0  # objects stand this far above the fist

Part = tuple[np.ndarray, Color, float | None]  # points (N, 2) around the hand, colour, line width (None: filled)


def _disc(x: float, y: float, radius_x: float, radius_y: float | None = None) -> np.ndarray:
    angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    return np.stack([x + radius_x * np.cos(angles), y + (radius_y or radius_x) * np.sin(angles)], -1)


def _line(*points: tuple[float, float]) -> np.ndarray:
    return np.array(points, float)


def _apple(color: Color) -> list[Part]:
    y = _OBJECT_Y
    return [
        (_disc(-8, y + 2, 17, 20), color, None),
        (_disc(8, y + 2, 17, 20), color, None),
        (_line((0, y - 14), (3, y - 28)), (90, 60, 30), 3),
        (_line((3, y - 24), (12, y - 33), (20, y - 30), (12, y - 23)), (60, 150, 60), None),
        (_disc(-14, y - 5, 4, 6), tint(color, 1.35), None),
    ]


def _banana(color: Color) -> list[Part]:
    y, bend = _OBJECT_Y, np.linspace(0.35, 2.8, 12)
    outside = np.stack([30 * np.cos(bend), y - 16 + 30 * np.sin(bend)], -1)
    inside = np.stack([28 * np.cos(bend), y - 20 + 14 * np.sin(bend)], -1)[::-1]
    return [
        (np.concatenate([outside, inside]), color, None),
        (_line((26, y - 8), (31, y - 17)), tint(color, 0.7), 5),
        (_line((-27, y - 8), (-30, y - 12)), (70, 55, 30), 4),
    ]


def _flower(color: Color) -> list[Part]:
    y, turn = _OBJECT_Y, np.arange(6) * np.pi / 3
    petals = [(_disc(15 * np.cos(a), y - 8 + 15 * np.sin(a), 10), color, None) for a in turn]
    heart = (120, 70, 30) if color in (RGB["yellow"], RGB["orange"]) else (250, 215, 90)
    return [(_line((0, y + 30), (0, y)), (60, 140, 60), 4), *petals, (_disc(0, y - 8, 8), heart, None)]


def _umbrella(color: Color) -> list[Part]:
    y, turn = _OBJECT_Y, np.linspace(np.pi, 2 * np.pi, 15)
    dome = np.stack([28 * np.cos(turn), y - 4 + 27 * np.sin(turn)], -1)
    rim = np.stack([np.linspace(28, -28, 9), y - 4 + 5.0 * (np.arange(9) % 2)], -1)
    ribs = [(_line((x, y - 4), (x / 2, y - 25), (0, y - 31)), tint(color, 0.7), 1.0) for x in (-14, 14)]
    return [(_line((0, y - 4), (0, y + 30)), (70, 60, 55), 3), (np.concatenate([dome, rim]), color, None), *ribs]


def _camera(color: Color) -> list[Part]:
    y = _OBJECT_Y
    return [
        (_line((-10, y - 14), (-6, y - 22), (8, y - 22), (12, y - 14)), tint(color, 0.7), None),
        (_line((-27, y - 15), (27, y - 15), (27, y + 22), (-27, y + 22)), color, None),
        (_disc(0, y + 3, 13), (225, 225, 230), None),
        (_disc(0, y + 3, 9), (25, 30, 45), None),
        (_disc(20, y - 8, 3), (250, 250, 220), None),
    ]


def _star(color: Color) -> list[Part]:
    turn = np.arange(10) * np.pi / 5 - np.pi / 2
    radius = np.where(np.arange(10) % 2, 12, 28)
    return [(np.stack([radius * np.cos(turn), _OBJECT_Y + radius * np.sin(turn)], -1), color, None)]


_DRAW = {
    "apple": _apple,
    "banana": _banana,
    "flower": _flower,
    "umbrella": _umbrella,
    "camera": _camera,
    "star": _star,
}


def _grip(skin: Color) -> list[Part]:
    """Four fingers around whatever is held, and the fist."""
    fingers = [
        (_line((-12 + 7 * i, 6), (-15 + 9 * i, -10)), tint(skin, 0.84) if i % 2 else skin, 8.0) for i in range(4)
    ]
    return [*fingers, (_disc(0, 6, 16, 14), skin, None)]


def _open_hand(skin: Color, count: int) -> list[Part]:
    """`count` fingers up (the thumb only for five); the others are folded stumps."""
    parts = []
    for i, (lean, length) in enumerate(zip((-0.42, -0.14, 0.12, 0.38), (30, 35, 33, 26), strict=True)):
        x, reach = -11 + 7.3 * i, length if i < count else 5
        finger = _line((x, -8), (x + np.sin(lean) * reach, -8 - np.cos(lean) * reach))
        parts.append((finger, skin if i % 2 else tint(skin, 0.93), 8.0))
    thumb = _line((-12, 8), (-30, -6)) if count == 5 else _line((-10, 8), (2, 2))
    return [*parts, (_disc(0, 2, 17, 18), skin, None), (thumb, tint(skin, 0.9), 8.0)]


def hand_shapes(identity: Identity, tracks: Tracks) -> list[Shape]:
    """Forearm, hand and what it shows, in front of everything else; nothing where `hand` is 0 throughout."""
    raised = tracks["hand"] > 0
    if not raised.any():
        return []
    origin = np.stack([tracks["hand_x"], tracks["hand_y"] + (1 - tracks["hand"]) * _BELOW_PICTURE], -1)[:, None]
    cos, sin = np.cos(tracks["wave"])[:, None], np.sin(tracks["wave"])[:, None]

    def shape(part: Part, visible: np.ndarray) -> Shape:
        points, color, width = part
        x, y = points.T * _SCALE
        turned = np.stack([x * cos - y * sin, x * sin + y * cos], -1)
        return Shape(origin + turned, color, width and width * _SCALE, visible)

    wrist = shape((_line((0, 16)), identity.shirt, None), raised).points
    elbow = np.broadcast_to([12.0, 130.0], wrist.shape) + origin
    shapes = [Shape(np.concatenate([elbow, wrist], 1), tint(identity.shirt, 0.9), 34.0, raised)]
    combinations = np.stack([tracks[name] for name in ("object", "color", "fingers")], 1).astype(int)
    for index, color, count in np.unique(combinations[raised], axis=0):
        visible = raised & (combinations == (index, color, count)).all(1)
        if index >= 0:
            parts = _DRAW[OBJECTS[index]](RGB[COLORS[color]]) + _grip(identity.skin)
        else:
            parts = _open_hand(identity.skin, count)
        shapes += [shape(part, visible) for part in parts]
    return shapes
