"""bench.json as tables and pictures."""

from __future__ import annotations

from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

KINDS = ("all", "silent", "speaking", "revised")


def kind_cells(kinds: dict[str, dict[str, float]]) -> list[str]:
    """A cell for each of KINDS: "p50, p99 (share; language passes)", or nothing where no unit was of that kind."""
    cells = []
    for kind in KINDS:
        if (found := kinds.get(kind)) is None:
            cells.append("")
            continue
        notes = [f"{found['units']} units" if kind == "all" else f"{100 * found['share']:.0f} %"]
        if "language_passes" in found:
            notes.append(f"{found['language_passes']:.2f} passes")
        cells.append(f"{found['p50']:.1f}, {found['p99']:.1f} ({', '.join(notes)})")
    return cells


def markdown(book: dict) -> str:
    """Every row with its aim; and silent and speaking units apart: p50 and p99 in ms, shares, language passes."""
    lines = ["| what | measured | aim | reached |", "| --- " * 4 + "|"]
    for row in _rows(book):
        reached = {True: "yes", False: "no", None: ""}[row["reached"]]
        lines.append(f"| {row['name']} | {row['value']:.4g} {row['unit']} | {row['aim']} | {reached} |")
    lines += ["", f"| p50, p99 in ms | {' | '.join(KINDS)} |", "| --- " * (1 + len(KINDS)) + "|"]
    lines += [f"| {row['name']} | {' | '.join(kind_cells(row['kinds']))} |" for row in _rows(book) if row["kinds"]]
    return "\n".join(lines) + "\n"


def _rows(book: dict) -> list[dict]:
    """All rows; those of a run before there were kinds have none."""
    return [{"kinds": {}} | row for entry in book.values() for row in entry["rows"]]


def draw(book: dict, folder: Path) -> None:
    """Write aims.png: every row that has an aim, as measured / aim; kinds.png: silent and speaking units apart; and
    core_pass.png, stages.png where measured."""
    _draw_aims(book, folder / "aims.png")
    _draw_kinds([row for row in _rows(book) if row["kinds"]], folder / "kinds.png")
    if "core_pass" in book:
        _draw_core_pass(book["core_pass"]["rows"], folder / "core_pass.png")
    if "stages" in book:
        _draw_stages(book["stages"]["rows"], folder / "stages.png")


def _draw_aims(book: dict, path: Path) -> None:
    """How many times better than its aim each number is: 1 reaches it exactly."""
    names, heights, colors = [], [], []
    for row in _rows(book):
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


def _draw_kinds(rows: list[dict], path: Path) -> None:
    """p50 as a bar and p99 as its whisker, for each kind of unit of each row."""
    figure = Figure(figsize=(11, 1.5 + 0.8 * len(rows)), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    for place, kind in enumerate(KINDS):
        found = [(index, row["kinds"][kind]) for index, row in enumerate(rows) if kind in row["kinds"]]
        heights = [index + 0.2 * (place - 1.5) for index, _ in found]
        p50, p99 = ([numbers[name] for _, numbers in found] for name in ("p50", "p99"))
        tails = [[0.0] * len(found), [high - middle for high, middle in zip(p99, p50, strict=True)]]
        axis.barh(heights, p50, height=0.2, xerr=tails, label=kind, capsize=2)
    axis.set_yticks(range(len(rows)), [row["name"] for row in rows])
    axis.invert_yaxis()
    axis.set(xlabel="ms of a unit: p50, and p99 as a whisker", title="What is said in a unit, and what it costs")
    axis.legend()
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
