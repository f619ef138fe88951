"""Build a split of the duplex world as a dataset: webdataset shards, `dataset_info.json` and a dataset card.

    python examples/duplex_world/build_world.py --split test --num-dyads 180 --out runs/world

Finished shards are kept; one that was made for fewer dyads is built again. Read it with `streamer_pipeline.read_dyads`
(plain `load_dataset("webdataset", ...)` needs torchcodec).
"""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
from duplex_world.agent_voice import AgentVoice
from duplex_world.clock import UNIT_SECONDS
from duplex_world.dyad import Dyad, build_dyad
from duplex_world.scenarios import SCENARIOS
from duplex_world.shards import describe_world, is_built, write_shard
from duplex_world.splits import SPLIT_SIZE, SPLITS
from rich.progress import track

CARD = Path(__file__).with_name("card.md")


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
    names, first_seed = scenarios.split(), SPLITS.index(split) * SPLIT_SIZE
    if not names or not set(names) <= set(SCENARIOS):
        raise typer.BadParameter(f"scenarios {scenarios!r} are not among {' '.join(SCENARIOS)}")
    out.mkdir(parents=True, exist_ok=True)
    voice, world = AgentVoice(), out / "dataset_info.json"
    if not world.exists():
        world.write_text(json.dumps(describe_world(voice, response_delay), indent=1))
    elif (delay := json.loads(world.read_text())["response_delay"]) != response_delay:
        raise typer.BadParameter(f"{out} was built with --response-delay {delay}; build into another folder")
    started, units = time.perf_counter(), 0

    def built(wanted: list[tuple[int, str, int]]) -> Iterator[Dyad]:
        nonlocal units
        for seed, scenario, delay in wanted:
            dyad = build_dyad(seed, scenario, voice, delay)
            units += dyad.num_units
            yield dyad

    dyads = [(first_seed + i, names[i % len(names)], response_delay) for i in range(num_dyads)]
    for first in track(range(0, num_dyads, dyads_per_shard), f"building {split}"):
        path, wanted = out / f"{split}-{first // dyads_per_shard:05d}.tar", dyads[first : first + dyads_per_shard]
        if not is_built(path, wanted):
            write_shard(path, built(wanted))
    (out / "README.md").write_text(_card(out))
    seconds = time.perf_counter() - started
    typer.echo(f"{out}: {units} new units in {seconds:.0f} s, {units * UNIT_SECONDS / seconds:.1f} times real time")


def _card(out: Path) -> str:
    """The card, naming only the splits that are there: `datasets` refuses a folder whose card promises more."""
    card = CARD.read_text()
    for split in SPLITS:
        if not any(out.glob(f"{split}-*.tar")):
            card = card.replace(f"  - split: {split}\n    path: {split}-*.tar\n", "")
    return card


if __name__ == "__main__":
    typer.run(main)
