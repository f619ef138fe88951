"""The drawn head: an identity and parameter tracks -> shapes, for T frames at once.

The parameters (`NEUTRAL`) are arrays `(T,)`; all geometry broadcasts to `(T, N)`, one numpy call for a whole clip.
"""

from dataclasses import dataclass
from itertools import product

import numpy as np

from .shapes import Color, Shape, Tracks, tint, world_to_pixels

# Every parameter of a person and its value at rest. Angles in radians, shifts in world units, the rest in 0..1 except
# gaze (-1..1), fingers (0..5), object and color (index into grammar.OBJECTS and COLORS, -1: nothing held).
NEUTRAL = {
    "mouth_open": 0.0,
    "mouth_wide": 0.45,
    "mouth_round": 0.1,
    "smile": 0.15,
    "blink": 0.0,
    "gaze_x": 0.0,
    "gaze_y": 0.0,
    "brow": 0.0,
    "yaw": 0.0,
    "pitch": 0.0,
    "roll": 0.0,
    "shift_x": 0.0,
    "shift_y": 0.0,
    "hand": 0.0,
    "hand_x": 126.0,
    "hand_y": 66.0,
    "wave": 0.0,
    "fingers": 5.0,
    "object": -1.0,
    "color": -1.0,
}

SKINS = ((255, 219, 189), (241, 194, 160), (224, 172, 125), (198, 134, 90), (141, 85, 54), (96, 62, 42))
HAIRS = ((40, 28, 22), (75, 48, 30), (120, 80, 45), (200, 160, 90), (150, 150, 150), (130, 50, 30))
IRISES = ((70, 45, 25), (60, 90, 120), (60, 100, 60))
HAIR_STYLES = ("short", "long", "cropped", "long parted")


@dataclass(frozen=True)
class Identity:
    """What stays the same about a person: colours (RGB), and sizes in world units or relative to the head."""

    name: str
    skin: Color
    hair: Color
    hair_style: str
    shirt: Color
    background: Color
    lips: Color
    iris: Color
    head_width: float  # half axes of the head
    head_height: float
    jaw: float  # width of the chin against the head's
    eye_size: float
    eye_distance: float
    brow_width: float
    glasses: bool


AGENT = Identity(
    name="ada",
    skin=(241, 196, 164),
    hair=(74, 44, 30),
    hair_style="long",
    shirt=(38, 92, 110),
    background=(168, 186, 196),
    lips=(192, 78, 84),
    iris=(62, 92, 70),
    head_width=52.0,
    head_height=68.0,
    jaw=0.84,
    eye_size=1.15,
    eye_distance=0.43,
    brow_width=3.0,
    glasses=False,
)


def random_identity(seed: int) -> Identity:
    """A user drawn from the population; the same seed is the same person."""
    rng = np.random.default_rng(seed)

    def pick(options: tuple) -> tuple | str:
        return options[rng.integers(len(options))]

    def any_color(low: int, high: int) -> Color:
        return tuple(int(channel) for channel in rng.integers(low, high, 3))

    return Identity(
        name=f"user-{seed}",
        skin=tint(pick(SKINS), rng.uniform(0.94, 1.04)),
        hair=pick(HAIRS),
        hair_style=pick(HAIR_STYLES),
        shirt=any_color(30, 225),
        background=any_color(60, 220),
        lips=tint((190, 85, 85), rng.uniform(0.75, 1.05)),
        iris=pick(IRISES),
        head_width=rng.uniform(48, 56),
        head_height=rng.uniform(64, 72),
        jaw=rng.uniform(0.78, 0.95),
        eye_size=rng.uniform(0.95, 1.2),
        eye_distance=rng.uniform(0.40, 0.46),
        brow_width=rng.uniform(2.2, 4.0),
        glasses=bool(rng.random() < 0.25),
    )


def _angles(start: float, end: float, count: int) -> tuple[np.ndarray, np.ndarray]:
    angles = np.linspace(start, end, count)
    return np.cos(angles), np.sin(angles)


_CIRCLE = _angles(0, 2 * np.pi * 31 / 32, 32)
_UPPER_ARC = _angles(np.pi, 2 * np.pi, 17)
_ACROSS = np.linspace(-1, 1, 13)
_BULGE = 1 - _ACROSS**2


