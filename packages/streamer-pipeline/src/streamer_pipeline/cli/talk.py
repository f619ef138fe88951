"""`wan-streamer talk`: a recorded person talks to the agent."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..checkpoints import BUNDLED
from ..clock import HEIGHT, UNIT_MS, WIDTH
from .options import (
    Device,
    Dtype,
    Threads,
    check_folder,
    console,
    in_a_sentence,
    say,
    say_notes,
    use_threads,
)

if TYPE_CHECKING:
    from ..ledger import LatencyLedger
    from ..media.recordings import RecordingReader
    from ..session import StreamerSession
    from ..units import AgentUnit, UserUnit


def talk(
    recording: Annotated[Path, typer.Argument(help="a media file, as .mp4; its person talks to the agent")],
    output: Annotated[Path, typer.Option("--output", "-o", help="folder for the results")] = Path("talk"),
    checkpoint: Annotated[
        str, typer.Option("--checkpoint", "-c", help="folder, hub id, or the bundled checkpoint's name")
    ] = BUNDLED,
    prompt: Annotated[str | None, typer.Option(help="system text; default the checkpoint's own")] = None,
    seed: Annotated[int, typer.Option(help="of all noise: the same seed gives the same conversation")] = 0,
    steps: Annotated[int | None, typer.Option(help="solver steps per unit; default the checkpoint's own")] = None,
    height: Annotated[int, typer.Option(min=2, help="the recording is cut and scaled to this height")] = HEIGHT,
    width: Annotated[int, typer.Option(min=2, help="the recording is cut and scaled to this width")] = WIDTH,
    both: Annotated[bool, typer.Option("--side-by-side", help="also write user and agent in one video")] = False,
    device: Device = "cpu",
    dtype: Dtype = "float32",
    threads: Threads = 0,
) -> None:
    """Let a recorded person talk to the agent, unit by unit as if live, and write what the agent did.

    Writes agent.mp4 (sound and picture in step, on the recording's own clock), transcript.srt, units.jsonl (state,
    text and milliseconds per stage of every unit), latency.png, and with --side-by-side both.mp4.
    """
    with in_a_sentence():
        check_folder(output)
        use_threads(threads)
        from ..hub.placement import load_pipeline
        from ..media.recordings import RecordingReader

        reader = RecordingReader(recording, height, width)
        known = list(reader.notes)
        say_notes(known)
        pipeline = load_pipeline(checkpoint, device, dtype)
        session = pipeline.open_session(prompt=prompt, seed=seed, num_inference_steps=steps, height=height, width=width)
        output.mkdir(parents=True, exist_ok=True)
        played, heard = _converse(session, reader, output, both)
        say_notes(reader.notes[len(known) :])  # damage inside a track shows while it is read
        session.ledger.plot(output / "latency.png")
        if session.pipeline.streamer.config.hears_words:
            say(f"it heard: {_joined(heard)}")
        _summarise(session.ledger, played, output)


def _converse(
    session: StreamerSession, reader: RecordingReader, output: Path, both: bool
) -> tuple[list[AgentUnit], list[str]]:
    """Run the session over the recording; what plays in each unit of the wall clock, without its media, and what the
    agent hears in it."""
    from rich.progress import track

    from ..media.conversation import ConversationWriter
    from ..media.recordings import side_by_side

    films = {"agent.mp4": lambda user, agent: agent}
    if both:
        films["both.mp4"] = lambda user, agent: side_by_side(_at_height(user, agent.video.shape[2]), agent)
    with ConversationWriter(output, session.pipeline.streamer.config.response_delay, films) as writer:
        for user in track(reader, "talking", total=reader.num_units, console=console):
            writer.write(user, session.step(user))
    return writer.played, writer.heard


def _at_height(user: UserUnit, height: int) -> UserUnit:
    """The user's picture as high as the agent's, to show both; its width stays even, as H.264 wants it."""
    from dataclasses import replace

    import torch.nn.functional as F

    old_height, old_width = user.video.shape[2:]
    if old_height == height:
        return user
    width = max(2, 2 * round(old_width * height / old_height / 2))
    return replace(user, video=F.interpolate(user.video, (height, width), mode="area").clamp(-1, 1))


def _joined(texts: list[str]) -> str:
    return " ".join("".join(texts).split()) or "(nothing)"


def _summarise(ledger: LatencyLedger, played: list[AgentUnit], output: Path) -> None:
    say(f"the agent said: {_joined([unit.text for unit in played])}")
    percentiles = ", ".join(f"{name} {value:.0f} ms" for name, value in ledger.percentiles().items())
    say(
        f"one unit took {percentiles} of its {UNIT_MS} ms; {ledger.missed()} of {len(ledger.units)} were late; "
        f"written to {output}"
    )
