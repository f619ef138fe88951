"""The plots of a score card."""

from __future__ import annotations

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from .scorecard import Row, ScoreCard
from .statistics import Score

_MARKERS = {"agent": "o", "recordings": "|", "ceiling": "x", "copy previous": ".", "silent": "."}


def plots(card: ScoreCard) -> list[tuple[str, Figure]]:
    """(title, figure) of all that this score card has something to draw for."""
    drawn = []
    if _shown(card, "%"):
        drawn.append(_plot_rates(card))
    if _shown(card, "ms"):
        drawn.append(_plot_latencies(card))
    if card.by_scenario:
        drawn.append(_plot_scenarios(card))
    if card.minutes:
        drawn.append(_plot_minutes(card))
    return drawn


def _shown(card: ScoreCard, unit: str) -> list[Row]:
    """The rows of a unit of which the agent has a value."""
    return [row for row in card.measured_rows() if row.unit == unit and card.value(row.key) is not None]


def _figure(height: float) -> Figure:
    figure = Figure(figsize=(11, height), layout="constrained")
    FigureCanvasAgg(figure)  # no global state
    return figure


def _plot_rates(card: ScoreCard) -> tuple[str, Figure]:
    figure = _plot_rows(card, [row for row in _shown(card, "%") if row.group != "endurance"], "rates")
    figure.axes[0].set(xlim=(-0.02, 1.02))
    return "rates", figure


def _plot_latencies(card: ScoreCard) -> tuple[str, Figure]:
    figure = _plot_rows(card, _shown(card, "ms"), "latencies")
    figure.axes[0].set(xlabel="ms")
    return "latencies", figure


def _plot_rows(card: ScoreCard, rows: list[Row], what: str) -> Figure:
    """A line for each row: the agent with its interval, beside recordings, ceiling and baselines."""
    rows = rows[::-1]
    figure = _figure(1 + 0.3 * len(rows))
    axis = figure.subplots()
    for y, row in enumerate(rows):
        score = card.score(row.key)
        if score.low is not None and score.high is not None:
            axis.plot([score.low, score.high], [y, y], color="tab:blue", linewidth=3, alpha=0.4)
    for column, marker in _MARKERS.items():
        points = [(card.value(row.key, column), y) for y, row in enumerate(rows)]
        points = [point for point in points if point[0] is not None]
        if points:
            axis.plot(*zip(*points, strict=True), marker, label=column, markersize=8)
    axis.set_yticks(range(len(rows)), [row.name for row in rows])
    axis.set(title=f"{what}, with 95 % intervals of the agent")
    axis.grid(axis="x", alpha=0.3)
    axis.legend(loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def _plot_scenarios(card: ScoreCard) -> tuple[str, Figure]:
    """Right answers by scenario: agent by text and sound, recordings by sound."""
    figure = _figure(3.5)
    axis = figure.subplots()
    names = list(dict.fromkeys(name for by_name in card.by_scenario.values() for name in by_name))
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


def _plot_minutes(card: ScoreCard) -> tuple[str, Figure]:
    """The long session, minute by minute."""
    figure = _figure(3)
    level, latents, face = figure.subplots(1, 3)
    time = range(1, len(card.minutes) + 1)
    level.plot(time, [m["level_db"] if m["level_db"] is not None else float("nan") for m in card.minutes], "o-")
    for name in card.minutes[0]["latent_std"]:
        latents.plot(time, [m["latent_std"][name] for m in card.minutes], "o-", label=f"{name}, std")
        latents.plot(time, [m["latent_mean"][name] for m in card.minutes], "o--", label=f"{name}, mean")
    face.plot(time, [m["face_distance"] or float("nan") for m in card.minutes], "o-")
    level.set(xlabel="minute", title="level of speech (dBFS)")
    latents.set(xlabel="minute", title="latents")
    face.set(xlabel="minute", ylim=(0, None), title="distance of the silent face")
    if card.minutes:
        latents.legend(fontsize="small")
    return "long session", figure
