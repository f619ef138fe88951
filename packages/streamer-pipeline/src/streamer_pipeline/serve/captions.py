"""The user's words, as the agent makes them out, in turns."""

from __future__ import annotations

from ..units import AgentUnit

_PAUSE_UNITS = 8


class Captions:
    """Joins what was heard in each unit. A turn ends when the agent begins to speak, or after 8 units without words."""

    def __init__(self) -> None:
        self.words = ""  # of the turn that goes on
        self.num_units = 0  # since its first word
        self._num_silent = 0
        self._was_speaking = False

    def take(self, unit: AgentUnit) -> str | None:
        """Take in a unit; the words of the turn that it ends, or None."""
        is_speaking = unit.state == "speak"
        begins, self._was_speaking = is_speaking and not self._was_speaking, is_speaking
        self.words += unit.heard
        self._num_silent = 0 if unit.heard else self._num_silent + 1
        self.num_units = self.num_units + 1 if self.words else 0
        if not self.words or not (begins or self._num_silent >= _PAUSE_UNITS):
            return None
        finished, self.words = self.words.strip(), ""
        return finished
