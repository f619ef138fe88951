"""Make the bank of natural voices, or make it longer: run it again and it continues where it was.

    python examples/duplex_world/make_voice_bank.py --num-clips 150                # a sample, in minutes
    python examples/duplex_world/make_voice_bank.py --num-clips 20000 --workers 2  # hours

Needs `make setup-voices`. Any prefix of the bank is balanced over requests, phrasings and voices.
"""

import functools
import multiprocessing
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from duplex_world.kokoro import Kokoro
from duplex_world.voice_bank import Clip, make_bank

_kokoro = functools.cache(Kokoro)  # one in each process


def _speak(clip: Clip) -> np.ndarray:
    return _kokoro()(clip.written, clip.voice, clip.speed)


def main(
    out: Annotated[Path, typer.Option(help="folder of the bank")] = Path("runs/voice_bank"),
    num_clips: Annotated[int, typer.Option(help="how many the bank shall hold")] = 20_000,
    workers: Annotated[int, typer.Option(help="processes, of one thread each")] = 1,
) -> None:
    _kokoro()  # what is missing is said here, once
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        held = make_bank(out, num_clips, _speak, pool.imap)
    typer.echo(f"{held} clips in {out}")


if __name__ == "__main__":
    typer.run(main)
