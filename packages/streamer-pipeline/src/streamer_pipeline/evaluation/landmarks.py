"""Who reads any face from pictures: 68 landmarks and an identity, by face-api in a child process of node.

    wan-streamer eval CHECKPOINT --dataset DYADS --face landmarks

The packages come from npm and are kept in the cache folder: `make setup-face`, or the command that the error says.
"""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from ..cache_folder import cache_folder
from ..clock import FRAMES_PER_UNIT
from .face import FaceMeter, FaceTracks, PictureMeter
from .recognisers import find_object

PACKAGES = ("@vladmandic/face-api@1.7.15", "@tensorflow/tfjs@4.22.0", "@tensorflow/tfjs-backend-wasm@4.22.0")
IDENTITY_DIM = 128
_SCRIPT = Path(__file__).with_suffix(".cjs")
# Of the 68 points, which are numbered as in iBUG 300-W.
_EYES = slice(36, 42), slice(42, 48)
_BROWS = slice(17, 22), slice(22, 27)
_UPPER_LIP, _LOWER_LIP = (61, 62, 63), (67, 66, 65)  # inner edges


def find_face_meter(name: str) -> FaceMeter:
    """A face meter by its name: "landmarks", or what `module:name`, a callable, makes.

    Raises:
        ValueError: there is no such meter. OSError: node or its packages are missing.
    """
    if name == "landmarks":
        return LandmarkFaceMeter()
    if ":" not in name:
        raise ValueError(f"no face meter {name!r}: landmarks, or module:name")
    meter: FaceMeter = find_object(name)()
    return meter


class LandmarkFaceMeter:
    """Mouth, brows and identity of whatever face is in the picture; NaN in frames where there is none.

    A face is searched for in the first frame of every unit of a call; its landmarks are found in every frame. Openings
    and heights are in distances between the eyes. Eyes are not measured: these landmarks hardly follow a blink.

    Args:
        folder: where the packages are installed; None is "face-api" in the cache folder.

    Raises:
        OSError: node or its packages are missing.
    """

    def __init__(self, folder: Path | None = None) -> None:
        folder = cache_folder() / "face-api" if folder is None else folder
        node = _find_node(folder)
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 (it lives as long as the process)
        self._node = subprocess.Popen(
            [node, str(_SCRIPT), str(folder.absolute())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
        )
        self._picture = PictureMeter()

    def __call__(self, frames: Tensor, previous: Tensor | None = None) -> FaceTracks:
        """Measure frames (3, T, H, W) in [-1, 1]; `previous` (3, 1, H, W) is the frame before, if there was one.

        Raises:
            ChildProcessError: node has ended.
        """
        points, identities = [], []
        for unit in frames.split(FRAMES_PER_UNIT, dim=1):
            seen = self._look(unit)
            num_frames = unit.shape[1]
            points.append(np.full((num_frames, 68, 2), np.nan) if seen is None else np.array(seen["points"]))
            identity = np.full(IDENTITY_DIM, np.nan) if seen is None else np.array(seen["identity"])
            identities.append(np.repeat(identity[None], num_frames, axis=0))
        landmarks = np.concatenate(points)
        return FaceTracks(
            motion=self._picture(frames, previous).motion,
            mouth=mouth_opening(landmarks),
            brows=brow_height(landmarks),
            found=~np.isnan(landmarks[:, 0, 0]),
            identity=np.concatenate(identities).astype(np.float32),
        )

    def face(self, frames: Tensor) -> np.ndarray:
        """The whole picture, as `PictureMeter` takes it."""
        return self._picture.face(frames)

    def _look(self, frames: Tensor) -> dict[str, Any] | None:
        """What node says of a unit: "points" of every frame and the "identity", or None without a face."""
        pixels = ((frames.float() + 1) * 127.5).round().clamp(0, 255).byte().permute(1, 2, 3, 0)
        if self._node.stdin is None or self._node.stdout is None:
            raise RuntimeError("node has no pipes")
        try:
            self._node.stdin.write(struct.pack("<3I", *pixels.shape[:3]) + pixels.cpu().numpy().tobytes())
            self._node.stdin.flush()
            found: dict[str, Any] | None = json.loads(self._node.stdout.readline())
            return found
        except (OSError, ValueError) as error:
            self._node.kill()
            self._node.wait()
            self._errors.seek(0)
            said = self._errors.read().decode(errors="replace").strip()
            raise ChildProcessError(f"node ended while it looked for a face: {said[-500:] or error}") from error


def mouth_opening(points: np.ndarray) -> np.ndarray:
    """(T,) mean distance of the inner edges of the lips, from points (T, 68, 2), in distances between the eyes."""
    gaps = np.linalg.norm(points[:, _UPPER_LIP] - points[:, _LOWER_LIP], axis=2)
    return np.asarray(gaps.mean(axis=1) / _eye_distance(points))


def brow_height(points: np.ndarray) -> np.ndarray:
    """(T,) mean distance of the middle of a brow to that of its eye, from points (T, 68, 2), in the same unit."""
    lifts = [
        np.linalg.norm(points[:, brow].mean(axis=1) - points[:, eye].mean(axis=1), axis=1)
        for brow, eye in zip(_BROWS, _EYES, strict=True)
    ]
    return np.asarray(np.mean(lifts, axis=0) / _eye_distance(points))


def _eye_distance(points: np.ndarray) -> np.ndarray:
    left, right = (points[:, eye].mean(axis=1) for eye in _EYES)
    return np.asarray(np.linalg.norm(left - right, axis=1))


def _find_node(folder: Path) -> str:
    node = shutil.which("node")
    if node is None:
        raise OSError("--face landmarks needs node, which is not installed (Debian: apt-get install nodejs npm)")
    missing = [name for name in PACKAGES if not (folder / "node_modules" / name.rpartition("@")[0]).is_dir()]
    if missing:
        raise OSError(
            f"--face landmarks needs packages of npm that are not in {folder}. Install them with `make setup-face`, or "
            f"npm install --ignore-scripts --prefix {folder} {' '.join(PACKAGES)}"
        )
    return node
