"""Look at one synthetic dyad: a contact sheet and a movie (agent left, user right, for eye and ear).

    python examples/duplex_world/show_world.py runs/world --seed 7 --scenario object

Writes a contact sheet and a film of both sides, and the labels of the dyad as JSON.
"""

import json
from pathlib import Path
from typing import Annotated

import cv2
import numpy as np
import typer
from duplex_world import SCENARIOS, Dyad, build_dyad, render_frames
from duplex_world.movie import write_movie

_COLUMNS, _ROWS = 4, 4


def contact_sheet(pictures: np.ndarray) -> np.ndarray:
    """`(T, H, W, 3)` -> one picture of 16 moments, evenly spaced, row by row."""
    chosen = pictures[np.linspace(0, len(pictures) - 1, _COLUMNS * _ROWS).astype(int)]
    return np.vstack([np.hstack(chosen[i : i + _COLUMNS]) for i in range(0, len(chosen), _COLUMNS)])


def side_by_side(dyad: Dyad) -> np.ndarray:
    """Both videos as one: uint8 `(T, 192, 672, 3)`."""
    agent = render_frames(dyad.agent_motion, dyad.agent_identity)
    user = render_frames(dyad.user_motion, dyad.user_identity)
    return np.concatenate([agent, user], axis=2)


def main(
    folder: Annotated[Path, typer.Argument(help="where sheet, movie and labels go; made if missing")],
    seed: Annotated[int, typer.Option(min=0)] = 7,
    scenario: Annotated[str | None, typer.Option(help=", ".join(SCENARIOS))] = None,
    response_delay: Annotated[int, typer.Option(min=1, max=2)] = 1,
) -> None:
    """Write NAME.png, NAME.mp4 and NAME.json for one dyad."""
    dyad = build_dyad(seed, scenario, response_delay=response_delay)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{dyad.scenario}-{seed}"
    pictures = side_by_side(dyad)
    cv2.imwrite(str(path.with_suffix(".png")), contact_sheet(pictures)[:, :, ::-1])
    write_movie(path.with_suffix(".mp4"), pictures, np.stack([dyad.agent_audio, dyad.user_audio], 1))
    path.with_suffix(".json").write_text(json.dumps(dyad.labels(), indent=1) + "\n")
    typer.echo(f"{path}.png, .mp4 and .json: {dyad.num_units} units, synthetic")


if __name__ == "__main__":
    typer.run(main)
