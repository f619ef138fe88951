"""Who writes down what the agent's sound says: recognisers that know nothing of the model.

A recogniser is a callable `recognise(samples, rate) -> str` of sound `(N,)` in [-1, 1]. One that also has a method
`words(samples, rate)` tells when each word sounds.
"""

from __future__ import annotations

import importlib
from typing import Any, Protocol

import numpy as np

from ..clock import SAMPLE_RATE
from ..data.words import Word

SPHINX_RATE = 16_000
PADDING_SECONDS = 0.15
# cmn='batch': with the default live mean the answer to one clip would depend on the clips before it.
SPHINX_OPTIONS = {"samprate": SPHINX_RATE, "loglevel": "FATAL", "cmn": "batch", "bestpath": False}


class Recogniser(Protocol):
    """What is said in sound `(N,)` in [-1, 1] at `rate` Hz."""

    def __call__(self, samples: np.ndarray, rate: int) -> str: ...


class PocketsphinxRecogniser:
    """CMU's English of the package `pocketsphinx`: small, quick, and wrong in many words of real people."""

    def __init__(self) -> None:
        import pocketsphinx

        self._decoder = pocketsphinx.Decoder(**SPHINX_OPTIONS)

    def __call__(self, samples: np.ndarray, rate: int) -> str:
        return " ".join(word.text for word in self.words(samples, rate))

    def words(self, samples: np.ndarray, rate: int) -> tuple[Word, ...]:
        """With times in seconds."""
        self._decoder.reinit_feat()  # what was heard before would move the times a little
        hear(self._decoder, to_pcm(samples, rate))
        found = []
        for segment in self._decoder.seg() or ():
            text = segment.word.partition("(")[0]  # "read(2)" is another way to say it
            if text and not text.startswith(("<", "[", "+")):
                start, end = (frame / 100 - PADDING_SECONDS for frame in (segment.start_frame, segment.end_frame + 1))
                found.append(Word(text, max(0.0, start), end))
        return tuple(found)


class WhisperRecogniser:
    """A Whisper of faster-whisper (extra `[asr]`).

    Args:
        model: folder of a CTranslate2 model, or a name that faster-whisper knows. device: "cpu", "cuda", "cuda:1".

    Raises:
        ValueError: there is no such model.
    """

    def __init__(self, model: str, device: str = "cpu") -> None:
        from ..data.transcription import load_recogniser

        load_recogniser(model, device)
        self._model, self._device = model, device

    def __call__(self, samples: np.ndarray, rate: int) -> str:
        return " ".join(word.text for word in self.words(samples, rate))

    def words(self, samples: np.ndarray, rate: int) -> tuple[Word, ...]:
        """With times in seconds."""
        from ..data.transcription import transcribe

        return transcribe(resampled(samples, rate, SAMPLE_RATE), self._model, self._device)


def find_recogniser(name: str, device: str = "cpu") -> Recogniser:
    """A recogniser by its name: "pocketsphinx", "whisper:MODEL", or "module:callable" of your own.

    Raises:
        ValueError: there is no such recogniser. ImportError: its package is not installed.
    """
    kind, _, rest = name.partition(":")
    if name == "pocketsphinx":
        return PocketsphinxRecogniser()
    if kind == "whisper":
        if not rest:
            raise ValueError("whisper needs a model: whisper:small.en, or whisper:FOLDER")
        return WhisperRecogniser(rest, device)
    if not rest:
        raise ValueError(f"no recogniser {name!r}: pocketsphinx, whisper:MODEL, or module:callable")
    return find_object(name)


def find_object(name: str) -> Any:
    """What `module:attribute` names.

    Raises:
        ValueError: the name has another form, or there is no such module or attribute.
    """
    module, _, attribute = name.partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"{name!r} names no module:attribute that can be imported ({error})") from error


def resampled(samples: np.ndarray, rate: int, new_rate: int) -> np.ndarray:
    """Sound `(N,)` at another rate, float32."""
    from scipy.signal import resample_poly

    divisor = np.gcd(new_rate, rate)
    return resample_poly(np.asarray(samples, np.float32), new_rate // divisor, rate // divisor).astype(np.float32)


def to_pcm(samples: np.ndarray, rate: int, level: float | None = None) -> bytes:
    """16 kHz 16-bit PCM between two pads of faint noise, as pocketsphinx likes it; `level` sets the peak."""
    samples = resampled(samples, rate, SPHINX_RATE)
    peak = np.abs(samples).max(initial=0.0)
    if level is not None and peak > 1e-4:
        samples = samples * (level / peak)
    # Digital zeros would give the cepstral mean infinite weight on silence.
    pad = np.random.default_rng(0).standard_normal(int(PADDING_SECONDS * SPHINX_RATE)) * 1e-4
    samples = np.concatenate([pad, samples, pad])
    return (np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes()


def hear(decoder: Any, pcm: bytes) -> None:
    """Let a decoder of pocketsphinx hear one whole utterance."""
    decoder.start_utt()
    decoder.process_raw(pcm, full_utt=True)
    decoder.end_utt()
