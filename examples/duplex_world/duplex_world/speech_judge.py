"""The judge of words (`streamer_pipeline.evaluation`), and a forced aligner with the same acoustic model."""

import functools
import re

import numpy as np
import pocketsphinx
from streamer_pipeline.evaluation.speech_judge import (
    DECODER_OPTIONS,
    PADDING_SECONDS,
    WIDE_BEAMS,
    SpeechJudge,
    Verdict,
    listen,
    reference_thresholds,
    to_pcm,
)

from .clock import SAMPLE_RATE
from .phonemes import PhonemeSpan

__all__ = ["SpeechJudge", "Verdict", "align_phonemes", "reference_thresholds"]


@functools.cache
def _aligner() -> pocketsphinx.Decoder:
    return pocketsphinx.Decoder(**DECODER_OPTIONS, **WIDE_BEAMS)


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
    listen(decoder, pcm)
    if decoder.hyp() is None:
        raise ValueError(f"the sound could not be aligned with {text!r}; does it really say that?")
    decoder.set_alignment()  # second pass: from words to phones
    listen(decoder, pcm)
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
