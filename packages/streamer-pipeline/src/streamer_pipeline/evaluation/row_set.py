"""Rows that a data set brings to the score card, beside those that two tracks and words allow everywhere.

    wan-streamer eval CHECKPOINT --dataset FOLDER --rows duplex_world.scoring:WorldRows

`--rows module:name` names a callable that makes a `RowSet` of what `dataset_info.json` says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from .face import FaceMeter
from .recorded_conversation import RecordedConversation
from .scorecard import Row, Scores

if TYPE_CHECKING:
    from ..data.dyads import StoredDyad


@dataclass(frozen=True)
class Control:
    """Users that a fair agent must fail.

    change: what becomes of the dyads; it may leave some out. concerns: the dyads of which all are run; without it a few
    of every scenario are.
    """

    change: Callable[[Iterable[StoredDyad]], Iterator[StoredDyad]]
    concerns: Callable[[StoredDyad], bool] | None = None


class RowSet(Protocol):
    """What a data set knows of itself, and how it judges an agent by it.

    rows: in the order in which they are shown. face_meter: who reads the agent's face, or None.
    controls: by the name of their column.
    """

    rows: tuple[Row, ...]
    face_meter: FaceMeter | None
    controls: dict[str, Control]

    def begin(self, references: list[RecordedConversation]) -> float | None:
        """Take the recorded agents; what chance gives on rows whose aim is chance, or None."""
        ...

    def scores(self, column: str, conversations: list[RecordedConversation]) -> Scores:
        """The rows that these conversations allow; "recordings" and "ceiling" are the recorded agent."""
        ...

    def by_scenario(self, conversations: list[RecordedConversation]) -> dict[str, Scores]:
        """Scenario -> "text" and "heard", rates of right answers by words and by sound; {} without scenarios."""
        ...

    def baselines(self, references: list[RecordedConversation]) -> dict[str, list[RecordedConversation]]:
        """Agents that are made of the recorded ones, by the name of their column."""
        ...

    def across(self, columns: dict[str, Scores]) -> Scores:
        """Rows of the agent that come from other columns."""
        ...


def make_row_set(name: str, info: dict[str, Any]) -> RowSet:
    """The row set that `module:name` makes of a data set.

    Raises:
        ValueError: there is no such callable, or the data set is not what it is for.
    """
    from .recognisers import find_object

    make = find_object(name)
    try:
        row_set = make(info)
    except KeyError as error:
        raise ValueError(f"{name} is not for this data set: its dataset_info.json has no {error}") from error
    missing = [part for part in ("rows", "face_meter", "controls", "begin", "scores") if not hasattr(row_set, part)]
    if missing:
        raise ValueError(f"{name} makes no set of rows: it has no {', '.join(missing)}")
    return row_set
