"""The command `wan-streamer`: one file per command. What a command needs is imported when it runs."""

from __future__ import annotations

from importlib.metadata import version
from typing import Annotated

import typer

from .. import __version__
from .certify import certify
from .compare import compare
from .evaluate import evaluate
from .inspect import inspect
from .prepare import prepare
from .serve import serve
from .talk import talk
from .train import train

app = typer.Typer(
    no_args_is_help=True, add_completion=False, help="Open Wan-Streamer: full-duplex conversation in 160 ms units."
)
for command in (talk, inspect, serve, certify, prepare, train, compare):
    app.command()(command)
app.command(name="eval")(evaluate)


def _print_versions(asked: bool) -> None:
    if asked:
        typer.echo(f"wan-streamer {__version__}, torch {version('torch')}")
        raise typer.Exit


@app.callback()
def about(
    versions: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_versions, help="print versions and exit")
    ] = False,
) -> None:
    """Without a docstring of its own: the app's help is printed."""
