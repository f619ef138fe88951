"""Teach the bundled agent a new phrase and a new voice from 20 recordings of two people; nothing of the world in them.

    python examples/train/learn_from_recordings.py --out runs/learned

Natural voices (`make setup-voices`) stand in for the people: many ask, one answers. `wan-streamer prepare` and
`wan-streamer train` do the rest; then voices ask that nobody was trained on.
"""

import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from duplex_world.kokoro import NATURAL_VOICES, Kokoro
from scipy.io import wavfile
from streamer_pipeline import SAMPLE_RATE, SAMPLES_PER_UNIT, StreamerPipeline, split_units

QUESTION, ANSWER = "Where do you live?", "I live by the sea."  # what the agent has never heard, and never said
GREETING, REPLY = "Hello!", "Hello, I am Ada."
AGENT_VOICE = "bm_george"
NUM_QUESTIONS, NUM_GREETINGS = 15, 5
SECONDS, BEFORE, GAP = 7.2, 0.8, 0.35
ENOUGH, AUDIBLE = 0.5, 0.01  # of unseen voices that must be answered, and how loud


def said(kokoro: Kokoro, text: str, voice: str, speed: float = 1.0) -> np.ndarray:
    """(N,) at 24 kHz, without the silence around it."""
    wave = kokoro(text, voice, speed)
    loud = np.flatnonzero(np.abs(wave) > 0.02 * np.abs(wave).max())
    return 0.5 * wave[loud[0] : loud[-1] + 1] / np.abs(wave).max()


def placed(wave: np.ndarray, start: float) -> np.ndarray:
    track = np.random.default_rng(len(wave)).normal(0, 1e-4, round(SECONDS * SAMPLE_RATE))
    first = round(start * SAMPLE_RATE)
    track[first : first + len(wave)] += wave[: len(track) - first]
    return track.astype(np.float32)


def subtitle(text: str, start: float, end: float) -> str:
    def at(seconds: float) -> str:
        return f"00:00:{int(seconds):02d},{round(seconds % 1 * 1000):03d}"

    return f"1\n{at(start)} --> {at(end)}\n{text}\n"


def record(folder: Path, kokoro: Kokoro) -> None:
    """20 pairs of sides with what was said when."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [(QUESTION, ANSWER)] * NUM_QUESTIONS + [(GREETING, REPLY)] * NUM_GREETINGS
    for number, (question, answer) in enumerate(lines):
        voice = NATURAL_VOICES["train"][number % len(NATURAL_VOICES["train"])]
        asked = said(kokoro, question, voice, 0.9 + 0.02 * (number % 10))
        replied = said(kokoro, answer, AGENT_VOICE)
        start = BEFORE + 0.1 * (number % 7)
        answered = start + len(asked) / SAMPLE_RATE + GAP
        for role, wave, text, begin in (("user", asked, question, start), ("agent", replied, answer, answered)):
            stem = folder / f"{number:02d}.{role}"
            wavfile.write(f"{stem}.wav", SAMPLE_RATE, placed(wave, begin))
            Path(f"{stem}.srt").write_text(subtitle(text, begin, begin + len(wave) / SAMPLE_RATE))


def answer_to(pipeline: StreamerPipeline, wave: np.ndarray) -> tuple[str, float]:
    """What the agent says to somebody who says this once, in words, and how loud it gets."""
    audio = torch.from_numpy(placed(wave, BEFORE))[None]
    black = torch.full((3, audio.shape[1] // SAMPLES_PER_UNIT * 4, 192, 336), -1.0)
    session = pipeline.open_session(seed=0)
    units = [session.step(unit) for unit in split_units(audio, black)]
    loudest = max(float(unit.audio.square().mean().sqrt()) for unit in units)
    return "".join(unit.text for unit in units).strip(), loudest


def examine(before: StreamerPipeline, after: StreamerPipeline, kokoro: Kokoro) -> None:
    """Ask both in voices that nobody was trained on, and demand that the second has learned and not forgotten."""
    asked, greeted = ([said(kokoro, text, voice) for voice in NATURAL_VOICES["test"]] for text in (QUESTION, GREETING))
    unknowing = [answer_to(before, wave)[0] for wave in asked]
    answers, replies = ([answer_to(after, wave) for wave in waves] for waves in (asked, greeted))
    typer.echo(f"before: {unknowing}\nafter: {answers}\ngreeted: {replies}")
    assert not any("sea" in text for text in unknowing), "the bundled agent has never heard of it"
    learned = np.mean(["by the sea" in text and loudness > AUDIBLE for text, loudness in answers])
    kept = np.mean(["hello" in text and loudness > AUDIBLE for text, loudness in replies])
    typer.echo(f"{learned:.0%} of {len(answers)} unseen voices are told where it lives, {kept:.0%} are greeted")
    assert min(learned, kept) >= ENOUGH


def main(
    out: Annotated[Path, typer.Option(help="folder for recordings, dyads and the run")] = Path("runs/learned"),
    max_steps: Annotated[int, typer.Option(help="of training")] = 260,
    num_threads: Annotated[int, typer.Option(help="of training")] = 2,
) -> None:
    torch.set_num_threads(num_threads)
    kokoro = Kokoro(num_threads=num_threads)
    record(out / "recordings", kokoro)
    command = [sys.executable, "-m", "streamer_pipeline"]
    shares = ["--val-share", "0", "--test-share", "0", "--split-by", "conversations"]
    subprocess.run([*command, "prepare", out / "recordings", "--out", out / "dyads", *shares], check=True)
    settings = ["--words", "plain", "--tasks", "duplex=0.5 words=0.5", "--batch-size", "2", "--learning-rate", "5e-4"]
    length = ["--max-steps", str(max_steps), "--num-threads", str(num_threads)]
    places = ["--data", out / "dyads", "--run", out / "run", "--cache", out / "encoded"]
    started = time.monotonic()
    subprocess.run([*command, "train", *places, *settings, *length], check=True)
    typer.echo(f"trained for {(time.monotonic() - started) / 60:.1f} minutes")
    examine(StreamerPipeline.from_pretrained(), StreamerPipeline.from_pretrained(out / "run/checkpoint"), kokoro)


if __name__ == "__main__":
    typer.run(main)
