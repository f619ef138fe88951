"""The command `wan-streamer`: talk to a recording, look into a checkpoint."""

from __future__ import annotations

import json
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from .inspection import describe_latency, describe_parts, describe_session
from .ledger import LatencyLedger
from .media import RecordingReader, RecordingWriter, side_by_side
from .pipeline import BUNDLED, StreamerPipeline
from .subtitles import write_srt
from .units import AgentUnit

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Open Wan-Streamer: full-duplex conversation in 160 ms units.")
console = Console()

Checkpoint = Annotated[str, typer.Option("--checkpoint", "-c", help="folder, hub id, or the bundled checkpoint's name")]
Threads = Annotated[int, typer.Option(help="CPU threads; 0 leaves torch's default")]


@app.callback()
def _about() -> None:
    """Keeps subcommands named even if there were only one."""


def _fail(error: Exception) -> typer.Exit:
    console.print(f"[red]error:[/red] {error}", highlight=False, soft_wrap=True)
    return typer.Exit(1)


def _load(checkpoint: str) -> StreamerPipeline:
    try:
        return StreamerPipeline.from_pretrained(checkpoint)
    except (ValueError, OSError) as error:
        raise _fail(error) from error


@app.command()
def talk(
    recording: Annotated[Path, typer.Argument(help="anything PyAV opens; its person talks to the agent")],
    output: Annotated[Path, typer.Option("--output", "-o", help="folder for the results")] = Path("talk"),
    checkpoint: Checkpoint = BUNDLED,
    prompt: Annotated[str | None, typer.Option(help="system text; default the checkpoint's own")] = None,
    seed: Annotated[int, typer.Option(help="of all noise: the same seed gives the same conversation")] = 0,
    steps: Annotated[int | None, typer.Option(help="solver steps per unit; default the checkpoint's own")] = None,
    side_by_side_video: Annotated[bool, typer.Option("--side-by-side", help="also write user and agent in one video")] = False,
    threads: Threads = 0,
) -> None:
    """Let a recorded person talk to the agent, unit by unit as if live, and write what the agent did.

    Writes agent.mp4 (sound and picture in step, on the recording's own clock), transcript.srt, units.jsonl (state,
    text and milliseconds per stage of every unit), latency.png, and with --side-by-side both.mp4.
    """
    if threads:
        torch.set_num_threads(threads)
    try:
        reader = RecordingReader(recording)
    except ValueError as error:
        raise _fail(error) from error
    pipeline = _load(checkpoint)
    for note in reader.notes:
        console.print(f"[yellow]note:[/yellow] {note}", highlight=False)
    output.mkdir(parents=True, exist_ok=True)
    try:
        session = pipeline.open_session(prompt=prompt, seed=seed, num_inference_steps=steps)
        played = _converse(session, reader, output, side_by_side_video)
    except ValueError as error:
        raise _fail(error) from error
    write_srt(output / "transcript.srt", played)
    session.ledger.plot(output / "latency.png")
    _summarise(session.ledger, played, output)


def _converse(session, reader: RecordingReader, output: Path, both: bool) -> list[AgentUnit]:
    """Run the session over the recording; what plays in each unit of the wall clock."""
    delay = session.pipeline.streamer.config.response_delay
    writers = [RecordingWriter(output / "agent.mp4")]
    if both:
        writers.append(RecordingWriter(output / "both.mp4", width=2 * 336, num_channels=2))
    waiting: list[AgentUnit] = []  # y_k plays `delay` units after u_k
    played: list[AgentUnit] = []
    with open(output / "units.jsonl", "w", encoding="utf-8") as lines, ExitStack() as files:
        for writer in writers:
            files.enter_context(writer)
        for user in track(reader, "talking", total=reader.num_units, console=console):
            unit = session.step(user)
            record = {"index": unit.index, "plays_at_ms": 160 * (unit.index + delay), "state": unit.state, "text": unit.text}
            lines.write(json.dumps(record | {"latency_ms": {k: round(v, 3) for k, v in unit.latency.items()}}) + "\n")
            if not played:  # nothing has been answered yet: hold the first picture, silently
                still = unit.video[:, :1].expand_as(unit.video)
                waiting = [replace(unit, video=still, audio=torch.zeros_like(unit.audio), text="")] * delay
            waiting.append(unit)
            now = waiting.pop(0)
            played.append(replace(now, video=now.video[:, :0], audio=now.audio[:, :0]))  # media are in the files
            writers[0].write(now)
            if both:
                writers[1].write(side_by_side(user, now))
    return played


def _summarise(ledger: LatencyLedger, played: list[AgentUnit], output: Path) -> None:
    percentiles = ledger.percentiles()
    late = sum(unit["total"] > 160 for unit in ledger.units[1:])
    said = " ".join("".join(unit.text for unit in played).split())
    console.print(f"the agent said: {said or '(nothing)'}", highlight=False)
    console.print(
        "one unit took "
        + ", ".join(f"{name} {value:.0f} ms" for name, value in percentiles.items())
        + f" of its 160 ms; {late} of {len(ledger.units)} were late; written to {output}",
        highlight=False,
        soft_wrap=True,
    )


@app.command()
def inspect(
    checkpoint: Annotated[str, typer.Argument(help="folder, hub id, or the bundled checkpoint's name")] = BUNDLED,
) -> None:
    """Print a checkpoint's parts and sizes, the tokens of a unit, the arithmetic of latency, bytes per session."""
    pipeline = _load(checkpoint)
    for title, columns, rows in (describe_parts(pipeline), describe_latency(pipeline), describe_session(pipeline)):
        table = Table(*columns, title=title, title_justify="left")
        for row in rows:
            table.add_row(*map(str, row))
        console.print(table)
