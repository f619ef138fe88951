"""Channels without gains. FFmpeg's own matrices suit sounds that differ between channels: where both hold the same,
mono becomes 3 dB louder than either, and from mono come two channels that are 3 dB quieter."""

from __future__ import annotations

from av import AudioFrame

# Of `aresample`: the weights of a downmix add up to 1, so nothing gets louder and nothing can clip.
MEAN_OF_CHANNELS = {"rematrix_maxval": "1"}


def as_stereo(frame: AudioFrame) -> AudioFrame:
    """The same sound in two channels, at its own level; other layouts than mono are returned as they are."""
    if frame.layout.name != "mono":
        return frame
    samples = frame.to_ndarray()  # (1, T), planar or not
    stereo = samples.repeat(2, axis=0 if frame.format.is_planar else 1)
    copy = AudioFrame.from_ndarray(stereo, frame.format.name, "stereo")
    copy.sample_rate, copy.pts, copy.time_base = frame.sample_rate, frame.pts, frame.time_base
    return copy
