"""What an agent did in one dyad: all that the judges see."""

from __future__ import annotations

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
    """The recorded agent itself: what a perfect agent would have done."""
    texts = ["".join(f" {word}" for word in words) for words in dyad.labels["agent"]["words"]]
    face = None if meter is None or dyad.agent_video is None else meter(dyad.agent_video)
    return RecordedConversation(dyad.key, dyad.labels, dyad.agent_audio[0].numpy(), texts, face)


def silent(conversation: RecordedConversation) -> RecordedConversation:
    """An agent that never says anything."""
    nothing = np.zeros_like(conversation.wave)
    return RecordedConversation(conversation.key, conversation.labels, nothing, [""] * len(conversation.texts))
