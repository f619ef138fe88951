"""The benchmark suite: every aim of the project as a measured row.

    python benchmarks/run.py                      # everything but the hour-long run
    python benchmarks/run.py decoders core_pass   # some of it
    python benchmarks/run.py one_hour             # what `make soak` runs
    python benchmarks/run.py --quick              # does everything run? numbers mean little

Writes bench/bench.json (rows of other names from earlier runs are kept, each with its machine facts), bench.md with the
same as tables, and plots. The user who talks to it is recorded once, as bench/user.mp4 (`make setup-world`).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import torch
import typer
from batches import batch_memory, batched_sessions
from conversation import cold_start, model_side_latency, one_hour, whole_loop
from core_pass import core_pass
from harness import ROOT, Row, Setting, machine_facts, peaks
from media_parts import audio_codec, decoders
from pages import KINDS, draw, kind_cells, markdown
from rich.console import Console
from rich.table import Table
from split_runtime import split_throughput
from stages import stages
from training_speed import training_speed


def wan_video_vae(setting: Setting) -> list[Row]:
    """Our streaming path for diffusers' AutoencoderKLWan, same weights and outputs, one unit at a time."""
    import wan_vae

    size = (wan_vae.HEIGHT, wan_vae.WIDTH) if not setting.quick else (48, 64)
    base_dims = wan_vae.BASE_DIMS if not setting.quick else wan_vae.BASE_DIMS[:1]
    rows = []
    for found in wan_vae.rows(setting.count(7, 1), base_dims, size):
        rows.append(Row(f"{found['name']}: diffusers / ours", found["ratio"], "x", ">= 4", found))
        rows.append(Row(f"{found['name']}: difference of outputs", found["max_difference"], "", "<= 1e-4"))
    return rows


BENCHMARKS = {
    measure.__name__: measure
    for measure in (
        whole_loop,
        model_side_latency,
        split_throughput,
        batched_sessions,
        batch_memory,
        core_pass,
        wan_video_vae,
        decoders,
        audio_codec,
        cold_start,
        training_speed,
        stages,
        one_hour,
    )
}
LONG = {"one_hour"}


def print_rows(rows: list[Row]) -> None:
    table = Table("what", "measured", "aim", "reached", "details")
    kinds = Table("p50, p99 in ms", *KINDS)
    for row in rows:
        mark = {True: "[green]yes", False: "[red]no", None: ""}[row.reached]
        details = ", ".join(f"{name} {value}" for name, value in row.details.items() if not isinstance(value, list))
        table.add_row(row.name, f"{row.value:.4g} {row.unit}", row.aim, mark, details)
        if row.kinds:
            kinds.add_row(row.name, *kind_cells(row.kinds))
    Console().print(table, *[kinds] * bool(kinds.row_count))


def store(results: dict[str, list[Row]], facts: dict, path: Path) -> dict:
    """Merge the rows into the book at `path` and return it: {benchmark: {"machine": facts, "rows": [...]}}."""
    book = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    book |= {name: {"machine": facts, "rows": [row.as_json() for row in rows]} for name, rows in results.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(book, indent=1), encoding="utf-8")
    return book


def main(
    names: Annotated[list[str] | None, typer.Argument(help=" | ".join(BENCHMARKS))] = None,
    quick: Annotated[bool, typer.Option(help="a few rounds each")] = False,
    num_threads: Annotated[int, typer.Option(help="CPU threads of a process")] = 2,
    checkpoint: Annotated[str, typer.Option(help="folder, hub id or name")] = "wan-streamer-tiny",
    out: Annotated[Path, typer.Option(help="folder of bench.json and plots")] = ROOT / "bench",
) -> None:
    if unknown := set(names or ()) - BENCHMARKS.keys():
        raise typer.BadParameter(f"no benchmark {', '.join(sorted(unknown))}; there are {', '.join(BENCHMARKS)}")
    setting, console = Setting(quick, num_threads, out, checkpoint), Console()
    book: dict = {}
    for name in names or [name for name in BENCHMARKS if name not in LONG]:
        # Each benchmark finds the threads as it should be, whatever the one before has set.
        torch.set_num_threads(num_threads)
        console.print(f"[bold]{name}[/bold] ...")
        facts = machine_facts() | {"quick": quick, "peak_gflop_per_s": peaks(setting.count(30, 2))}
        rows = BENCHMARKS[name](setting)
        print_rows(rows)
        book = store({name: rows}, facts, out / "bench.json")
        (out / "bench.md").write_text(markdown(book), encoding="utf-8")
    draw(book, out)
    console.print(f"wrote {out / 'bench.json'}, bench.md and plots")


if __name__ == "__main__":
    typer.run(main)
