"""Score cards side by side: what a replaced part did to every measure."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.table import Table

from .report import read_json
from .scorecard import Row, ScoreCard
from .statistics import Score

Cards = dict[str, ScoreCard]  # by the name of their column
_PANELS_PER_LINE = 4


def read_cards(paths: list[Path]) -> Cards:
    """Cards that `wan-streamer eval --out` wrote, named by their files; equal file names give way to their folders'.

    Raises:
        ValueError: fewer than two, or one that is not a score card. FileNotFoundError: there is none.
    """
    if len(paths) < 2:
        raise ValueError(f"a comparison needs at least two score cards; got {len(paths)}")
    for name_of in (lambda path: path.stem, lambda path: path.resolve().parent.name, str):
        names = [name_of(path) for path in paths]
        if max(Counter(names).values()) == 1:
            return {name: read_json(path) for name, path in zip(names, paths, strict=True)}
    raise ValueError("the same score card is given twice")


def compared_rows(cards: Cards) -> list[Row]:
    """Those of which any card has a value."""
    known = {row.key: row for card in reversed(cards.values()) for row in card.rows}
    order = dict.fromkeys(row.key for card in cards.values() for row in card.rows)
    rows = [known[key] for key in order]
    return [row for row in rows if any(measured(card, row).value is not None for card in cards.values())]


def measured(card: ScoreCard, row: Row) -> Score:
    """The agent's score; of what only recordings are asked, as the VAEs' fidelity, the score of those through them."""
    scores = (card.score(row.key, column) for column in ("agent", "ceiling"))
    return next((score for score in scores if score.value is not None), Score(None))


def comparison_table(cards: Cards) -> Table:
    """For the terminal: one line per measure, one column per card."""
    table = Table("measure", "aim", *cards, title="score cards, side by side", title_justify="left")
    for row in compared_rows(cards):
        scores = [measured(card, row) for card in cards.values()]
        cells = [f"{_value(row, score)}\n[dim]{_interval(row, score)}[/dim]" for score in scores]
        table.add_row(row.name, _aim(cards, row), *cells)
    return table


def write_comparison(cards: Cards, folder: Path) -> list[Path]:
    """`comparison.md`, the table, and `comparison.png`, a panel per measure in which the cards differ."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / "comparison.md", folder / "comparison.png"]
    lines = [["measure", "aim", *cards], ["---"] * (2 + len(cards))]
    for row in compared_rows(cards):
        scores = [measured(card, row) for card in cards.values()]
        cells = [f"{_value(row, score)} ({_interval(row, score)})" if score.n else "" for score in scores]
        lines.append([row.name, _aim(cards, row), *cells])
    paths[0].write_text("\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n", encoding="utf-8")
    plot_comparison(cards).savefig(paths[1], dpi=110)
    return paths


def plot_comparison(cards: Cards) -> Figure:
    """Small multiples: values with their 95 % intervals, of all measures if the cards differ in none."""
    rows = compared_rows(cards)
    rows = [row for row in rows if len({measured(card, row).value for card in cards.values()}) > 1] or rows
    num_lines = max(1, math.ceil(len(rows) / _PANELS_PER_LINE))
    figure = Figure(figsize=(14, num_lines * (0.9 + 0.22 * len(cards))), layout="constrained")
    FigureCanvasAgg(figure)  # no global state
    panels = figure.subplots(num_lines, _PANELS_PER_LINE, sharey=True, squeeze=False).flat
    for panel, row in zip(panels, rows, strict=False):
        for y, card in enumerate(cards.values()):
            _draw(panel, y, measured(card, row))
        panel.set_title(row.name, fontsize="small")
        panel.grid(axis="x", alpha=0.3)
        panel.tick_params(labelsize="small")
    for panel in list(panels)[len(rows) :]:
        panel.set_axis_off()
    figure.axes[0].set_yticks(range(len(cards)), list(cards))
    figure.axes[0].set_ylim(len(cards) - 0.5, -0.5)  # the first card on top
    return figure


def _draw(panel: Axes, y: int, score: Score) -> None:
    if score.value is None:
        return
    if score.low is not None and score.high is not None:
        panel.plot([score.low, score.high], [y, y], color=f"C{y}", linewidth=4, alpha=0.35)
    panel.plot(score.value, y, "o", color=f"C{y}")


def _aim(cards: Cards, row: Row) -> str:
    """Of measures whose aim is chance, what chance is where a card knows it."""
    aims = [card.aim(row) for card in cards.values()]
    return next((aim for aim in aims if aim != "chance"), "chance")


def _value(row: Row, score: Score) -> str:
    return "" if score.value is None else row.show(score.value)


def _interval(row: Row, score: Score) -> str:
    if score.value is None:
        return ""
    bounds = "" if score.low is None or score.high is None else f"{row.show(score.low)} to {row.show(score.high)}, "
    return f"{bounds}n = {score.n}"
