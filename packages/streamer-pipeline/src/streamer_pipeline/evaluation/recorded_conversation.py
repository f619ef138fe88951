"""What an agent did in one dyad: all that the judges see."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .face import FaceMeter, FaceTracks

if TYPE_CHECKING:
    from ..data.dyads import StoredDyad


@dataclass(frozen=True, eq=False)
class RecordedConversation:
    """An agent's part of one dyad, on the wall clock of the dyad.

    key, labels: of the dyad, what is known of it. wave: (num_units * 3840,) float32 at 24 kHz.
    texts: the words of each unit. face: tracks of the agent's face, or None if nobody looked.
    heard: the user's words as they were made out, piece by piece, or None where nobody wrote them down.
    """

    key: str
    labels: dict[str, Any]
    wave: np.ndarray
    texts: list[str]
    face: FaceTracks | None = None
    heard: list[str] | None = None

    def said(self, first_unit: int, end_unit: int) -> str:
        """The words of units [first_unit, end_unit), with single spaces."""
        return " ".join("".join(self.texts[max(0, first_unit) : end_unit]).split())


def reference(dyad: StoredDyad, meter: FaceMeter | None = None) -> RecordedConversation:
    """The recorded agent itself: what a perfect agent would have done.

    Raises:
        ValueError: the dyad's labels are not as `StoredDyad` has them.
    """
    _check_labels(dyad)
    texts = ["".join(f" {word}" for word in words) for words in dyad.labels["agent"]["words"]]
    face = None if meter is None or dyad.agent_video is None else meter(dyad.agent_video)
    return RecordedConversation(dyad.key, dyad.labels, dyad.agent_audio[0].numpy(), texts, face)


def _check_labels(dyad: StoredDyad) -> None:
    sides = {name: dyad.labels.get(name, {}) for name in ("user", "agent")}
    if odd := [name for name, side in sides.items() if not isinstance(side, dict)]:
        raise ValueError(f"dyad {dyad.key}: the labels of the {odd[0]} should be an object")
    words = sides["agent"].get("words")
    if not isinstance(words, list) or len(words) != dyad.num_units or not all(isinstance(w, list) for w in words):
        raise ValueError(
            f"dyad {dyad.key}: the agent's label words should be a list of words for each of its {dyad.num_units} units"
        )
    for name, side in sides.items():
        transcript = side.get("transcript") or []
        if not isinstance(transcript, list) or not all(map(_is_timed_word, transcript)):
            raise ValueError(f"dyad {dyad.key}: the {name}'s transcript should be [[word, start, end], ...] in seconds")


def _is_timed_word(word: Any) -> bool:
    if not isinstance(word, list) or len(word) != 3 or not all(isinstance(time, int | float) for time in word[1:]):
        return False
    return isinstance(word[0], str) and 0 <= word[1] <= word[2] < math.inf


def silent(conversation: RecordedConversation) -> RecordedConversation:
    """An agent that never says anything."""
    nothing = np.zeros_like(conversation.wave)
    return RecordedConversation(conversation.key, conversation.labels, nothing, [""] * len(conversation.texts))
