"""Recordings made in a test: noise that comes and goes like words, and pictures that get brighter."""

import json
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

Words = Sequence[tuple[str, float, float]]
RATE = 48_000


def voice(seconds: float, words: Words, seed: int = 0, rate: int = RATE) -> np.ndarray:
    """(N,) of a quiet room in which something is heard at the times of the words."""
    rng = np.random.default_rng(seed)
    wave = rng.standard_normal(round(seconds * rate)) * 1e-4
    for _, start, end in words:
        span = slice(round(start * rate), round(end * rate))
        wave[span] += 0.2 * rng.standard_normal(len(wave[span]))
    return np.clip(wave, -1, 1).astype(np.float32)


def write_sound(path: Path, *channels: np.ndarray, rate: int = RATE) -> Path:
    """A sound file of one track; the name says in which format."""
    path.parent.mkdir(parents=True, exist_ok=True)
    codec = {".wav": "pcm_s16le", ".flac": "flac", ".mp3": "libmp3lame", ".ogg": "libopus"}[path.suffix]
    layout = {1: "mono", 2: "stereo"}[len(channels)]
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, layout=layout)
        frame = av.AudioFrame.from_ndarray(np.stack(channels), "fltp", layout)
        frame.sample_rate, frame.pts = rate, 0
        for part in av.AudioResampler(stream.format, layout, rate).resample(frame):
            container.mux(stream.encode(part))
        container.mux(stream.encode(None))
    return path


def write_film(
    path: Path,
    seconds: float,
    sound: np.ndarray | None = None,
    rate: Fraction | int = 25,
    size: tuple[int, int] = (120, 160),
) -> Path:
    """A film of so many seconds whose frames get brighter by 20 in every second, from 40 on; sound at 48 kHz."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        picture = container.add_stream("libx264", rate=rate)
        picture.height, picture.width, picture.pix_fmt = *size, "yuv420p"
        track = container.add_stream("aac", rate=RATE, layout="mono") if sound is not None else None
        for i in range(round(seconds * rate)):
            grey = np.full((*size, 3), min(255, 40 + 20 * i / rate), np.uint8)
            frame = av.VideoFrame.from_ndarray(grey, "rgb24")
            frame.pts, frame.time_base = i, 1 / Fraction(rate)
            container.mux(picture.encode(frame))
        container.mux(picture.encode(None))
        if track is not None:
            frame = av.AudioFrame.from_ndarray(sound[None], "fltp", "mono")
            frame.sample_rate, frame.pts, frame.time_base = RATE, 0, Fraction(1, RATE)
            container.mux(track.encode(frame))
            container.mux(track.encode(None))
    return path


def write_json(path: Path, content: object) -> Path:
    path.write_text(json.dumps(content), encoding="utf-8")
    return path
