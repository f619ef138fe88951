"""Write `recording.mp4`: a user to try the agent on, as a webcam would send them.

    python examples/talk/make_demo_recording.py demo              # an unseen user of the duplex world
    python examples/talk/make_demo_recording.py demo/real --real  # a real face with a real voice

No public package holds a talking head with its own sound, so the real one is a silent face clip joined with studio
prompts; the agent was never taught to answer those.
"""

from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from duplex_world.clock import FRAME_RATE, SAMPLE_RATE
from duplex_world.demo_user import synthetic_user
from duplex_world.movie import write_movie
from duplex_world.real_media import FACE_CLIPS, face_clip, load_clip, real_prompt

SCENES = "greet object fingers recall interrupt wave bye"
PROMPTS = ("hello-world", "dir-welcome", "queue-thankyou", "vm-goodbye")
_FIRST_AT, _SPEECH_PEAK, _ROOM_NOISE = 1.2, 0.5, 3e-4


def prompts_with_pauses(names: tuple[str, ...], seconds: float) -> tuple[np.ndarray, list[str]]:
    """Evenly spaced prompts over faint room noise, `(num_samples, 1)` float32, and a line of text for each."""
    num_samples = int(seconds * SAMPLE_RATE)
    sound = np.random.default_rng(0).standard_normal((num_samples, 1)).astype(np.float32) * _ROOM_NOISE
    spacing, lines = (seconds - _FIRST_AT) / len(names), []
    for i, name in enumerate(names):
        prompt = real_prompt(name)
        first = int((_FIRST_AT + i * spacing) * SAMPLE_RATE)
        room = sound[first : first + len(prompt.wave), 0]
        room += prompt.wave[: len(room)] * (_SPEECH_PEAK / np.abs(prompt.wave).max())
        lines.append(f"{first / SAMPLE_RATE:5.2f} s  {prompt.text}")
    return sound, lines


def back_and_forth(frames: np.ndarray, num_frames: int) -> np.ndarray:
    """Repeat a clip forwards and backwards, so that it never jumps, to `num_frames` frames."""
    cycle = np.concatenate([np.arange(len(frames)), np.arange(len(frames) - 2, 0, -1)])
    return frames[np.resize(cycle, num_frames)]


def main(
    folder: Annotated[Path, typer.Argument(help="where recording.mp4 goes; made if missing")],
    scenes: Annotated[str, typer.Option(help="scenarios of the duplex world, in order")] = SCENES,
    real: Annotated[bool, typer.Option(help="a real face and a real voice instead")] = False,
    clip: Annotated[str, typer.Option(help=f"real face: {' or '.join(FACE_CLIPS)}")] = FACE_CLIPS[0],
    seconds: Annotated[float, typer.Option(min=6.0, help="length of the real recording")] = 12.0,
) -> None:
    """Write a recording to try the pipeline on."""
    if real:
        sound, lines = prompts_with_pauses(PROMPTS, seconds)
        frames = back_and_forth(load_clip(face_clip(clip)), int(seconds * FRAME_RATE))
    else:
        frames, sound, lines = synthetic_user(scenes.split())
    folder.mkdir(parents=True, exist_ok=True)
    write_movie(folder / "recording.mp4", frames, sound)
    duration = len(frames) / FRAME_RATE
    typer.echo(f"{folder / 'recording.mp4'}: {frames.shape[2]}x{frames.shape[1]}, {duration:g} s")
    typer.echo("\n".join(lines))


if __name__ == "__main__":
    typer.run(main)
