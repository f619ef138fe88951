"""How the agent sounds: whether its sound says its text, and how loud it is."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache

import numpy as np

from ..clock import SAMPLE_RATE
from .recognisers import Recogniser
from .recorded_conversation import RecordedConversation
from .scorecard import Scores
from .sound import active_pieces, decibels, levels
from .statistics import Score, mean, ratio


def level_scores(conversations: list[RecordedConversation]) -> Scores:
    """The level of what sounds, in dBFS."""
    return {"speech.level": mean([level for c in conversations if (level := sounding_level(c.wave)) is not None])}


def sounding_level(wave: np.ndarray) -> float | None:
    """RMS of the audible pieces of `(N,)`, in dBFS; None if there are none."""
    loud = levels(wave)[active_pieces(wave)]
    return decibels(float(np.sqrt(np.mean(np.square(loud))))) if len(loud) else None


def word_error_rate(conversations: list[RecordedConversation], recognise: Recogniser) -> Score:
    """Wrong, missing and added words of what is heard, as a share of the words of the agent's text.

    The interval is a bootstrap over conversations; n is the number of words. `plain_words` is taken of both first.
    """
    import jiwer

    errors, words = [], []
    for conversation in conversations:
        text = plain_words(conversation.said(0, len(conversation.texts)))
        sound = conversation.wave if active_pieces(conversation.wave).any() else None
        heard = "" if sound is None else plain_words(recognise(sound, SAMPLE_RATE))
        compared = jiwer.process_words([text], [heard])
        errors.append(compared.substitutions + compared.deletions + compared.insertions)
        words.append(len(text.split()))
    return ratio(errors, words)


def plain_words(text: str) -> str:
    """English words without case and punctuation, numbers and short forms spelled in one way: Whisper's normalizer.

    Word by word, for it takes "one two three" for one number.
    """
    return " ".join(filter(None, map(_normalizer(), re.sub(r"[^\w']+", " ", text).split())))


@cache
def _normalizer() -> Callable[[str], str]:
    from transformers.models.whisper.english_normalizer import EnglishTextNormalizer

    return EnglishTextNormalizer({})
