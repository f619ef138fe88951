"""Talk to a recording with thinker and performer in two processes of a torch.distributed group.

    torchrun --nproc-per-node 2 examples/scale/split_over_torchrun.py RECORDING --output FOLDER

Rank 0 is the thinker: it reads the recording and writes agent.mp4, transcript.srt, latency.json and latency.png. Rank 1
is the performer. The group is gloo on CPU; with --backend nccl each rank takes a GPU (the same code, not verified).
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import torch
import torch.distributed as dist
import typer
from streamer_pipeline import (
    AgentUnit,
    Channel,
    DistributedChannel,
    LatencyLedger,
    RecordingReader,
    RecordingWriter,
    SplitSession,
    StreamerPipeline,
    perform,
    write_srt,
)
from streamer_pipeline.units import HEIGHT, WIDTH


def think(
    pipeline: StreamerPipeline, channel: Channel, recording: Path, output: Path, height: int, width: int, seed: int
) -> None:
    """The thinker's rank: everything that is read and written."""
    output.mkdir(parents=True, exist_ok=True)
    reader = RecordingReader(recording, height, width)
    with SplitSession(pipeline.open_session(seed=seed, height=height, width=width), channel) as session:
        ledger = session.ledger
        played = write_agent(session.run(reader), output / "agent.mp4", pipeline.streamer.config.response_delay)
    write_srt(output / "transcript.srt", played)
    ledger.to_json(output / "latency.json")
    ledger.plot(output / "latency.png")
    report(ledger, played)


def write_agent(answers: Iterable[AgentUnit], path: Path, delay: int) -> list[AgentUnit]:
    """Write y_k where it plays, `delay` units after u_k; until then the first picture, silently. Returns all."""
    played: list[AgentUnit] = []
    with ExitStack() as files:
        for unit in answers:
            if not played:
                writer = files.enter_context(RecordingWriter(path, *unit.video.shape[2:], len(unit.audio)))
                still = unit.video[:, :1].expand_as(unit.video)
                waiting = [replace(unit, video=still, audio=torch.zeros_like(unit.audio), text="")] * delay
            waiting.append(unit)
            now = waiting.pop(0)
            writer.write(now)
            played.append(replace(now, video=torch.empty(0), audio=torch.empty(0)))  # a view would keep all in memory
    return played


def report(ledger: LatencyLedger, played: list[AgentUnit]) -> None:
    print("the agent said:", " ".join("".join(unit.text for unit in played).split()) or "(nothing)")
    for name, values in (("model side", ledger.model_side()), ("event to output", ledger.event_to_output())):
        print(f"{name}:", ", ".join(f"{q} {ms:.0f} ms" for q, ms in values.items()))


def main(
    recording: Annotated[Path, typer.Argument(help="anything PyAV opens")],
    output: Annotated[Path, typer.Option(help="folder for the results")] = Path("talk"),
    checkpoint: Annotated[str, typer.Option(help="folder, hub id, or the bundled checkpoint")] = "wan-streamer-tiny",
    seed: Annotated[int, typer.Option(help="of all noise")] = 0,
    height: Annotated[int, typer.Option(help="of the user's picture")] = HEIGHT,
    width: Annotated[int, typer.Option(help="of the user's picture")] = WIDTH,
    threads: Annotated[int, typer.Option(help="CPU threads of each rank")] = 1,
    backend: Annotated[str, typer.Option(help="gloo, or nccl with a GPU per rank")] = "gloo",
) -> None:
    dist.init_process_group(backend)
    rank = dist.get_rank()
    if dist.get_world_size() != 2:
        raise SystemExit("thinker and performer are two ranks: torchrun --nproc-per-node 2")
    torch.set_num_threads(threads)
    device = torch.device("cuda", rank) if backend == "nccl" else torch.device("cpu")
    pipeline = StreamerPipeline.from_pretrained(checkpoint).to(device)
    channel = DistributedChannel(1 - rank, device)
    try:
        if rank == 0:
            think(pipeline, channel, recording, output, height, width, seed)
        else:
            perform(pipeline.performer, channel)
    finally:
        channel.close()
        dist.destroy_process_group()


if __name__ == "__main__":
    typer.run(main)
