"""The command `wan-streamer`: talk to a recording, look into a checkpoint, examine it."""

from __future__ import annotations

import json
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import torch
import torch.nn.functional as F
import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import track
from rich.table import Table

from .inspection import describe_latency, describe_parts, describe_session
from .ledger import LatencyLedger
from .loading import BUNDLED
from .media import RecordingReader, RecordingWriter, side_by_side
from .pipeline import StreamerPipeline
from .session import StreamerSession
from .subtitles import write_srt
from .units import HEIGHT, UNIT_MS, WIDTH, AgentUnit, UserUnit

app = typer.Typer(
    no_args_is_help=True, add_completion=False, help="Open Wan-Streamer: full-duplex conversation in 160 ms units."
)
console = Console()

Checkpoint = Annotated[str, typer.Option("--checkpoint", "-c", help="folder, hub id, or the bundled checkpoint's name")]
Threads = Annotated[int, typer.Option(help="CPU threads; 0 leaves torch's default")]


@app.callback()
def _about() -> None:
    """Keeps subcommands named even if there were only one."""


def _fail(error: Exception) -> typer.Exit:
    """One line on stderr, and the exit to raise."""
    message = " ".join(str(error).split())
    Console(stderr=True).print(f"[red]error:[/red] {escape(message)}", highlight=False, soft_wrap=True)
    return typer.Exit(1)


def _say(notes: list[str]) -> None:
    for note in notes:
        console.print(f"[yellow]note:[/yellow] {escape(note)}", highlight=False, soft_wrap=True)


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
    height: Annotated[int, typer.Option(min=2, help="the recording is cut and scaled to this height")] = HEIGHT,
    width: Annotated[int, typer.Option(min=2, help="the recording is cut and scaled to this width")] = WIDTH,
    both: Annotated[bool, typer.Option("--side-by-side", help="also write user and agent in one video")] = False,
    threads: Threads = 0,
) -> None:
    """Let a recorded person talk to the agent, unit by unit as if live, and write what the agent did.

    Writes agent.mp4 (sound and picture in step, on the recording's own clock), transcript.srt, units.jsonl (state,
    text and milliseconds per stage of every unit), latency.png, and with --side-by-side both.mp4.
    """
    if threads:
        torch.set_num_threads(threads)
    try:
        reader = RecordingReader(recording, height, width)
        known = list(reader.notes)
        _say(known)
        pipeline = _load(checkpoint)
        session = pipeline.open_session(prompt=prompt, seed=seed, num_inference_steps=steps, height=height, width=width)
        output.mkdir(parents=True, exist_ok=True)
        played = _converse(session, reader, output, both)
    except (ValueError, OSError) as error:
        raise _fail(error) from error
    _say(reader.notes[len(known) :])  # damage inside a track shows while it is read
    write_srt(output / "transcript.srt", played)
    session.ledger.plot(output / "latency.png")
    _summarise(session.ledger, played, output)


def _converse(session: StreamerSession, reader: RecordingReader, output: Path, both: bool) -> list[AgentUnit]:
    """Run the session over the recording; what plays in each unit of the wall clock, without its media."""
    delay = session.pipeline.streamer.config.response_delay
    waiting: list[AgentUnit] = []  # y_k plays `delay` units after u_k
    played: list[AgentUnit] = []
    writers: dict[str, RecordingWriter] = {}
    with open(output / "units.jsonl", "w", encoding="utf-8") as lines, ExitStack() as files:
        for user in track(reader, "talking", total=reader.num_units, console=console):
            unit = session.step(user)
            lines.write(json.dumps(_record(unit, delay)) + "\n")
            if not played:  # nothing has been answered yet: hold the first picture, silently
                still = unit.video[:, :1].expand_as(unit.video)
                waiting = [replace(unit, video=still, audio=torch.zeros_like(unit.audio), text="")] * delay
            waiting.append(unit)
            now = waiting.pop(0)
            shown = {"agent.mp4": now}
            if both:
                shown["both.mp4"] = side_by_side(_at_height(user, now.video.shape[2]), now)
            for name, shot in shown.items():
                if name not in writers:
                    writer = RecordingWriter(output / name, *shot.video.shape[2:], num_channels=len(shot.audio))
                    writers[name] = files.enter_context(writer)
                writers[name].write(shot)
            played.append(replace(now, video=torch.empty(0), audio=torch.empty(0)))  # a view would keep all in memory
    return played


