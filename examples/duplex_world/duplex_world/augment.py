"""The user's side of the real world: other rooms, microphones, lines, cameras and walls. Training data only.

Everything is drawn from the given generator, so an augmented dyad is as deterministic as a clean one.
"""

import functools

import cv2
import numpy as np
from scipy.signal import butter, fftconvolve, sosfilt

from .clock import SAMPLE_RATE
from .coding import decoded, encoded

# Colour photographs that scikit-image's wheel holds, all CC0 or public domain; credits are in README.md.
_PHOTOGRAPHS = (
    "astronaut.png",
    "chelsea.png",
    "coffee.png",
    "motorcycle_left.png",
    "rocket.jpg",
    "hubble_deep_field.jpg",
)
_MU = 255.0
_CODECS = (("ogg", "libopus", 12_000), ("ogg", "libopus", 20_000), ("mp3", "libmp3lame", 32_000))


@functools.cache
def _photographs() -> list[np.ndarray]:
    from skimage import data, io

    return [io.imread(f"{data.data_dir}/{name}")[..., :3] for name in _PHOTOGRAPHS]


def photograph(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """A random crop of a real photograph, perhaps mirrored: uint8 `(*size, 3)`."""
    photo = _photographs()[rng.integers(len(_PHOTOGRAPHS))]
    height, width = photo.shape[:2]
    share = rng.uniform(0.4, 1.0)
    crop_height = int(share * min(height, width * size[0] / size[1]))
    crop_width = int(crop_height * size[1] / size[0])
    top, left = rng.integers(height - crop_height + 1), rng.integers(width - crop_width + 1)
    crop = photo[top : top + crop_height, left : left + crop_width][:, :: rng.choice([-1, 1])]
    return cv2.resize(np.ascontiguousarray(crop), size[::-1], interpolation=cv2.INTER_AREA)


def other_room(audio: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Another room, microphone and line for `(N,)` float audio at 24 kHz: each effect in a part of the cases."""
    if rng.random() < 0.4:
        audio = _reverberate(audio, rng)
    if rng.random() < 0.5:
        audio = _tilted(audio, rng.uniform(-4, 4))
    if rng.random() < 0.5:  # a line that carries nothing above 3 to 7.5 kHz
        cutoff = rng.uniform(3_000, 7_500)
        audio = sosfilt(butter(6, cutoff, fs=SAMPLE_RATE, output="sos"), audio)
    if rng.random() < 0.2:
        audio = decoded(encoded(audio, *_CODECS[rng.integers(len(_CODECS))]), len(audio))
    if rng.random() < 0.15:  # 8-bit mu-law, as telephones have it
        level = np.sign(audio) * np.log1p(_MU * np.abs(np.clip(audio, -1, 1))) / np.log1p(_MU)
        level = np.round(level * 127) / 127
        audio = np.sign(level) * np.expm1(np.abs(level) * np.log1p(_MU)) / _MU
    audio = audio * 10 ** (rng.uniform(-12, 3) / 20)
    return np.clip(audio + _background_noise(len(audio), rng), -1, 1).astype(np.float32)


def _tilted(audio: np.ndarray, decibels: float) -> np.ndarray:
    """Louder by so much in every octave above 1 kHz, quieter below; flat beyond 100 Hz and 8 kHz."""
    spectrum = np.fft.rfft(audio)
    octaves = np.log2(np.clip(np.fft.rfftfreq(len(audio), 1 / SAMPLE_RATE), 100, 8_000) / 1_000)
    return np.fft.irfft(spectrum * 10 ** (decibels * octaves / 20), len(audio))


def _reverberate(audio: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Exponentially decaying noise as the room's response, after the direct sound."""
    decay = rng.uniform(0.1, 0.5)  # seconds to -60 dB
    length = int(decay * SAMPLE_RATE)
    response = rng.standard_normal(length) * 10 ** (-3 * np.arange(length) / length)
    response *= rng.uniform(0.1, 0.5) / np.sqrt((response**2).sum())
    response[0] = 1.0
    return fftconvolve(audio, response)[: len(audio)]


def own_echo(audio: np.ndarray, agent_audio: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """In a part of the cases, what a loudspeaker says comes back into the user's microphone: both `(N,)` at 24 kHz, on
    one clock. The agent must not answer itself, and must still hear the user."""
    if rng.random() >= 0.35:
        return audio
    late = np.concatenate([np.zeros(int(rng.uniform(0.04, 0.25) * SAMPLE_RATE)), agent_audio])[: len(audio)]
    echo = _reverberate(late, rng) * 10 ** (rng.uniform(-26, -9) / 20)
    return np.clip(audio + echo, -1, 1).astype(np.float32)


def _background_noise(num_samples: int, rng: np.random.Generator) -> np.ndarray:
    """Noise between -70 and -35 dBFS whose spectrum falls by 0 to 6 dB per octave."""
    spectrum = np.fft.rfft(rng.standard_normal(num_samples))
    spectrum /= np.maximum(1, np.arange(len(spectrum))) ** rng.uniform(0, 1)
    noise = np.fft.irfft(spectrum, num_samples)
    return noise / (noise.std() + 1e-9) * 10 ** (rng.uniform(-70, -35) / 20)


def other_camera(frames: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Another camera for uint8 `(T, H, W, 3)`: framing, focus, exposure and a faint cast; colours keep their names."""
    height, width = frames.shape[1:3]
    scale = rng.uniform(0.95, 1.12)
    shift = rng.uniform(-0.05, 0.05, 2) * (width, height)
    centre = np.array([width, height]) / 2
    framing = np.array([[scale, 0, 0], [0, scale, 0]])
    framing[:, 2] = centre + shift - scale * centre
    blur = rng.uniform(0.3, 1.0) if rng.random() < 0.3 else 0.0
    gain, offset = rng.uniform(0.85, 1.15) * rng.uniform(0.94, 1.06, 3), rng.uniform(-15, 15)
    curve = np.clip(np.arange(256)[:, None] * gain + offset, 0, 255).astype(np.uint8)[None]
    out = []
    for frame in frames:
        framed = cv2.warpAffine(frame, framing, (width, height), borderMode=cv2.BORDER_REPLICATE)
        out.append(cv2.LUT(cv2.GaussianBlur(framed, (0, 0), blur) if blur else framed, curve))
    return np.stack(out)
