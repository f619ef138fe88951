"""Writing pictures and sound to an MP4 file (H.264 and AAC) with PyAV."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from .clock import FRAME_RATE, SAMPLE_RATE

_AUDIO_CHUNK = 1_024


def write_movie(path: Path, frames: np.ndarray, audio: np.ndarray) -> None:
    """Write `frames` uint8 `(T, H, W, 3)` RGB at 25 fps and `audio` float `(num_samples, 1 or 2)` at 24 kHz.

    Raises:
        ValueError: odd picture sizes (H.264 halves the colour planes) or another number of audio channels.
    """
    height, width = frames.shape[1:3]
    if height % 2 or width % 2:
        raise ValueError(f"pictures are {height}x{width}; H.264 needs an even height and width")
    if audio.ndim != 2 or audio.shape[1] not in (1, 2):
        raise ValueError(f"audio has shape {audio.shape}; give (num_samples, 1) or (num_samples, 2)")
    with av.open(str(path), "w") as container:
        video_stream = container.add_stream("libx264", rate=FRAME_RATE, options={"crf": "18", "preset": "veryfast"})
        video_stream.width, video_stream.height, video_stream.pix_fmt = width, height, "yuv420p"
        audio_stream = container.add_stream("aac", rate=SAMPLE_RATE)
        audio_stream.layout = "stereo" if audio.shape[1] == 2 else "mono"
        for picture in frames:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            container.mux(video_stream.encode(frame))
        container.mux(video_stream.encode(None))
        pcm = (np.clip(audio, -1, 1) * 32767).astype(np.int16)
        for start in range(0, len(pcm), _AUDIO_CHUNK):
            chunk = pcm[start : start + _AUDIO_CHUNK].reshape(1, -1)  # packed: channels interleaved
            sound = av.AudioFrame.from_ndarray(chunk, format="s16", layout=audio_stream.layout.name)
            sound.sample_rate, sound.pts, sound.time_base = SAMPLE_RATE, start, Fraction(1, SAMPLE_RATE)
            container.mux(audio_stream.encode(sound))
        container.mux(audio_stream.encode(None))