def _record(unit: AgentUnit, delay: int) -> dict[str, object]:
    """A unit as a line of units.jsonl."""
    latency = {stage: round(ms, 3) for stage, ms in unit.latency.items()}
    plays_at = UNIT_MS * (unit.index + delay)
    return {"index": unit.index, "plays_at_ms": plays_at, "state": unit.state, "text": unit.text, "latency_ms": latency}


def _at_height(user: UserUnit, height: int) -> UserUnit:
    """The user's picture as high as the agent's, to show both; its width stays even, as H.264 wants it."""
    old_height, old_width = user.video.shape[2:]
    if old_height == height:
        return user
    width = max(2, 2 * round(old_width * height / old_height / 2))
    return replace(user, video=F.interpolate(user.video, (height, width), mode="area").clamp(-1, 1))


def _summarise(ledger: LatencyLedger, played: list[AgentUnit], output: Path) -> None:
    percentiles = ledger.percentiles()
    late = ledger.missed()
    said = " ".join("".join(unit.text for unit in played).split())
    console.print(f"the agent said: {escape(said) or '(nothing)'}", highlight=False, soft_wrap=True)
    console.print(
        "one unit took "
        + ", ".join(f"{name} {value:.0f} ms" for name, value in percentiles.items())
        + f" of its {UNIT_MS} ms; {late} of {len(ledger.units)} were late; written to {escape(str(output))}",
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


@app.command(name="eval")
def evaluate(
    checkpoint: Annotated[str, typer.Argument(help="folder, hub id, or the bundled checkpoint's name")] = BUNDLED,
    dataset: Annotated[str, typer.Option(help="folder or hub id of stored dyads")] = "runs/world",
    split: Annotated[str, typer.Option(help="split of the dyads")] = "test",
    per_scenario: Annotated[int, typer.Option(min=1, help="dyads of every scenario")] = 10,
    steps: Annotated[int | None, typer.Option(min=1, help="solver steps; default the checkpoint's own")] = None,
    seed: Annotated[int, typer.Option(help="of all noise")] = 0,
    out: Annotated[Path | None, typer.Option(help="folder for score.json, score.md and score.html")] = None,
    teacher: Annotated[str | None, typer.Option(help="another checkpoint to compare with")] = None,
    teacher_steps: Annotated[int | None, typer.Option(min=1, help="compare with so many solver steps")] = None,
    minutes: Annotated[float, typer.Option(min=0, help="length of the long session; 0 leaves it out")] = 3.0,
    batch_size: Annotated[int, typer.Option(min=1, help="conversations at once")] = 8,
    threads: Threads = 0,
) -> None:
    """Let a checkpoint meet the users of a test set, closed loop, and print its score card beside aims and baselines.

    Needs the extra `eval`: pip install "wan-streamer-pipeline[eval]".
    """
    if threads:
        torch.set_num_threads(threads)
    try:
        from .evaluation import command
    except ImportError as error:
        raise _fail(ImportError(f'{error}; pip install "wan-streamer-pipeline[eval]"')) from error
    options = command.Options(per_scenario, steps, seed, minutes, batch_size)
    try:
        command.evaluate(checkpoint, dataset, split, options, out, teacher, teacher_steps, console)
    except (ValueError, OSError) as error:
        raise _fail(error) from error


@app.command()
def compare(
    cards: Annotated[list[Path], typer.Argument(help="score.json files of eval, two or more")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="folder for comparison.md and comparison.png")] = None,
) -> None:
    """Print score cards side by side, to see what a replaced part did to every measure.

    Needs the extra `eval`: pip install "wan-streamer-pipeline[eval]".
    """
    try:
        from .evaluation.comparison import comparison_table, read_cards, write_comparison
    except ImportError as error:
        raise _fail(ImportError(f'{error}; pip install "wan-streamer-pipeline[eval]"')) from error
    try:
        read = read_cards(cards)
        paper = console if console.is_terminal else Console(width=60 + 34 * len(read))
        paper.print(comparison_table(read))
        if out is not None:
            written = write_comparison(read, out)
            console.print(f"written to {escape(' and '.join(map(str, written)))}", highlight=False, soft_wrap=True)
    except (ValueError, OSError) as error:
        raise _fail(error) from error


