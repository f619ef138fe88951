"""The agent's one voice: hibari-tts at 24 kHz, one rendition per phrase, with phonemes and word times, cached on disk.

One fixed rendition per phrase is the lowest-entropy target there is: a small model can learn to say it exactly.
"""

import hashlib
import json
import os
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file
from streamer_pipeline.cache_folder import cache_folder

from .clock import SAMPLE_RATE
from .grammar import agent_phrases
from .phonemes import PhonemeSpan

_PEAK = 0.42
_FORMAT = "1"


@dataclass(frozen=True)
class Rendition:
    """One spoken phrase: `wave` `(num_samples,)` float32 at 24 kHz (read-only) and its ARPABET phonemes."""

    phrase: str
    wave: np.ndarray
    phonemes: list[PhonemeSpan]

    def word_starts(self) -> list[tuple[float, str]]:
        """(seconds, word) for every word of the phrase, in order."""
        spoken = [span for span in self.phonemes if span.word and not span.word.startswith("<")]
        starts = [
            (max(0.0, span.start), span.word)
            for before, span in zip([None, *spoken], spoken, strict=False)
            if before is None or before.word != span.word  # no phrase says a word twice in a row
        ]
        assert [word for _, word in starts] == self.phrase.split()
        return starts


class AgentVoice:
    """Phrase -> `Rendition`, from the cache; phrases that are missing there are spoken once and stored.

    Args:
        phrases: what must be at hand; by default all 101 phrases of the agent (about 15 s the first time).
        folder: where the cache lives; by default `cache_folder()`.

    Raises:
        RuntimeError: a phrase must be spoken and hibari-tts is not installed.
    """

    def __init__(self, phrases: Iterable[str] | None = None, folder: Path | None = None) -> None:
        phrases = agent_phrases() if phrases is None else list(phrases)
        self._path = (folder or cache_folder()) / f"agent-voice-v{_FORMAT}.safetensors"
        self._renditions = _read(self._path) if self._path.exists() else {}
        missing = [phrase for phrase in phrases if phrase not in self._renditions]
        if missing:
            self._renditions |= {rendition.phrase: rendition for rendition in _speak(missing)}
            _write(self._path, self._renditions)

    def __call__(self, phrase: str) -> Rendition:
        """The rendition of `phrase`. Raises ValueError for a phrase that was not asked for at construction."""
        if phrase not in self._renditions:
            raise ValueError(f"no rendition of {phrase!r}; pass it in `phrases` when the voice is made")
        return self._renditions[phrase]

    @property
    def phrases(self) -> list[str]:
        """Every phrase at hand."""
        return list(self._renditions)

    def fingerprint(self) -> str:
        """SHA-256 over phrases and waves: renditions may differ between kinds of CPU, so results should name it."""
        digest = hashlib.sha256()
        for phrase in sorted(self._renditions):
            digest.update(phrase.encode() + b"\0" + self._renditions[phrase].wave.tobytes())
        return digest.hexdigest()


def _speak(phrases: list[str]) -> list[Rendition]:
    try:
        from hibari import Hibari
    except ImportError as error:
        raise RuntimeError("the agent's voice needs hibari-tts: `pip install hibari-tts`") from error
    from .speech_judge import align_phonemes

    synthesizer = Hibari()
    renditions = []
    for phrase in phrases:
        wave = _trim_and_level(synthesizer(phrase + ".", seed=0))
        renditions.append(Rendition(phrase, wave, align_phonemes(wave, phrase)))
    return renditions


def _trim_and_level(wave: np.ndarray) -> np.ndarray:
    """Cut silence to 20 ms before and 60 ms after the voice and set the peak to one level for all phrases."""
    window = int(0.02 * SAMPLE_RATE)
    energy = np.convolve(wave**2, np.ones(window) / window, "same")
    voiced = np.flatnonzero(energy > energy.max() * 2e-4)
    wave = wave[max(0, voiced[0] - window) : voiced[-1] + 3 * window]
    return (wave * (_PEAK / np.abs(wave).max())).astype(np.float32)


def _write(path: Path, renditions: dict[str, Rendition]) -> None:
    """One safetensors file, waves by phrase, alignments as JSON in its header; complete or absent, never half."""
    alignments = {phrase: rendition.phonemes for phrase, rendition in renditions.items()}
    waves = {phrase: np.ascontiguousarray(rendition.wave) for phrase, rendition in renditions.items()}
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, suffix=".partial")
    os.close(descriptor)
    try:
        save_file(waves, temporary, metadata={"alignments": json.dumps(alignments)})
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def _read(path: Path) -> dict[str, Rendition]:
    with safe_open(path, framework="numpy") as file:
        alignments = json.loads(file.metadata()["alignments"])
        return {
            phrase: Rendition(phrase, file.get_tensor(phrase), [PhonemeSpan(*span) for span in spans])
            for phrase, spans in alignments.items()
        }
