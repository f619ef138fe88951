"""Make the bank of natural voices, or make it longer: run it again and it continues where it was.

    python examples/make_voice_bank.py --num-clips 150                # a sample, in minutes
    python examples/make_voice_bank.py --num-clips 20000 --workers 2  # hours

Needs `make setup-voices`. Any prefix of the bank is balanced over requests, phrasings and voices.
"""

import itertools
import multiprocessing
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from duplex_world.kokoro import Kokoro
from duplex_world.voice_bank import BankWriter, Clip, planned, trimmed
from rich.progress import track

_voice: Kokoro | None = None


def _begin() -> None:
    global _voice
    _voice = Kokoro()


def _speak(clip: Clip) -> tuple[Clip, np.ndarray]:
    return clip, trimmed(_voice(clip.written, clip.voice, clip.speed))


def main(
    out: Annotated[Path, typer.Option(help="folder of the bank")] = Path("runs/voice_bank"),
    num_clips: Annotated[int, typer.Option(help="how many the bank shall hold")] = 20_000,
    workers: Annotated[int, typer.Option(help="processes, of one thread each")] = 1,
) -> None:
    bank = BankWriter(out)
    missing = itertools.islice(planned(), bank.num_clips, num_clips)
    with multiprocessing.get_context("spawn").Pool(workers, _begin) as pool:
        spoken = pool.imap(_speak, missing)
        for clip, wave in track(spoken, "speaking", max(0, num_clips - bank.num_clips)):
            bank.append(clip, wave)
    typer.echo(f"{bank.num_clips} clips in {out}")


if __name__ == "__main__":
    typer.run(main)
