"""Writing dyads: media into bytes, and dyads into webdataset shards as `read_dyads` reads them."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import av
import numpy as np
from av import AudioFrame, VideoFrame

from ..clock import FRAME_RATE, SAMPLE_RATE, SAMPLES_PER_UNIT


def encode_sound(wave: np.ndarray) -> bytes:
    """`(N,)` in [-1, 1] at 24 kHz -> 16-bit FLAC."""
    buffer = io.BytesIO()
    samples = np.clip(np.round(wave * 32768), -32768, 32767).astype(np.int16)
    with av.open(buffer, "w", format="flac") as container:
        stream = container.add_stream("flac", rate=SAMPLE_RATE, layout="mono", format="s16")
        for first in range(0, len(samples), SAMPLES_PER_UNIT):
            frame = AudioFrame.from_ndarray(samples[None, first : first + SAMPLES_PER_UNIT], "s16", "mono")
            frame.sample_rate, frame.pts = SAMPLE_RATE, first
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return buffer.getvalue()


class VideoEncoder:
    """Frames, one after the other, -> H.264 in MP4 at 25 fps, without sound."""

    def __init__(self, height: int, width: int) -> None:
        self._buffer = io.BytesIO()
        self._container = av.open(self._buffer, "w", format="mp4")
        # mbtree reads memory it never wrote (x264 165): with it, the same frames may give other bytes
        options = {"crf": "20", "preset": "veryfast", "threads": "1", "x264-params": "mbtree=0"}
        self._stream: Any = self._container.add_stream("libx264", rate=FRAME_RATE, options=options)
        self._stream.height, self._stream.width, self._stream.pix_fmt = height, width, "yuv420p"

    def write(self, frame: np.ndarray) -> None:
        """frame: uint8 `(H, W, 3)`."""
        self._container.mux(self._stream.encode(VideoFrame.from_ndarray(frame, format="rgb24")))

    def finish(self) -> bytes:
        self._container.mux(self._stream.encode(None))
        self._container.close()
        return self._buffer.getvalue()


def encode_video(frames: Iterable[np.ndarray]) -> bytes:
    """uint8 frames `(H, W, 3)`, one at least -> H.264 in MP4, 25 fps, without sound."""
    encoder = None
    for frame in frames:
        encoder = encoder or VideoEncoder(*frame.shape[:2])
        encoder.write(frame)
    if encoder is None:
        raise ValueError("a picture has at least one frame; got none")
    return encoder.finish()


def write_shard(path: Path, dyads: Iterable[tuple[str, Mapping[str, bytes | Path]]]) -> None:
    """Write one tar of (key, {extension: content or file}); it appears under its name only when it is complete.

    Keys hold no dot: webdataset ends them at the first.
    """
    partial = path.with_suffix(".partial")
    try:
        with tarfile.open(partial, "w") as tar:
            for key, members in dyads:
                for extension, content in members.items():
                    data = content.read_bytes() if isinstance(content, Path) else content
                    info = tarfile.TarInfo(f"{key}.{extension}")  # no owner, no time: same dyads, same bytes
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
        partial.rename(path)
    finally:
        partial.unlink(missing_ok=True)
