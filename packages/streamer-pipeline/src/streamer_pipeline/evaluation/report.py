"""A card on paper: a table for the terminal, JSON for machines, Markdown for a README, HTML with plots for people."""

from __future__ import annotations

import base64
import html
import io
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.table import Table

from .scorecard import Card, Row, Scores
from .statistics import Score

_MARKS = {True: "yes", False: "NO", None: ""}
_FIRST = ("agent", "teacher", "recordings", "ceiling")  # beside the aims; all others are baselines and controls
_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; max-width: 1200px; margin: 2em auto; padding: 0 1em; color: #222 }
table { border-collapse: collapse; margin: 1em 0; font-variant-numeric: tabular-nums } h2 { margin-top: 2em }
th, td { padding: .25em .7em; border-bottom: 1px solid #ddd; text-align: right } th:first-child, td:first-child
{ text-align: left } .yes { color: #087f23 } .no { color: #b00020; font-weight: 600 } .ci { color: #777 }
img { max-width: 100% }
"""


def _columns(card: Card) -> tuple[list[str], list[str]]:
    """The names of columns with aims, and of the others."""
    return [name for name in _FIRST if name in card.columns], [name for name in card.columns if name not in _FIRST]


def _value(card: Card, row: Row, column: str) -> str:
    value = card.value(row.key, column)
    return "" if value is None else row.show(value)


def _interval(card: Card, row: Row, column: str) -> str:
    score = card.columns[column].get(row.key, Score(None))
    if score.value is None:
        return ""
    bounds = "" if score.low is None else f"{row.show(score.low)} .. {row.show(score.high)}, "
    return f"{bounds}n = {score.n}"


def tables(card: Card) -> list[Table]:
    """For the terminal: values with their intervals and aims, then baselines and controls."""
    first, others = _columns(card)
    main = Table("measure", "agent", "95 %, n", "aim", "met", *first[1:], title="score card", title_justify="left")
    controls = Table("measure", "agent", *others, title="baselines and controls", title_justify="left")
    group = ""
    for row in card.rows():
        if group and row.group != group:
            main.add_section()
        group = row.group
        met = _MARKS[card.is_met(row)]
        values = [_value(card, row, name) for name in first]
        main.add_row(row.name, values[0], _interval(card, row, "agent"), card.aim(row), met, *values[1:])
        compared = [_value(card, row, name) for name in others]
        if any(compared):
            controls.add_row(row.name, values[0], *compared)
    return [main, controls]


def write_json(card: Card, path: Path) -> None:
    """Every score of every column with interval and n, the aims, and what was run."""
    rows = {
        row.key: {
            "name": row.name,
            "aim": card.aim(row),
            "met": card.is_met(row),
            **{name: asdict(scores[row.key]) for name, scores in card.columns.items() if row.key in scores},
        }
        for row in card.rows()
    }
    scenarios = {
        column: {name: {kind: asdict(score) for kind, score in rates.items()} for name, rates in by_name.items()}
        for column, by_name in card.by_scenario.items()
    }
    record = {"run": card.run, "chance": card.chance, "rows": rows, "by_scenario": scenarios, "minutes": card.minutes}
    path.write_text(json.dumps(record, indent=1, allow_nan=False), encoding="utf-8")


def read_json(path: Path) -> Card:
    """The card that `write_json` wrote.

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
        return Card(columns, record["chance"], scenarios, record["minutes"], record["run"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is not a score card as `wan-streamer eval --out` writes it: {error!r}") from error


def write_markdown(card: Card, path: Path) -> None:
    """The main table, as a README or a model card takes it."""
    names = {"teacher": "its teacher", "ceiling": "through the VAEs"}
    columns = _columns(card)[0][1:]
    lines = [["measure", "agent (95 % interval)", "aim", *(names.get(name, name) for name in columns)]]
    lines.append(["---"] * len(lines[0]))
    for row in card.rows():
        value, interval = _value(card, row, "agent"), _interval(card, row, "agent")
        measured = f"{value} ({interval})" if " .. " in interval else value
        lines.append([row.name, measured, card.aim(row), *(_value(card, row, name) for name in columns)])
    path.write_text("".join(f"| {' | '.join(cells)} |\n" for cells in lines), encoding="utf-8")


def write_html(card: Card, path: Path) -> None:
    """One page that needs nothing else: tables, and plots as embedded pictures."""
    first, others = _columns(card)
    run = ", ".join(f"{name} {value}" for name, value in card.run.items() if value is not None)
    plots = [plot(card) for plot in _PLOTS]
    pictures = "".join(f'<img alt="{title}" src="data:image/png;base64,{_png(figure)}">' for title, figure in plots)
    page = f"""<!doctype html><html lang="en"><meta charset="utf-8"><title>Score card</title><style>{_STYLE}</style>
<h1>Score card</h1><p>{html.escape(run)}</p>
<p>Closed loop, on synthetic dyads. Intervals are 95 %: Wilson for rates, Poisson for events, bootstrap for means and
quantiles. The judges hear and see the agent only; &ldquo;ceiling&rdquo; is the recorded agent through the VAEs.</p>
{_main_table(card, first)}{pictures}<h2>Baselines and controls</h2>{_baseline_table(card, others)}</html>"""
    path.write_text(page, encoding="utf-8")


def _html_table(header: list[str], rows: list[list[str]]) -> str:
    head = "".join(f"<th>{html.escape(name)}</th>" for name in header)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"


def _main_table(card: Card, columns: list[str]) -> str:
    rows = []
    for row in card.rows():
        mark = _MARKS[card.is_met(row)]
        cells = [html.escape(_value(card, row, name)) for name in columns]
        interval = f'<span class="ci">{html.escape(_interval(card, row, "agent"))}</span>'
        met = f'<span class="{mark.lower()}">{mark}</span>'
        rows.append([html.escape(row.name), cells[0], interval, html.escape(card.aim(row)), met, *cells[1:]])
    return _html_table(["measure", "agent", "95 %, n", "aim", "met", *columns[1:]], rows)


def _baseline_table(card: Card, columns: list[str]) -> str:
    rows = [
        [html.escape(row.name), *(html.escape(_value(card, row, name)) for name in ["agent", *columns])]
        for row in card.rows()
        if any(card.value(row.key, name) is not None for name in columns)
    ]
    return _html_table(["measure", "agent", *columns], rows)


def _figure(height: float) -> Figure:
    figure = Figure(figsize=(11, height), layout="constrained")
    FigureCanvasAgg(figure)  # no global state
    return figure


def _plot_rates(card: Card) -> tuple[str, Figure]:
    """Every rate of the agent with its interval, beside recordings and ceiling."""
    rows = [row for row in card.rows() if row.show(1.0) == "100.0 %" and card.value(row.key) is not None]
    rows = [row for row in rows if row.group != "endurance"][::-1]
    figure = _figure(1 + 0.3 * len(rows))
    axis = figure.subplots()
    for y, row in enumerate(rows):
        score = card.columns["agent"][row.key]
        axis.plot([score.low, score.high], [y, y], color="tab:blue", linewidth=3, alpha=0.4)
    for column, marker in {"agent": "o", "recordings": "|", "ceiling": "x", "copy previous": "."}.items():
        points = [(card.value(row.key, column), y) for y, row in enumerate(rows)]
        points = [point for point in points if point[0] is not None]
        if points:
            axis.plot(*zip(*points, strict=True), marker, label=column, markersize=8)
    axis.set_yticks(range(len(rows)), [row.name for row in rows])
    axis.set(xlim=(-0.02, 1.02), title="rates, with 95 % intervals of the agent")
    axis.grid(axis="x", alpha=0.3)
    axis.legend(loc="upper left", bbox_to_anchor=(1, 1))
    return "rates", figure


def _plot_scenarios(card: Card) -> tuple[str, Figure]:
    """Right answers by scenario: agent by text and sound, recordings by sound."""
    figure = _figure(3.5)
    axis = figure.subplots()
    names = list(card.by_scenario["recordings"])
    bars = {
        "agent, words": ("agent", "text"),
        "agent, heard": ("agent", "heard"),
        "recordings, heard": ("recordings", "heard"),
    }
    for index, (label, (column, kind)) in enumerate(bars.items()):
        rates = [card.by_scenario.get(column, {}).get(name, {}).get(kind, Score(None)).value or 0 for name in names]
        axis.bar([x + 0.27 * (index - 1) for x in range(len(names))], rates, 0.25, label=label)
    axis.set_xticks(range(len(names)), names, rotation=40, ha="right")
    axis.set(ylim=(0, 1.02), title="right answers by scenario")
    axis.legend(loc="upper left", bbox_to_anchor=(1, 1))
    return "scenarios", figure


def _plot_minutes(card: Card) -> tuple[str, Figure]:
    """The long session, minute by minute."""
    figure = _figure(3)
    level, latents, face = figure.subplots(1, 3)
    time = range(1, len(card.minutes) + 1)
    level.plot(time, [m["level_db"] if m["level_db"] is not None else float("nan") for m in card.minutes], "o-")
    for name in card.minutes[0]["latent_std"] if card.minutes else ():
        latents.plot(time, [m["latent_std"][name] for m in card.minutes], "o-", label=f"{name}, std")
        latents.plot(time, [m["latent_mean"][name] for m in card.minutes], "o--", label=f"{name}, mean")
    face.plot(time, [m["face_distance"] or float("nan") for m in card.minutes], "o-")
    level.set(xlabel="minute", title="level of speech (dBFS)")
    latents.set(xlabel="minute", title="latents")
    face.set(xlabel="minute", ylim=(0, None), title="distance of the silent face")
    if card.minutes:
        latents.legend(fontsize="small")
    return "long session", figure


_PLOTS: tuple[Callable[[Card], tuple[str, Figure]], ...] = (_plot_rates, _plot_scenarios, _plot_minutes)


def _png(figure: Figure) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return base64.b64encode(buffer.getvalue()).decode()