@app.command()
def serve(
    checkpoint: Annotated[str, typer.Argument(help="folder, hub id, or the bundled checkpoint's name")] = BUNDLED,
    host: Annotated[str, typer.Option(help="address to listen on; any but loopback needs a token")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8080,
    max_sessions: Annotated[int, typer.Option(min=1, help="conversations at once, if speed and memory allow")] = 1,
    memory: Annotated[float, typer.Option(min=0, help="GiB that all conversations may take")] = 4.0,
    token: Annotated[str | None, typer.Option(help="what clients must send; made up if one is needed")] = None,
    origin: Annotated[list[str] | None, typer.Option(help="origin of other pages that may call")] = None,
    record: Annotated[Path | None, typer.Option(help="folder for conversations whose user consents")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="solver steps; default the checkpoint's own")] = None,
    seed: Annotated[int, typer.Option(help="of all noise")] = 0,
    minutes: Annotated[float, typer.Option(min=0.1, help="length of a conversation")] = 30.0,
    certificate: Annotated[Path | None, typer.Option(help="PEM file, for HTTPS", exists=True)] = None,
    key: Annotated[Path | None, typer.Option(help="PEM file of the certificate's key", exists=True)] = None,
    threads: Threads = 0,
) -> None:
    """Open a page to talk to the agent live, by camera and microphone.

    Needs the extra `serve` of wan-streamer-pipeline.
    """
    if threads:
        torch.set_num_threads(threads)
    try:
        from .serve import command
    except ImportError as error:
        raise _fail(ImportError(f'{error}; pip install "wan-streamer-pipeline[serve]"')) from error
    options = {
        "host": host,
        "port": port,
        "max_sessions": max_sessions,
        "memory_gib": memory,
        "token": token,
        "origins": tuple(origin or ()),
        "record": record,
        "num_inference_steps": steps,
        "seed": seed,
        "max_seconds": 60 * minutes,
    }
    try:
        command.serve(checkpoint, options, certificate, key, console)
    except (ValueError, OSError) as error:
        raise _fail(error) from error


@app.command()
def certify(
    path_or_id: Annotated[str, typer.Argument(help="folder or hub id of a part or a whole pipeline")] = BUNDLED,
    out: Annotated[Path, typer.Option(help="file for all certificates")] = Path("certificate.json"),
    height: Annotated[int, typer.Option(min=2, help="of the pictures that parts are examined on")] = 96,
    width: Annotated[int, typer.Option(min=2, help="of the pictures that parts are examined on")] = 144,
    package: Annotated[str | None, typer.Option(help="package that defines a stranger's class; imported first")] = None,
    threads: Threads = 0,
) -> None:
    """Examine every streaming part under the laws of the contract; exit with 1 if one is broken."""
    from .certification import certificate_table, certify_checkpoint

    if threads:
        torch.set_num_threads(threads)
    try:
        certificates = certify_checkpoint(path_or_id, (height, width), package)
    except (ValueError, OSError, ImportError) as error:
        raise _fail(error) from error
    out.write_text(json.dumps({name: json.loads(c.to_json()) for name, c in certificates.items()}, indent=2) + "\n")
    for name, certificate in certificates.items():
        console.print(certificate_table(name, certificate))
    broken = [f"{name}: {', '.join(sorted(c.broken))}" for name, c in certificates.items() if not c.passed]
    console.print(f"written to {escape(str(out))}", highlight=False, soft_wrap=True)
    if broken:
        raise _fail(ValueError("the contract is broken. " + "; ".join(broken)))
