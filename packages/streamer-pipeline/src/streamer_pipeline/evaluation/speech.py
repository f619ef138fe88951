"""How the agent sounds: whether its sound says its text, and how loud it is."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
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
    return _error_rate((c.said(0, len(c.texts)), understood(c.wave, recognise)) for c in conversations)


def understood(wave: np.ndarray, recognise: Recogniser) -> str:
    """What a recogniser makes of `(N,)`; nothing of silence, in which it would invent words."""
    return recognise(wave, SAMPLE_RATE) if active_pieces(wave).any() else ""


def hearing_scores(conversations: list[RecordedConversation]) -> Scores:
    """Word error rate of the user's words, of conversations in which both are known: what was said and what was made
    out."""
    known = [(said_by_user(c), "".join(c.heard)) for c in conversations if c.heard is not None]
    return {"hearing.wer": _error_rate((said, heard) for said, heard in known if said is not None)} if known else {}


def said_by_user(conversation: RecordedConversation) -> str | None:
    """All words of the user in a row, or None where nobody wrote them down."""
    transcript = (conversation.labels.get("user") or {}).get("transcript")
    return None if transcript is None else " ".join(word for word, *_ in transcript)


def _error_rate(pairs: Iterable[tuple[str, str]]) -> Score:
    """Of pairs of texts, what should be there and what is."""
    import jiwer

    errors, words = [], []
    for pair in pairs:
        expected, found = map(plain_words, pair)
        compared = jiwer.process_words([expected], [found])
        errors.append(compared.substitutions + compared.deletions + compared.insertions)
        words.append(len(expected.split()))
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
