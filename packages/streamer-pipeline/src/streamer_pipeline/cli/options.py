"""What the commands have in common: options, and their way of saying what cannot be.

Nothing heavy is imported here: `--help` is answered before any of it is loaded.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

BUNDLED = "wan-streamer-tiny"
MAX_THREADS = 256
console = Console()


def finite(value: float) -> float:
    """Of a number that has a least value: NaN is below none."""
    if not math.isfinite(value):
        raise typer.BadParameter(f"{value} is not a finite number")
    return value


Checkpoint = Annotated[str, typer.Argument(help="folder, hub id, or the bundled checkpoint's name")]
Threads = Annotated[int, typer.Option(min=0, max=MAX_THREADS, help="CPU threads; 0 leaves torch's default")]
Device = Annotated[str, typer.Option(help="where it runs: cpu, cuda, cuda:1")]
Dtype = Annotated[str, typer.Option(help="what it computes in: float32, bfloat16, float16")]


def use_threads(threads: int) -> None:
    if threads:
        import torch

        torch.set_num_threads(threads)


@contextmanager
def in_a_sentence() -> Iterator[None]:
    """What a user can mend is one line on stderr and exit code 1, never a traceback."""
    try:
        yield
    except (ValueError, OSError, ImportError) as error:
        raise failure(error) from error


@contextmanager
def needs_extra(name: str) -> Iterator[None]:
    """Say which extra is missing where an import fails."""
    try:
        yield
    except ImportError as error:
        raise failure(ImportError(f'{error}; pip install "wan-streamer-pipeline[{name}]"')) from error


def failure(error: Exception) -> typer.Exit:
    """One line on stderr, and the exit to raise."""
    message = printable(" ".join(str(error).split()))
    Console(stderr=True).print(f"[red]error:[/red] {escape(message)}", highlight=False, soft_wrap=True)
    return typer.Exit(1)


def say(text: object) -> None:
    """A line for people: nothing in it is markup, and it is not broken."""
    console.print(escape(printable(str(text))), highlight=False, soft_wrap=True)


def say_notes(notes: Iterable[str]) -> None:
    for note in notes:
        console.print(f"[yellow]note:[/yellow] {escape(printable(note))}", highlight=False, soft_wrap=True)


def printable(text: str) -> str:
    """Names of files may hold bytes that no terminal can show: they become question marks."""
    return text.encode("utf-8", "replace").decode("utf-8")


def check_folder(folder: Path) -> None:
    """Whether results can be written there, asked before the work: OSError if not. Nothing is left behind."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not there.is_dir():
        raise OSError(f"results cannot be written into {folder}: {there} is a file, not a folder")
    try:
        tempfile.TemporaryFile(dir=there).close()
    except OSError as error:
        raise OSError(f"results cannot be written into {folder}: {error.strerror}") from error


def check_file(path: Path) -> None:
    """Whether a file can be written there, in a folder that may be made for it: OSError if not."""
    if path.is_dir():
        raise OSError(f"results cannot be written to {path}: it is a folder; name a file in it")
    check_folder(path.parent)
    if path.exists():
        try:
            open(path, "r+b").close()
        except OSError as error:
            raise OSError(f"results cannot be written to {path}: {error.strerror}") from error
