"""`wan-streamer prepare`: recordings of conversations into dyads to train and test with."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

import typer

from ..clock import HEIGHT, WIDTH
from .options import MAX_THREADS, Device, check_folder, console, finite, in_a_sentence, needs_extra, say, say_notes

_MOST_SHOWN = 20


def _size(value: str) -> str:
    match = re.fullmatch(r"(\d+)x(\d+)", value)
    if match is None or any(int(side) < 2 or int(side) % 2 for side in match.groups()):
        raise typer.BadParameter(f"{value!r} is no height x width in even numbers, for example {HEIGHT}x{WIDTH}")
    return value


def prepare(
    source: Annotated[Path, typer.Argument(help="folder of recordings, or a list of them")],
    out: Annotated[Path, typer.Option("--out", "-o", help="folder for the dyads")],
    format: Annotated[str | None, typer.Option(help="of the source; default is to look")] = None,
    swap_roles: Annotated[bool, typer.Option(help="the user becomes the agent")] = False,
    both_directions: Annotated[bool, typer.Option(help="each side is once the agent")] = False,
    size: Annotated[str, typer.Option(callback=_size, help="height x width of pictures")] = f"{HEIGHT}x{WIDTH}",
    checkpoint: Annotated[str | None, typer.Option(help="take the size of this checkpoint's pictures")] = None,
    piece_seconds: Annotated[
        float, typer.Option(min=0, callback=finite, help="longer conversations are cut; 0 never cuts")
    ] = 30.0,
    max_drift_ms: Annotated[
        float, typer.Option(min=0, callback=finite, help="by how much the recordings of a pair may run apart")
    ] = 100.0,
    drift: Annotated[
        Literal["refuse", "stretch", "trim"], typer.Option(help="what happens to what runs apart further")
    ] = "refuse",
    transcribe: Annotated[
        str | None, typer.Option(metavar="MODEL", help="write missing words with this Whisper, a folder or a name")
    ] = None,
    split_by: Annotated[
        Literal["speakers", "users", "conversations"], typer.Option(help="what is in no two splits")
    ] = "speakers",
    val_share: Annotated[float, typer.Option(min=0, max=1, help="of the conversations, to validate")] = 0.05,
    test_share: Annotated[float, typer.Option(min=0, max=1, help="of the conversations, to test")] = 0.05,
    shard_size: Annotated[int, typer.Option(min=1, help="conversations in a shard; a broken run loses one")] = 16,
    workers: Annotated[int, typer.Option(min=0, max=MAX_THREADS, help="processes; 0 takes all cores")] = 0,
    license: Annotated[str, typer.Option(help="of the recordings, for the card")] = "unknown",
    push_to_hub: Annotated[str | None, typer.Option(metavar="REPO", help="upload the dyads to this data set")] = None,
    private: Annotated[bool, typer.Option(help="upload to a private data set")] = False,
    device: Device = "cpu",
) -> None:
    """Bring recordings of two-sided conversations to the clock of the model and store them as dyads.

    Needs the extra `prepare`: pip install "wan-streamer-pipeline[prepare]"; --transcribe needs `asr`.
    """
    with in_a_sentence():
        check_folder(out)
        with needs_extra("prepare"):
            import praatio  # noqa: F401
            import pysubs2  # noqa: F401
            import scipy  # noqa: F401
        if transcribe is not None:
            with needs_extra("asr"):
                import faster_whisper  # noqa: F401
        from ..data import prepare as work
        from ..data.build import BuildOptions
        from ..data.dataset_card import push_dyads, summary_rows

        height, width = map(int, size.split("x"))
        if checkpoint is not None:
            height, width = work.picture_size(checkpoint)
        building = BuildOptions(
            (height, width), piece_seconds, max_drift_ms, drift, swap_roles, both_directions, transcribe, device
        )
        options = work.PrepareOptions(building, format, split_by, val_share, test_share, shard_size, workers, license)
        prepared = work.prepare(source, out, options, console)
        say_notes(f"{item.key} is left out: {item.reason}" for item in prepared.skipped[:_MOST_SHOWN])
        if len(prepared.skipped) > _MOST_SHOWN:
            say_notes([f"{len(prepared.skipped)} in all are left out, see {out / work.SKIPPED_FILE}"])
        for text, value in summary_rows(prepared.info["summary"]):
            say(f"{text}: {value}")
        if set(prepared.info["splits"]) == {"train"}:
            say_notes(["everything is in train: more shares with --test-share, or groups with --split-by"])
        say(f"written to {out}")
        if push_to_hub is not None:
            say(f"uploaded to {push_dyads(out, push_to_hub, private or None)}")
