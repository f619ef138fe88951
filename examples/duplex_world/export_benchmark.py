"""Conversations of the duplex world as folders of Full-Duplex-Bench: unseen people, sound alone, all of it synthetic.

    python examples/duplex_world/export_benchmark.py runs/bench
    wan-streamer eval wan-streamer-tiny --benchmark full-duplex-bench runs/bench --out runs/bench_score

The second command lets the bundled agent hear them, and writes what it says beside them.
"""

from pathlib import Path
from typing import Annotated

import typer
from duplex_world.benchmark_folders import export_full_duplex_bench


def main(
    folder: Annotated[Path, typer.Argument(help="where v1_0 and v1_5 go; made if missing")],
    num_samples: Annotated[int, typer.Option(min=1, help="of every subset that the world has")] = 20,
) -> None:
    """Write input.wav and annotation of every sample."""
    typer.echo(f"{folder}: {export_full_duplex_bench(folder, num_samples)} samples, synthetic")


if __name__ == "__main__":
    typer.run(main)
