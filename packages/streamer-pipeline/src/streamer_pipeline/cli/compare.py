"""`wan-streamer compare`: score cards side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .options import check_folder, console, in_a_sentence, needs_extra, say


def compare(
    cards: Annotated[list[Path], typer.Argument(help="score.json files of eval, two or more")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="folder for comparison.md and comparison.png")] = None,
) -> None:
    """Print score cards side by side, to see what a replaced part did to every measure.

    Needs the extra `eval`: pip install "wan-streamer-pipeline[eval]".
    """
    from rich.console import Console

    with in_a_sentence():
        if out is not None:
            check_folder(out)
        with needs_extra("eval"):
            from ..evaluation.comparison import comparison_table, read_cards, write_comparison
        read = read_cards(cards)
        paper = console if console.is_terminal else Console(width=60 + 34 * len(read))
        paper.print(comparison_table(read))
        if out is not None:
            say(f"written to {' and '.join(map(str, write_comparison(read, out)))}")
