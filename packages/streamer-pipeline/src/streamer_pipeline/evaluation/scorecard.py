"""The score card: rows that say what is measured and what it should be, and columns of scores."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from .statistics import Score

Scores = dict[str, Score]  # by the key of their row
_UNITS = ("", "%", "ms", "dB", "x")


@dataclass(frozen=True)
class Aim:
    """What a value should be: at least `low`, at most `high`, where they are given.

    by_chance: instead, not clearly above what chance gives; the score card knows how much that is.
    """

    low: float | None = None
    high: float | None = None
    by_chance: bool = False

    def is_met(self, score: Score, chance: float | None = None) -> bool | None:
        """None where there is no value or nothing to hold it against."""
        if score.value is None:
            return None
        if self.by_chance:
            return None if chance is None or score.low is None else score.low <= chance
        if self.low is None and self.high is None:
            return None
        return (self.low is None or score.value >= self.low) and (self.high is None or score.value <= self.high)


@dataclass(frozen=True)
class Row:
    """One line of the score card.

    Args:
        key: "group.measure". name: for people. unit: "%" of a share (0.5 is shown as 50 %), "ms", "dB", "x" or none.
        digits: after the point, where it is shown.
    """

    key: str
    name: str
    unit: str = ""
    digits: int = 1
    aim: Aim = Aim()

    def __post_init__(self) -> None:
        if self.unit not in _UNITS:
            raise ValueError(f"the unit of row {self.key} is one of {_UNITS}; got {self.unit!r}")

    @property
    def group(self) -> str:
        return self.key.partition(".")[0]

    def show(self, value: float) -> str:
        number = f"{100 * value if self.unit == '%' else value:.{self.digits}f}"
        return f"{number} {self.unit}" if self.unit else number


def percent_row(key: str, name: str, low: float | None = None, high: float | None = None) -> Row:
    """A rate, which should be at least `low` or at most `high`."""
    return Row(key, name, "%", 1, Aim(low, high))


@dataclass
class ScoreCard:
    """All that was measured.

    Args:
        rows: what can be measured, in order; unmeasured ones are not shown.
        columns: who was measured -> row key -> score; "agent" is the checkpoint.
        chance: of right answers to questions of sight without seeing.
        by_scenario: who -> scenario -> rates. minutes: the long session. run: what was run, for the record.
        absent: row key -> why it could not be measured. notes: what a reader has to know, in sentences.
    """

    rows: tuple[Row, ...]
    columns: dict[str, Scores] = field(default_factory=dict)
    chance: float | None = None
    by_scenario: dict[str, dict[str, Scores]] = field(default_factory=dict)
    minutes: list[dict[str, Any]] = field(default_factory=list)
    run: dict[str, object] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    title: str = "score card"

    def measured_rows(self) -> list[Row]:
        """Those with any value."""
        return [row for row in self.rows if any(self.value(row.key, name) is not None for name in self.columns)]

    def score(self, key: str, column: str = "agent") -> Score:
        return self.columns.get(column, {}).get(key, Score(None))

    def value(self, key: str, column: str = "agent") -> float | None:
        return self.score(key, column).value

    def aim(self, row: Row) -> str:
        """The aim in words."""
        low, high = row.aim.low, row.aim.high
        if row.aim.by_chance:
            return "chance" if self.chance is None else f"{row.show(self.chance)} by chance"
        if low is not None and high is not None:
            return f"{row.show(low)} to {row.show(high)}"
        if low is not None:
            return f">= {row.show(low)}"
        return "" if high is None else f"<= {row.show(high)}"

    def is_met(self, row: Row, column: str = "agent") -> bool | None:
        """Whether a column's value is what it should be; None where there is no value or no aim."""
        return row.aim.is_met(self.score(row.key, column), self.chance)

    def say_why_absent(self, keys: Iterable[str], reason: str) -> None:
        """Of the rows among `keys` that have no value in any column."""
        measured = {row.key for row in self.measured_rows()}
        self.absent |= {key: reason for key in keys if key not in measured}

    def reasons(self) -> list[str]:
        """Why rows are not there: one sentence for each reason, with the names of its rows."""
        names: dict[str, list[str]] = {}
        for row in self.rows:
            if row.key in self.absent:
                names.setdefault(self.absent[row.key], []).append(row.name)
        return [f"{'; '.join(rows)}: not measured, for {reason}" for reason, rows in names.items()]
