"""Build a split of the duplex world as a dataset: webdataset shards, `world.json` and a dataset card.

    python examples/build_world.py --split test --num-dyads 180 --out runs/world

Shards that are there already are kept. Read it with `streamer_pipeline.dyads.read_dyads`, or with `datasets`:
`load_dataset("webdataset", data_files={"test": "runs/world/test-*.tar"}, streaming=True).decode(False)`.
"""

import json
import shutil
import time
from pathlib import Path
from typing import Annotated

import typer
from duplex_world.agent_voice import AgentVoice
from duplex_world.clock import UNIT_SECONDS
from duplex_world.dyad import Dyad, build_dyad
from duplex_world.scenarios import SCENARIOS
from duplex_world.shards import describe_world, write_shard
from duplex_world.splits import SPLIT_SIZE, SPLITS
from rich.progress import track

CARD = Path(__file__).parent / "cards" / "duplex-world.md"


def main(
    out: Annotated[Path, typer.Option(help="folder of the dataset")] = Path("runs/world"),
    split: Annotated[str, typer.Option(help=" | ".join(SPLITS))] = "test",
    num_dyads: int = 180,
    scenarios: Annotated[str, typer.Option(help="names, in turn; default all")] = " ".join(SCENARIOS),
    dyads_per_shard: int = 60,
    response_delay: Annotated[int, typer.Option(help="1, or 2 for commit_delay 1 (DESIGN section 4)")] = 1,
) -> None:
    if split not in SPLITS:
        raise typer.BadParameter(f"no split {split!r}; there are {', '.join(SPLITS)}")
    out.mkdir(parents=True, exist_ok=True)
    voice, names, first_seed = AgentVoice(), scenarios.split(), SPLITS.index(split) * SPLIT_SIZE
    started, units = time.perf_counter(), 0

    def built(first: int) -> Dyad:
        nonlocal units
        for seed in range(first_seed + first, first_seed + min(first + dyads_per_shard, num_dyads)):
            dyad = build_dyad(seed, names[(seed - first_seed) % len(names)], voice, response_delay)
            units += dyad.num_units
            yield dyad

    for first in track(range(0, num_dyads, dyads_per_shard), f"building {split}"):
        path = out / f"{split}-{first // dyads_per_shard:05d}.tar"
        if not path.exists():
            write_shard(path, built(first))
    if not (out / "world.json").exists():
        (out / "world.json").write_text(json.dumps(describe_world(voice, response_delay), indent=1))
    shutil.copy(CARD, out / "README.md")
    seconds = time.perf_counter() - started
    typer.echo(f"{out}: {units} new units in {seconds:.0f} s, {units * UNIT_SECONDS / seconds:.1f} times real time")


if __name__ == "__main__":
    typer.run(main)
