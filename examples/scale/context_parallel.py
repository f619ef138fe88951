"""A performer spread over ranks, beside its thinker: is it the conversation of one process, and what travels?

    torchrun --nproc-per-node 4 examples/scale/context_parallel.py

Rank 0 is the thinker, the others share the performer (second report, v0.2); their number must divide the checkpoint's
heads: the bundled one has 6 with 3 for keys and values. Rank 0 first answers random input in one process, then with the
group, and prints the largest differences and the bytes that each rank of the group sends to others per unit. gloo, CPU.
"""

from __future__ import annotations

from collections import Counter
from typing import Annotated

import torch
import torch.distributed as dist
import typer
from streamer_pipeline import AgentUnit, DistributedChannel, SplitSession, StreamerPipeline, UserUnit, perform
from streamer_pipeline.runtime.context_parallel import (
    ContextParallelPerformer,
    GroupChannel,
    UlyssesExchange,
    unit_nbytes,
)
from streamer_pipeline.units import FRAMES_PER_UNIT, HEIGHT, SAMPLES_PER_UNIT, WIDTH

FIRST = 1  # rank of the performer that the thinker talks to


def random_units(num_units: int, height: int, width: int, seed: int) -> list[UserUnit]:
    generator = torch.Generator().manual_seed(seed)
    return [
        UserUnit(
            audio=torch.rand(1, SAMPLES_PER_UNIT, generator=generator) * 0.4 - 0.2,
            video=torch.rand(3, FRAMES_PER_UNIT, height, width, generator=generator) * 2 - 1,
        )
        for _ in range(num_units)
    ]


def think(pipeline: StreamerPipeline, num_units: int, height: int, width: int, seed: int) -> None:
    """The thinker's rank: both conversations, and how they differ."""
    units = random_units(num_units, height, width, seed)
    whole = pipeline.open_session(seed=seed, height=height, width=width)
    expected = [whole.step(unit) for unit in units]
    session = pipeline.open_session(seed=seed, height=height, width=width)
    with SplitSession(session, DistributedChannel(FIRST)) as split:
        found = list(split.run(units))
    print(f"{num_units} units by {dist.get_world_size() - 1} ranks against one process, largest difference:")
    for name in ("audio", "video"):
        print(f"  {name}: {largest_difference(found, expected, name):.1e}")
    same = all((ours.text, ours.state) == (one.text, one.state) for ours, one in zip(found, expected, strict=True))
    print(f"  same words: {'yes' if same else 'NO'}")


def largest_difference(found: list[AgentUnit], expected: list[AgentUnit], name: str) -> float:
    pairs = zip(found, expected, strict=True)
    return max(float((getattr(ours, name) - getattr(one, name)).abs().max()) for ours, one in pairs)


def share_performance(pipeline: StreamerPipeline, group: dist.ProcessGroup) -> tuple[Counter, Counter]:
    """A performer's rank: one conversation. Bytes sent to other ranks, and those of one unit by the formula."""
    exchange = UlyssesExchange(pipeline.streamer.config, group)
    performer = ContextParallelPerformer(pipeline.streamer, pipeline.scheduler, exchange)
    channel = DistributedChannel(0) if exchange.rank == 0 else None
    perform(performer, GroupChannel(exchange, channel=channel))
    steps, width = pipeline.config.num_inference_steps, pipeline.streamer.dtype.itemsize
    unit = unit_nbytes(pipeline.streamer.config, exchange.num_ranks, exchange.rank, steps, width)
    return exchange.num_bytes, unit


def report(traffic: list[tuple[Counter, Counter]], num_units: int) -> None:
    """Bytes per unit and rank. Announcements are left out: the last one belongs to no unit."""
    for rank, (sent, predicted) in enumerate(traffic):
        purposes = [purpose for purpose in predicted if purpose != "control"]
        is_predicted = all(sent[purpose] == num_units * predicted[purpose] for purpose in purposes)
        amounts = ", ".join(f"{purpose} {sent[purpose] / num_units:,.0f}" for purpose in purposes)
        verdict = "as predicted" if is_predicted else f"NOT the {dict(predicted)} of the formula"
        print(f"performer rank {rank}, bytes sent per unit: {amounts} ({verdict})")


def main(
    checkpoint: Annotated[str, typer.Option(help="folder, hub id, or the bundled checkpoint")] = "wan-streamer-tiny",
    units: Annotated[int, typer.Option(help="length of the conversation, in units of 160 ms")] = 12,
    seed: Annotated[int, typer.Option(help="of the input and of all noise")] = 0,
    height: Annotated[int, typer.Option(help="of the user's picture")] = HEIGHT,
    width: Annotated[int, typer.Option(help="of the user's picture")] = WIDTH,
) -> None:
    dist.init_process_group("gloo")
    torch.set_num_threads(1)
    rank, num_ranks = dist.get_rank(), dist.get_world_size()
    if num_ranks < 2:
        raise SystemExit("a thinker and at least one performer are needed: torchrun --nproc-per-node 4")
    group = dist.new_group(range(FIRST, num_ranks))
    pipeline = StreamerPipeline.from_pretrained(checkpoint)
    traffic: list[tuple[Counter, Counter] | None] = [None] * num_ranks
    try:
        if rank == 0:
            think(pipeline, units, height, width, seed)
            mine = None
        else:
            mine = share_performance(pipeline, group)
        dist.all_gather_object(traffic, mine)
        if rank == 0:
            report(traffic[FIRST:], units)
    finally:
        dist.destroy_process_group()


if __name__ == "__main__":
    typer.run(main)
