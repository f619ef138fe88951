"""Judges of the world's speech: a closed grammar with a rejection margin, and a forced aligner, both pocketsphinx.

A judge hears the agent's 24 kHz sound and never sees the model, its text or its intent.
"""

import functools
import re
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import pocketsphinx
from streamer_pipeline.evaluation.recognisers import PADDING_SECONDS, SPHINX_OPTIONS, hear, to_pcm

from .clock import SAMPLE_RATE
from .phonemes import PhonemeSpan

_DECODER_OPTIONS = {**SPHINX_OPTIONS, "lm": None}
_WIDE_BEAMS = {"beam": 1e-80, "wbeam": 1e-60, "pbeam": 1e-80}
_NARROW_BEAMS = {"beam": 1e-60, "wbeam": 1e-40, "pbeam": 1e-60}


@dataclass(frozen=True)
class Verdict:
    """What the judge heard: the best legal `text` ("" for none) and its `margin`.

    margin = 1000 x (grammar score - free phone loop score) per 10 ms frame. Above 0 the phrase explains the sound
    about as well as free phones do; far below, the sound was something else and the text is only the least bad guess.
    """

    text: str
    margin: float


def _decode(decoder: pocketsphinx.Decoder, pcm: bytes) -> tuple[str, float]:
    hear(decoder, pcm)
    best = decoder.hyp()
    return (best.hypstr, best.score) if best else ("", -1e9)


class SpeechJudge:
    """Which phrase of a JSGF grammar was said, and how sure that is.

    Example::

        judge = SpeechJudge(agent_jsgf())
        judge(wave).text == "it is a red apple"
    """

    def __init__(self, jsgf: str) -> None:
        with tempfile.NamedTemporaryFile("w", suffix=".jsgf") as file:  # the decoder takes a grammar only as a file
            file.write(jsgf)
            file.flush()
            self._grammar = pocketsphinx.Decoder(jsgf=file.name, lw=1.0, **_DECODER_OPTIONS, **_WIDE_BEAMS)
        phones = pocketsphinx.get_model_path("en-us/en-us-phone.lm.bin")
        self._phone_loop = pocketsphinx.Decoder(allphone=phones, lw=2.0, **_DECODER_OPTIONS, **_NARROW_BEAMS)

    def __call__(self, wave: np.ndarray, sample_rate: int = SAMPLE_RATE) -> Verdict:
        """Judge one utterance: `wave` `(num_samples,)` float, any level."""
        pcm = to_pcm(wave, sample_rate, level=0.6)
        text, score = _decode(self._grammar, pcm)
        _, free_score = _decode(self._phone_loop, pcm)
        return Verdict(text, 1000 * (score - free_score) / max(1, self._grammar.n_frames()))


def reference_thresholds(
    judge: SpeechJudge, phrases: Iterable[str], render: Callable[[str], np.ndarray]
) -> dict[str, float]:
    """Margin each phrase must reach: min(0, margin of the reference rendition - 0.1).

    Set once on the reference voice (short phrases score just below 0 even when perfect), never on a model's output.
    `render` gives a phrase's 24 kHz reference wave.
    """
    return {phrase: min(0.0, judge(render(phrase)).margin - 0.1) for phrase in phrases}


@functools.cache
def _aligner() -> pocketsphinx.Decoder:
    return pocketsphinx.Decoder(**_DECODER_OPTIONS, **_WIDE_BEAMS)


def align_phonemes(wave: np.ndarray, text: str, sample_rate: int = SAMPLE_RATE) -> list[PhonemeSpan]:
    """Where each ARPABET phone of `text` lies in `wave` (10 ms grid; silences carry words like "<sil>").

    Raises:
        ValueError: a word is not in the dictionary, or the text does not fit the sound at all.
    """
    decoder = _aligner()
    words = re.sub(r"[^a-z' ]", " ", text.lower()).split()
    unknown = [word for word in words if decoder.lookup_word(word) is None]
    if unknown:
        raise ValueError(f"not in the pronouncing dictionary: {', '.join(unknown)}; spell them as English words")
    pcm = to_pcm(wave, sample_rate)
    decoder.reinit_feat()  # what was heard before would move the times a little
    decoder.set_align_text(" ".join(words))
    hear(decoder, pcm)
    if decoder.hyp() is None:
        raise ValueError(f"the sound could not be aligned with {text!r}; does it really say that?")
    decoder.set_alignment()  # second pass: from words to phones
    hear(decoder, pcm)
    alignment = decoder.get_alignment()  # must outlive the loop: its words point into it
    return [
        PhonemeSpan(
            phone.start / 100 - PADDING_SECONDS,
            (phone.start + phone.duration) / 100 - PADDING_SECONDS,
            phone.name,
            re.sub(r"\(\d+\)$", "", word.name),
        )
        for word in alignment
        for phone in word
    ]
