"""Pictures of bench.json."""

from __future__ import annotations

from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure


def draw(book: dict, folder: Path) -> None:
    """Write aims.png: every row that has an aim, as measured / aim; and core_pass.png, stages.png where measured."""
    _draw_aims(book, folder / "aims.png")
    if "core_pass" in book:
        _draw_core_pass(book["core_pass"]["rows"], folder / "core_pass.png")
    if "stages" in book:
        _draw_stages(book["stages"]["rows"], folder / "stages.png")


def _draw_aims(book: dict, path: Path) -> None:
    """How many times better than its aim each number is: 1 reaches it exactly."""
    names, heights, colors = [], [], []
    for entry in book.values():
        for row in entry["rows"]:
            relation, _, limit = row["aim"].partition(" ")
            if not limit or not float(limit) or not row["value"]:
                continue  # counts that should be zero have no ratio
            better = row["value"] / float(limit) if relation == ">=" else float(limit) / row["value"]
            names.append(row["name"])
            heights.append(better)
            colors.append("tab:green" if row["reached"] else "tab:red")
    figure = Figure(figsize=(11, 1 + 0.3 * len(names)), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    axis.barh(names, heights, color=colors)
    axis.axvline(1, color="black", linestyle="--")
    axis.invert_yaxis()
    axis.set(xlabel="times better than the aim", title="Aims (right of the line is reached)")
    figure.savefig(path, dpi=120)


def _draw_core_pass(rows: list[dict], path: Path) -> None:
    found = {}
    for row in rows:
        if "keys" in row["name"]:
            num_keys = int(row["name"].split("pass, ")[1].split(" keys")[0].replace(",", ""))
            found[num_keys] = row["details"]
    figure = Figure(figsize=(6, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    for side, label in (
        ("ours_ms", "ours"),
        ("dynamic_ms", "Qwen3 + DynamicCache"),
        ("static_ms", "Qwen3 + StaticCache"),
    ):
        axis.loglog(list(found), [details[side] for details in found.values()], marker="o", label=label)
    axis.set(xlabel="keys of history", ylabel="ms", title="One pass of 40 tokens, 8 layers of width 256")
    axis.legend()
    figure.savefig(path, dpi=120)


def _draw_stages(rows: list[dict], path: Path) -> None:
    names = [row["name"].removeprefix("stage ") for row in rows]
    figure = Figure(figsize=(7, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    axis.bar(names, [row["value"] for row in rows], color="lightgray", label="measured")
    axis.bar(names, [row["details"]["floor_ms"] for row in rows], color="tab:blue", label="floor (FLOPs / peak)")
    axis.set(ylabel="ms per unit", title="Stages of a unit and their floors")
    axis.legend()
    figure.savefig(path, dpi=120)
