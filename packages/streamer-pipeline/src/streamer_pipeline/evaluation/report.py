"""A score card on paper: a table for the terminal, JSON for machines, Markdown, one HTML page with plots for people."""

from __future__ import annotations

import base64
import html
import io
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from .plots import plots
from .scorecard import Aim, Row, ScoreCard, Scores
from .statistics import Score

_MARKS = {True: "yes", False: "NO", None: ""}
_FIRST = ("agent", "teacher", "recordings", "ceiling")  # beside the aims; all others are baselines and controls
_PAPER_WIDTH = 170  # columns of a table that goes to a file
_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; max-width: 1200px; margin: 2em auto; padding: 0 1em; color: #222 }
table { border-collapse: collapse; margin: 1em 0; font-variant-numeric: tabular-nums } h2 { margin-top: 2em }
th, td { padding: .25em .7em; border-bottom: 1px solid #ddd; text-align: right } th:first-child, td:first-child
{ text-align: left } .yes { color: #087f23 } .no { color: #b00020; font-weight: 600 } .ci { color: #777 }
img { max-width: 100% }
"""


def _columns(card: ScoreCard) -> tuple[list[str], list[str]]:
    """The names of columns with aims, and of the others."""
    return [name for name in _FIRST if name in card.columns], [name for name in card.columns if name not in _FIRST]


def _value(card: ScoreCard, row: Row, column: str) -> str:
    value = card.value(row.key, column)
    return "" if value is None else row.show(value)


def _interval(card: ScoreCard, row: Row, column: str) -> str:
    score = card.score(row.key, column)
    if score.value is None:
        return ""
    bounds = "" if score.low is None or score.high is None else f"{row.show(score.low)} .. {row.show(score.high)}, "
    return f"{bounds}n = {score.n}"


def tables(card: ScoreCard) -> list[Table]:
    """For the terminal: values with their intervals and aims; baselines and controls, if there are any."""
    first, others = _columns(card)
    main = Table("measure", "agent", "95 %, n", "aim", "met", *first[1:], title=card.title, title_justify="left")
    controls = Table("measure", "agent", *others, title="baselines and controls", title_justify="left")
    group = ""
    for row in card.measured_rows():
        if group and row.group != group:
            main.add_section()
        group = row.group
        met = _MARKS[card.is_met(row)]
        values = [_value(card, row, name) for name in first]
        main.add_row(row.name, values[0], _interval(card, row, "agent"), card.aim(row), met, *values[1:])
        compared = [_value(card, row, name) for name in others]
        if any(compared):
            controls.add_row(row.name, values[0], *compared)
    return [table for table in (main, controls) if table.row_count]


def print_results(card: ScoreCard, console: Console) -> None:
    """The tables; below them what has to be known, and what is missing."""
    console.print(*tables(card), width=None if console.is_terminal else _PAPER_WIDTH)
    for text in [*card.notes, *card.reasons()]:
        console.print(f"- {text}", markup=False, highlight=False, soft_wrap=True)


def write_results(card: ScoreCard, folder: Path) -> None:
    """score.json, score.md and score.html; the folder is made."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(card, folder / "score.json")
    write_markdown(card, folder / "score.md")
    write_html(card, folder / "score.html")


def write_json(card: ScoreCard, path: Path) -> None:
    """Every score of every column with interval and n, the aims, what was run, and why rows are not there."""
    measured = card.measured_rows()
    rows = {
        row.key: {
            "name": row.name,
            "unit": row.unit,
            "digits": row.digits,
            "aim": card.aim(row),
            "aim_range": [row.aim.low, row.aim.high],
            "by_chance": row.aim.by_chance,
            "met": card.is_met(row),
            **{name: asdict(scores[row.key]) for name, scores in card.columns.items() if row.key in scores},
        }
        for row in card.rows
        if row in measured or row.key in card.absent
    }
    scenarios = {
        column: {name: {kind: asdict(score) for kind, score in rates.items()} for name, rates in by_name.items()}
        for column, by_name in card.by_scenario.items()
    }
    record = {
        "title": card.title,
        "run": card.run,
        "notes": card.notes,
        "chance": card.chance,
        "rows": rows,
        "absent": card.absent,
        "by_scenario": scenarios,
        "minutes": card.minutes,
    }
    path.write_text(json.dumps(record, indent=1, allow_nan=False), encoding="utf-8")


def read_json(path: Path) -> ScoreCard:
    """The score card that `write_json` wrote.

    Raises:
        ValueError: the file holds something else. FileNotFoundError: there is none.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        columns: dict[str, Scores] = {}
        for key, row in record["rows"].items():
            for name, score in row.items():
                if isinstance(score, dict):
                    columns.setdefault(name, {})[key] = Score(**score)
        scenarios = {
            column: {name: {kind: Score(**score) for kind, score in rates.items()} for name, rates in by_name.items()}
            for column, by_name in record["by_scenario"].items()
        }
        return ScoreCard(
            rows=tuple(_read_row(key, row) for key, row in record["rows"].items()),
            columns=columns,
            chance=record["chance"],
            by_scenario=scenarios,
            minutes=record["minutes"],
            run=record["run"],
            absent=record["absent"],
            notes=record["notes"],
            title=record["title"],
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} is not a score card as `wan-streamer eval --out` of this version writes it: {error!r}"
        ) from error


def _read_row(key: str, row: dict[str, Any]) -> Row:
    low, high = row["aim_range"]
    return Row(key, row["name"], row["unit"], row["digits"], Aim(low, high, row["by_chance"]))


def write_markdown(card: ScoreCard, path: Path) -> None:
    """The main table, as a README or a model card takes it; below it what has to be known, and what is missing."""
    names = {"teacher": "its teacher", "ceiling": "through the VAEs"}
    columns = _columns(card)[0][1:]
    lines = [["measure", "agent (95 % interval)", "aim", *(names.get(name, name) for name in columns)]]
    lines.append(["---"] * len(lines[0]))
    for row in card.measured_rows():
        value, interval = _value(card, row, "agent"), _interval(card, row, "agent")
        measured = f"{value} ({interval})" if interval else value
        lines.append([row.name, measured, card.aim(row), *(_value(card, row, name) for name in columns)])
    table = "".join(f"| {' | '.join(cells)} |\n" for cells in lines)
    path.write_text(table + "".join(f"\n- {text}" for text in [*card.notes, *card.reasons()]) + "\n", encoding="utf-8")


def write_html(card: ScoreCard, path: Path) -> None:
    """One page that needs nothing else: tables, what has to be known, and plots as embedded pictures."""
    first, others = _columns(card)
    run = ", ".join(f"{name} {value}" for name, value in card.run.items() if value is not None)
    pictures = "".join(
        f'<img alt="{title}" src="data:image/png;base64,{_png(figure)}">' for title, figure in plots(card)
    )
    notes = "".join(f"<li>{html.escape(text)}</li>" for text in [*card.notes, *card.reasons()])
    controls = f"<h2>Baselines and controls</h2>{_baseline_table(card, others)}" if others else ""
    title = html.escape(card.title.capitalize())
    page = f"""<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style>
<h1>{title}</h1><p>{html.escape(run)}</p>
<p>Closed loop: the agent answers for itself, unit by unit. Intervals are 95 %: Wilson for rates, Poisson for events,
bootstrap for means and quantiles.</p>
{_main_table(card, first)}<ul>{notes}</ul>{pictures}{controls}</html>"""
    path.write_text(page, encoding="utf-8")


def _html_table(header: list[str], rows: list[list[str]]) -> str:
    head = "".join(f"<th>{html.escape(name)}</th>" for name in header)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"


def _main_table(card: ScoreCard, columns: list[str]) -> str:
    rows = []
    for row in card.measured_rows():
        mark = _MARKS[card.is_met(row)]
        cells = [html.escape(_value(card, row, name)) for name in columns]
        interval = f'<span class="ci">{html.escape(_interval(card, row, "agent"))}</span>'
        met = f'<span class="{mark.lower()}">{mark}</span>'
        rows.append([html.escape(row.name), cells[0], interval, html.escape(card.aim(row)), met, *cells[1:]])
    return _html_table(["measure", "agent", "95 %, n", "aim", "met", *columns[1:]], rows)


def _baseline_table(card: ScoreCard, columns: list[str]) -> str:
    rows = [
        [html.escape(row.name), *(html.escape(_value(card, row, name)) for name in ["agent", *columns])]
        for row in card.measured_rows()
        if any(card.value(row.key, name) is not None for name in columns)
    ]
    return _html_table(["measure", "agent", *columns], rows)


def _png(figure: Figure) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return base64.b64encode(buffer.getvalue()).decode()
