"""Lossy codecs: sound to bytes and back, by PyAV."""

import io

import av
import numpy as np

from .clock import SAMPLE_RATE


def encoded(wave: np.ndarray, container: str, codec: str, bit_rate: int) -> bytes:
    """`(num_samples,)` float32 at 24 kHz as a sound file: ("ogg", "libopus", 32000), ("mp3", "libmp3lame", 32000)."""
    memory = io.BytesIO()
    with av.open(memory, "w", format=container) as file:
        stream = file.add_stream(codec, rate=SAMPLE_RATE, layout="mono", bit_rate=bit_rate)
        frame = av.AudioFrame.from_ndarray(np.clip(wave, -1, 1)[None].astype(np.float32), "flt", "mono")
        frame.sample_rate = SAMPLE_RATE
        for part in av.AudioResampler(stream.format, "mono", SAMPLE_RATE).resample(frame):
            file.mux(stream.encode(part))
        file.mux(stream.encode(None))
    return memory.getvalue()


def decoded(data: bytes, num_samples: int) -> np.ndarray:
    """The first `num_samples` of a sound file, `(num_samples,)` float32 at 24 kHz."""
    resampler = av.AudioResampler("flt", "mono", SAMPLE_RATE)
    with av.open(io.BytesIO(data)) as file:
        frames = [out for frame in file.decode(audio=0) for out in resampler.resample(frame)]
    frames += resampler.resample(None)
    wave = np.concatenate([frame.to_ndarray().ravel() for frame in frames])[:num_samples]
    return np.pad(wave, (0, num_samples - len(wave))).astype(np.float32)
