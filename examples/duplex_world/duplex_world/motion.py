"""How people move: parameter tracks at 25 fps for idle life, speech, listening, smiles and waves.

A motion is a dict of arrays `(num_frames,)` float32, one per parameter of `face.NEUTRAL`; the functions below write
into it in place. Everything is inside `face.MOTION_LIMITS`.
"""

import numpy as np

from .clock import FRAME_RATE
from .face import NEUTRAL
from .shapes import Tracks

_BLINK = (0.6, 1.0, 0.9, 0.3)
_WAVE_RATE = 0.65  # radians per frame: 2.6 swings per second
_NOD_FRAMES = 12


def idle_motion(num_frames: int, rng: np.random.Generator, liveliness: float = 1.0) -> Tracks:
    """A person who is merely there: breath and sway, glances, and a blink every 1.6 to 4.5 s."""
    time = np.arange(num_frames) / FRAME_RATE
    motion = {name: np.full(num_frames, value, np.float32) for name, value in NEUTRAL.items()}

    def swing(size: float, speed: float) -> np.ndarray:
        return liveliness * size * np.sin(speed * time + rng.uniform(0, 2 * np.pi))

    motion["yaw"] += swing(0.05, 0.9) + swing(0.03, 2.1)
    motion["pitch"] += swing(0.03, 1.1)
    motion["roll"] += swing(0.025, 0.7)
    motion["shift_x"] += swing(2.0, 0.6)
    motion["shift_y"] += swing(1.2, 0.8)
    _blink(motion["blink"], rng)
    _glance(motion, rng)
    return motion


def _blink(track: np.ndarray, rng: np.random.Generator) -> None:
    frame = int(rng.uniform(10, 60))
    while frame < len(track) - len(_BLINK):
        track[frame : frame + len(_BLINK)] = _BLINK
        frame += int(FRAME_RATE * rng.uniform(1.6, 4.5))


def _glance(motion: Tracks, rng: np.random.Generator) -> None:
    """Short looks aside; in between the eyes rest on the partner."""
    num_frames = len(motion["gaze_x"])
    frame = int(rng.uniform(20, 80))
    while frame < num_frames:
        end = frame + int(rng.uniform(6, 14))
        motion["gaze_x"][frame:end] = rng.uniform(-0.5, 0.5)
        motion["gaze_y"][frame:end] = rng.uniform(-0.3, 0.3)
        frame = end + int(FRAME_RATE * rng.uniform(1.5, 4.0))


def write_at(motion: Tracks, tracks: Tracks, first_frame: int) -> None:
    """Put `tracks` into `motion` from `first_frame` on; what reaches beyond the end is dropped."""
    for name, values in tracks.items():
        room = motion[name][first_frame : first_frame + len(values)]
        room[:] = values[: len(room)]


def ease_to(track: np.ndarray, first_frame: int, end_frame: int, value: float, ease_frames: int = 4) -> None:
    """Lead a track to `value` in [first_frame, end_frame) and back, linearly over `ease_frames` on both sides."""
    first_frame, end_frame = max(0, first_frame), min(len(track), end_frame)
    inside = np.arange(max(0, end_frame - first_frame))
    weight = np.minimum(1.0, (np.minimum(inside, inside[::-1]) + 1) / ease_frames)
    track[first_frame:end_frame] += weight * (value - track[first_frame:end_frame])


def nod(motion: Tracks, first_frame: int, depth: float = 0.1) -> None:
    """One nod of half a second."""
    room = motion["pitch"][first_frame : first_frame + _NOD_FRAMES]
    room += depth * np.sin(np.linspace(0, np.pi, _NOD_FRAMES))[: len(room)]


def attend(motion: Tracks, first_frame: int, end_frame: int) -> None:
    """The face of a listener: brows up and a slight smile."""
    ease_to(motion["brow"], first_frame, end_frame, 0.5)
    ease_to(motion["smile"], first_frame, end_frame, 0.35)


def smile(motion: Tracks, first_frame: int, end_frame: int, strength: float = 1.0) -> None:
    """A smile with eased edges."""
    ease_to(motion["smile"], first_frame, end_frame, strength)


def raise_hand(motion: Tracks, first_frame: int, end_frame: int) -> None:
    """The hand comes up beside the head and goes down again."""
    ease_to(motion["hand"], first_frame, end_frame, 1.0)


def wave(motion: Tracks, first_frame: int, end_frame: int) -> None:
    """An open hand goes up and swings."""
    raise_hand(motion, first_frame, end_frame)
    track = motion["wave"][max(0, first_frame) : end_frame]
    track[:] = 0.5 * np.sin(_WAVE_RATE * np.arange(len(track)))


def hold(motion: Tracks, first_frame: int, end_frame: int, object_index: int, color_index: int) -> None:
    """The hand shows an object, not quite still."""
    raise_hand(motion, first_frame, end_frame)
    span = slice(max(0, first_frame), end_frame)
    motion["object"][span], motion["color"][span] = object_index, color_index
    motion["wave"][span] = 0.12 * np.sin(0.2 * np.arange(len(motion["wave"][span])))


def show_fingers(motion: Tracks, first_frame: int, end_frame: int, count: int) -> None:
    """The hand shows 0 to 5 fingers."""
    raise_hand(motion, first_frame, end_frame)
    motion["fingers"][max(0, first_frame) : end_frame] = count
