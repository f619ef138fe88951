"""What an agent did in one dyad: all that the judges see."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..units import SAMPLES_PER_UNIT
from .face import FaceMeter, FaceTracks

if TYPE_CHECKING:
    from ..data.dyads import StoredDyad


@dataclass(frozen=True, eq=False)
class RecordedConversation:
    """An agent's part of one dyad, on the wall clock of the dyad.

    key, labels: of the dyad: what the user did and what was owed. wave: (num_units * 3840,) float32 at 24 kHz.
    texts: the words of each unit. face: tracks of the agent's face, or None if nobody looked.
    """

    key: str
    labels: dict
    wave: np.ndarray
    texts: list[str]
    face: FaceTracks | None = None

    def said(self, first_unit: int, end_unit: int) -> str:
        """The words of units [first_unit, end_unit), with single spaces."""
        return " ".join("".join(self.texts[max(0, first_unit) : end_unit]).split())


def reference(dyad: StoredDyad, meter: FaceMeter | None = None) -> RecordedConversation:
    """The recorded agent itself: what a perfect agent would have done."""
    texts = ["".join(f" {word}" for word in words) for words in dyad.labels["agent"]["words"]]
    face = None if meter is None else meter(dyad.agent_video)
    return RecordedConversation(dyad.key, dyad.labels, dyad.agent_audio[0].numpy(), texts, face)


def silent(conversation: RecordedConversation) -> RecordedConversation:
    """An agent that never says anything."""
    nothing = np.zeros_like(conversation.wave)
    return RecordedConversation(conversation.key, conversation.labels, nothing, [""] * len(conversation.texts))


def copy_previous(conversations: list[RecordedConversation]) -> list[RecordedConversation]:
    """An agent that answers in time, but what was right in the dyad before (of the same scenario, where there is one).

    What it gets right by this is what can be had without perceiving the user.
    """
    latest: dict[str, RecordedConversation] = {}
    copies = []
    for conversation in conversations:
        scenario = conversation.labels["scenario"]
        if scenario in latest:
            copies.append(_with_speech_of(conversation, latest[scenario]))
        latest[scenario] = conversation
    return copies


def _with_speech_of(conversation: RecordedConversation, other: RecordedConversation) -> RecordedConversation:
    """`other`'s utterances at the times of `conversation`'s; the last utterances correspond."""
    wave, texts = np.zeros_like(conversation.wave), [""] * len(conversation.texts)
    segments = conversation.labels["agent"]["segments"], other.labels["agent"]["segments"]
    for mine, theirs in zip(*(reversed(segment) for segment in segments), strict=False):
        first, source = mine["first_unit"], slice(theirs["first_unit"], theirs["end_unit"])
        spoken = other.wave[source.start * SAMPLES_PER_UNIT : source.stop * SAMPLES_PER_UNIT]
        room = wave[first * SAMPLES_PER_UNIT :][: len(spoken)]
        room += spoken[: len(room)]
        words = other.texts[source][: len(texts) - first]
        texts[first : first + len(words)] = words
    return RecordedConversation(conversation.key, conversation.labels, wave, texts)
