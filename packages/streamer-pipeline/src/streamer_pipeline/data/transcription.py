"""Words that nobody wrote down, by a Whisper model (extra `[asr]`). Weights are the user's: a folder, or a name."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from ..clock import SAMPLE_RATE
from .timing import tightened
from .words import Word

if TYPE_CHECKING:
    from faster_whisper import WhisperModel

_RATE = 16_000  # what Whisper hears


@cache
def load_recogniser(model: str, device: str = "cpu") -> WhisperModel:
    """A recogniser, once in a process.

    Args:
        model: folder of a CTranslate2 model, or a name that faster-whisper knows. device: "cpu", "cuda", "cuda:1".

    Raises:
        ValueError: there is no such model.
    """
    from faster_whisper import WhisperModel

    kind, _, index = device.partition(":")
    numbers = "int8" if kind == "cpu" else "default"
    try:
        return WhisperModel(model, device=kind, device_index=int(index or 0), compute_type=numbers, cpu_threads=1)
    except Exception as error:
        raise ValueError(
            f"{model} is no Whisper model that faster-whisper can load ({error}): give a folder with model.bin, or a "
            "name such as small.en"
        ) from error


def transcribe(wave: np.ndarray, model: str, device: str = "cpu") -> tuple[Word, ...]:
    """The words of `(N,)` at 24 kHz, with times in seconds. Silence is left out, for Whisper invents words there."""
    from scipy.signal import resample_poly

    audio = resample_poly(wave, _RATE // 8000, SAMPLE_RATE // 8000).astype(np.float32)
    segments, _ = load_recogniser(model, device).transcribe(
        audio, word_timestamps=True, vad_filter=True, condition_on_previous_text=False
    )
    words = (word for segment in segments for word in segment.words or ())
    found = (Word(word.word.strip(), float(word.start), float(word.end)) for word in words if word.word.strip())
    return tuple(word for word in tightened(found, wave) if word.end > word.start)