class _Head:
    """Places points of one head in the world, for all T frames: the frame of reference every part is drawn in."""

    def __init__(self, identity: Identity, tracks: Tracks) -> None:
        self.identity = identity
        self.track = {name: values[:, None] for name, values in tracks.items()}  # (T, 1), against N points
        self.num_frames = len(tracks["yaw"])
        self.cos, self.sin = np.cos(self.track["roll"]), np.sin(self.track["roll"])

    def plane(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """World points `(T, N, 2)` of the head's upright plane: `x`, `y` in world units from its centre."""
        x, y = np.broadcast_arrays(x, y)
        turned_x = self.track["shift_x"] + x * self.cos - y * self.sin
        turned_y = self.track["shift_y"] + x * self.sin + y * self.cos
        return np.stack([turned_x, turned_y], -1)

    def surface(self, u: np.ndarray, v: np.ndarray) -> np.ndarray:
        """World points `(T, N, 2)` of the face: `u`, `v` in -1..1 on an ellipsoid that yaw and pitch turn."""
        x = np.sin(1.15 * np.asarray(u) + self.track["yaw"]) * self.identity.head_width * 1.08
        y = np.sin(v + self.track["pitch"]) * self.identity.head_height * 1.12
        return self.plane(x, y)

    def ellipse(self, u: float, v: float, radius_x: np.ndarray, radius_y: np.ndarray) -> np.ndarray:
        """Outline `(T, 32, 2)` of an ellipse around a point of the face; radii in world units, `(T, 1)` or scalar."""
        cos, sin = _CIRCLE
        return self.surface(u, v) + np.stack(np.broadcast_arrays(cos * radius_x, sin * radius_y), -1)


def _joined(*parts: np.ndarray) -> np.ndarray:
    return np.concatenate(parts, axis=1)


def _hair_behind(head: _Head) -> list[Shape]:
    """Long hair hangs behind neck and shoulders."""
    if "long" not in head.identity.hair_style:
        return []
    width, height = head.identity.head_width, head.identity.head_height
    crown = head.plane(_UPPER_ARC[0] * width * 1.2, _UPPER_ARC[1] * height * 1.15)
    x = np.array([1.2, 1.27, 1.3, 1.1, -1.1, -1.3, -1.27, -1.2]) * width
    y = np.array([0.0, 0.5, 1.1, 1.5, 1.5, 1.1, 0.5, 0.0]) * height
    return [Shape(_joined(crown, head.plane(x, y)), tint(head.identity.hair, 0.86))]


_SHOULDERS = [(-124, 200), (-122, 156), (-108, 128), (-66, 106), (-22, 90), (0, 108)]
_COLLAR = [(-22, 90), (0, 109), (22, 90)]


def _body(head: _Head) -> list[Shape]:
    """Neck and shirt; the shoulders follow the head's sway by a third."""
    skin, shirt = head.identity.skin, head.identity.shirt
    sway = np.stack([head.track["shift_x"], head.track["shift_y"]], -1)
    shoulders = np.array(_SHOULDERS + [(-x, y) for x, y in _SHOULDERS[-2::-1]], float)
    chin_x = head.identity.head_width * 0.46
    neck_top = np.array([(-chin_x, 44.0), (chin_x, 44.0)]) + sway
    neck_base = np.array([(25.0, 94.0), (0.0, 112.0), (-25.0, 94.0)]) + sway / 3
    cos, sin = _angles(0, np.pi, 17)
    shadow = np.stack([cos * chin_x, 52 + sin * (head.identity.head_height * 0.44)], -1) + sway
    return [
        Shape(_joined(neck_top, neck_base), tint(skin, 0.88)),
        Shape(shadow, tint(skin, 0.76)),
        Shape(shoulders + sway / 3, shirt),
        Shape(np.array(_COLLAR, float) + sway / 3, tint(shirt, 0.75), width=4),
    ]


def _skull(head: _Head) -> list[Shape]:
    """Ears, the face's outline, and cheeks."""
    identity, skin = head.identity, head.identity.skin
    cos, sin = _CIRCLE
    ears = []
    for side in (-1, 1):
        x = side * identity.head_width * 0.98 - head.track["yaw"] * 10
        ears.append(Shape(head.plane(x + 8 * cos, 4 + 13 * sin), tint(skin, 0.84)))
    narrowing = np.where(sin > 0, 1 - (1 - identity.jaw) * sin**2, 1.0)
    outline = head.plane(cos * identity.head_width * narrowing, sin * identity.head_height)
    blush = (skin[0], int(skin[1] * 0.95), int(skin[2] * 0.93))
    cheeks = [Shape(head.ellipse(side * 0.52, 0.30, 11, 8), blush) for side in (-1, 1)]
    return [*ears, Shape(outline, skin), *cheeks]


def _eye(head: _Head, side: int) -> list[Shape]:
    """White, iris, pupil, glint, lid line and brow of one eye; a blink closes the lids over the iris."""
    identity, track = head.identity, head.track
    center, v = side * identity.eye_distance, -0.16
    width = 0.165 * identity.eye_size
    height = 0.085 * identity.eye_size * (1 - 0.92 * track["blink"])
    upper = head.surface(center + _ACROSS * width, v - height * _BULGE)
    lower = head.surface(center + _ACROSS[::-1] * width, v + 0.75 * height * _BULGE)
    gaze_u, gaze_v = center + track["gaze_x"] * 0.07, v - 0.005 + track["gaze_y"] * 0.04
    radius = 5.2 * identity.eye_size
    squeezed = np.minimum(radius, height * identity.head_height * 1.05)  # the lids cut the iris
    pupil_x, pupil_y = 0.5 * radius, np.minimum(0.5 * radius, squeezed)
    visible = track["blink"][:, 0] < 0.75
    glint = head.ellipse(gaze_u, gaze_v, 1.4, 1.4) - (1.6, 1.8)
    brow_x = _ACROSS[::3]
    brow_v = -0.36 - track["brow"] * 0.07 - 0.03 * (1 - brow_x**2)
    brow = head.surface(center + brow_x * width * 1.25, brow_v)
    shapes = [
        Shape(_joined(upper, lower), (245, 243, 240)),
        Shape(head.ellipse(gaze_u, gaze_v, radius, squeezed), identity.iris, visible=visible),
        Shape(head.ellipse(gaze_u, gaze_v, pupil_x, pupil_y), (15, 12, 12), visible=visible),
        Shape(glint, (255, 255, 255), visible=visible),
        Shape(upper, tint(identity.hair, 0.6), width=2.2),
        Shape(brow, tint(identity.hair, 0.85), width=identity.brow_width),
    ]
    if identity.glasses:
        rim = head.ellipse(center, v, 17, 13)
        shapes.append(Shape(_joined(rim, rim[:, :1]), (40, 40, 40), width=1.4))
    return shapes


def _nose(head: _Head) -> list[Shape]:
    skin, turn = head.identity.skin, head.track["yaw"] * 0.2  # the nose stands out, so it turns further
    ridge = head.surface(np.array([0.02, 0.075, 0.0]) + turn, np.array([-0.10, 0.17, 0.235]))
    nostrils = [Shape(head.ellipse(side * 0.06 + turn, 0.215, 2.6, 1.6), tint(skin, 0.6)) for side in (-1, 1)]
    tip = Shape(head.ellipse(turn, 0.14, 4, 5), tint(skin, 1.06))
    return [Shape(ridge, tint(skin, 0.82), width=2), *nostrils, tip]


def _mouth(head: _Head) -> list[Shape]:
    """Lips, the dark inside, upper teeth and tongue."""
    track, lips = head.track, head.identity.lips
    opening, rounding = track["mouth_open"], track["mouth_round"]
    width = 0.25 + 0.17 * (track["mouth_wide"] - 0.45) - 0.11 * rounding + 0.06 * track["smile"]
    half = 0.016 + 0.185 * opening
    middle = 0.50 + 0.03 * opening - 0.07 * track["smile"] * _ACROSS**2  # a smile lifts the corners
    lip = 0.048 + 0.03 * rounding
    inner_top, inner_bottom = middle - 0.55 * half * _BULGE, middle + half * _BULGE
    bow = 0.006 * np.cos(9 * _ACROSS) * _BULGE
    outer_top = middle - (0.55 * half + lip) * _BULGE - bow
    outer_bottom = middle + (half + 1.25 * lip) * _BULGE

    def between(top: np.ndarray, bottom: np.ndarray, stretch: float = 1.0) -> np.ndarray:
        u = _ACROSS * width * stretch
        return _joined(head.surface(u, top), head.surface(u[:, ::-1], bottom[:, ::-1]))

    inner = slice(2, -2)
    teeth_u, teeth_top = _ACROSS[inner] * width, inner_top[:, inner]
    teeth_edge = teeth_top + np.minimum(0.055, half * 0.6) * _BULGE[inner]
    teeth_bottom = head.surface(teeth_u[:, ::-1] * 0.92, teeth_edge[:, ::-1])
    tongue_y = half * head.identity.head_height * 0.25
    tongue = head.ellipse(0, 0.50 + 0.03 * opening + 0.72 * half, width * head.identity.head_width * 0.55, tongue_y)
    fold_v = 0.50 + 0.03 * opening + half + 1.25 * lip + 0.045
    return [
        Shape(between(outer_top, outer_bottom, 1.12), lips),
        Shape(between(inner_top, inner_bottom), (70, 18, 22)),
        Shape(_joined(head.surface(teeth_u, teeth_top), teeth_bottom), (238, 235, 228), visible=opening[:, 0] > 0.12),
        Shape(tongue, (180, 80, 85), visible=opening[:, 0] > 0.4),
        Shape(head.surface(_ACROSS[3:10] * width * 0.7, fold_v), tint(head.identity.skin, 0.86), width=1.4),
    ]


_HAIRLINES = {
    "short": ((0.60, -0.60), (0.25, -0.74), (-0.30, -0.80), (-0.62, -0.62)),
    "long": ((0.64, -0.46), (0.42, -0.66), (-0.05, -0.80), (-0.40, -0.66), (-0.64, -0.44)),
    "cropped": ((0.66, -0.50), (0.0, -0.62), (-0.66, -0.50)),
    "long parted": ((0.64, -0.44), (0.34, -0.70), (0.12, -0.88), (-0.34, -0.66), (-0.64, -0.42)),
}


def _hair_front(head: _Head) -> list[Shape]:
    """The cap of hair down to the hairline, with a lighter strand."""
    width, height = head.identity.head_width, head.identity.head_height
    crown = head.plane(_UPPER_ARC[0] * width * 1.06, _UPPER_ARC[1] * height * 1.1)
    u, v = np.array(_HAIRLINES[head.identity.hair_style]).T
    right, left = head.plane(np.array([width]), -2.0), head.plane(np.array([-width]), -2.0)
    cos, sin = _angles(np.pi * 1.22, np.pi * 1.62, 9)
    strand = head.plane(cos * width * 0.86, sin * height * 0.98)
    hair = head.identity.hair
    return [
        Shape(_joined(crown, right, head.surface(u, v), left), hair),
        Shape(strand, tint(hair, 1.22), width=4),
    ]


def face_shapes(identity: Identity, tracks: Tracks) -> list[Shape]:
    """Head, neck and shoulders, back to front. `tracks` holds every parameter of `NEUTRAL`, `(T,)` each."""
    head = _Head(identity, tracks)
    eyes = _eye(head, -1) + _eye(head, 1)
    return [
        *_hair_behind(head),
        *_body(head),
        *_skull(head),
        *eyes,
        *_nose(head),
        *_mouth(head),
        *_hair_front(head),
    ]


# How far idle life, nods and speech may carry the parameters (`motion.py` stays inside).
MOTION_LIMITS = {
    "shift_x": (-3.0, 3.0),
    "shift_y": (-2.5, 2.5),
    "yaw": (-0.12, 0.12),
    "pitch": (-0.06, 0.22),
    "roll": (-0.04, 0.04),
    "mouth_open": (0.0, 1.0),
    "mouth_wide": (0.15, 0.9),
    "mouth_round": (0.0, 1.0),
    "smile": (0.0, 1.0),
}


def _box(shapes: list[Shape], size: tuple[int, int]) -> tuple[int, int, int, int]:
    pixels = world_to_pixels(np.concatenate([shape.points.reshape(-1, 2) for shape in shapes]), size)
    top, left = np.floor(pixels.min(0)[::-1]).astype(int)
    bottom, right = np.ceil(pixels.max(0)[::-1]).astype(int)
    return max(0, int(top)), max(0, int(left)), min(size[0], int(bottom)), min(size[1], int(right))


def _extreme_head(identity: Identity) -> _Head:
    corners = np.array(list(product(*MOTION_LIMITS.values())))
    tracks = {name: np.full(len(corners), value) for name, value in NEUTRAL.items()}
    return _Head(identity, tracks | dict(zip(MOTION_LIMITS, corners.T, strict=True)))


def mouth_box(size: tuple[int, int] = (192, 336), identity: Identity = AGENT) -> tuple[int, int, int, int]:
    """(top, left, bottom, right) in pixels: the fixed box the mouth never leaves (`frame[top:bottom, left:right]`)."""
    return _box(_mouth(_extreme_head(identity)), size)


def face_box(size: tuple[int, int] = (192, 336), identity: Identity = AGENT) -> tuple[int, int, int, int]:
    """(top, left, bottom, right) in pixels: the fixed box that always holds the face from hairline to chin."""
    head = _extreme_head(identity)
    return _box(_skull(head) + _hair_front(head), size)


def eye_boxes(size: tuple[int, int] = (192, 336), identity: Identity = AGENT) -> list[tuple[int, int, int, int]]:
    """(top, left, bottom, right) in pixels of the boxes that each eye, brow included, never leaves."""
    head = _extreme_head(identity)
    return [_box(_eye(head, side), size) for side in (-1, 1)]
