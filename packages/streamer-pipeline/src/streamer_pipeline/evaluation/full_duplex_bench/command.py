"""`wan-streamer eval --benchmark full-duplex-bench FOLDER`: the agent hears every sample, and is scored."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

from ...clock import SAMPLE_RATE, SAMPLES_PER_UNIT
from ...data.dyads import StoredDyad
from ...hub.placement import find_place, load_pipeline
from ...media.recordings import RecordingReader
from ...pipeline import StreamerPipeline
from ..closed_loop import converse, without_picture
from ..own_words import own_words
from ..recognisers import find_recogniser
from ..report import print_results, write_results
from ..scorecard import ScoreCard
from ..sound import bursts, seconds
from . import layout
from .layout import INPUT, Sample
from .rows import ROWS, Output, scores, subset_of

OWN_WORDS = (
    "words and their times are the agent's own text, moved to its sound: nobody listened; "
    "--recogniser names somebody who does"
)
IN_THE_DARK = (
    "the user's picture is black, which an agent that was always shown people may not know: --picture gives it a film"
)
_LONGEST_FILM = 63  # units, ten seconds: at 192x336 they take 200 MB
READ_TOGETHER = (
    "an agent that never speaks has perfect pauses and no turns (see the column silent): read pauses and turns together"
)


def run_benchmark(
    checkpoint: str,
    folder: Path,
    recogniser: str | None = None,
    picture: Path | None = None,
    at_most: int | None = None,
    num_steps: int | None = None,
    seed: int = 0,
    batch_size: int = 8,
    out: Path | None = None,
    console: Console | None = None,
    device: str = "cpu",
    dtype: str = "float32",
) -> ScoreCard:
    """Let a checkpoint hear the samples of a folder, write its outputs beside them, print and return its score card.

    Args:
        recogniser: as `find_recogniser` takes it; without one, the agent's own text stands for what it says.
        picture: a film that stands for all users, begun again at its end; without one they are in the dark.
        at_most: so many samples of every subset. out: folder for score.json, score.md and score.html.

    Raises:
        ValueError: there are no samples, or one is not as the benchmark has it. OSError: there is no checkpoint.
    """
    console = console or Console()
    find_place(device, dtype)
    samples = layout.find_samples(folder, at_most)
    for sample in samples:
        layout.check_inputs(sample)
    moments = [moments_of(sample) for sample in samples]
    truth = layout.read_backchannel_truth(samples)
    listener = None if recogniser is None else find_recogniser(recogniser, device)
    if listener is not None and not hasattr(listener, "words"):
        raise ValueError(f"{recogniser} does not say when words sound: it needs a method words(samples, rate)")
    pipeline = without_picture(load_pipeline(checkpoint, device, dtype))
    unseen = None if picture is None else _film(picture)
    outputs = []
    heard = _hear_all(pipeline, samples, seed, num_steps, batch_size, unseen)
    total = sum(len(sample.inputs) for sample in samples)
    for index, name, wave, texts in track(heard, "full-duplex-bench", total=total, console=console):
        words = own_words(texts, wave) if listener is None else listener.words(wave, SAMPLE_RATE)
        layout.write_output(samples[index], name, wave, words)
        if name == INPUT:
            segments = [(seconds(first), seconds(end)) for first, end in bursts(wave)]
            length = len(wave) / SAMPLE_RATE
            outputs.append(Output(samples[index], moments[index], tuple(words), segments, length))
    card = _score_card(outputs, truth, folder, recogniser)
    card.notes.append(IN_THE_DARK if picture is None else f"the picture of all users is {picture}")
    card.run = {
        "checkpoint": checkpoint,
        "benchmark": f"full-duplex-bench {folder}",
        "samples": len(samples),
        "num_steps": num_steps or pipeline.config.num_inference_steps,
        "seed": seed,
        "recogniser": recogniser or "none",
        "picture": str(picture or "black"),
        "device": device,
        "dtype": dtype,
    }
    print_results(card, console)
    if out is not None:
        write_results(card, out)
        console.print(f"written to {out}: score.json, score.md, score.html")
    return card


def moments_of(sample: Sample) -> tuple[float, ...]:
    """What `rows.scores` wants to know of a sample."""
    if sample.version == "v1_5":
        return layout.event(sample)
    if sample.subset == "candor_turn_taking":
        return (layout.turn_end(sample),)
    if sample.subset == "synthetic_user_interruption":
        return (layout.interruption_end(sample),)
    return ()


def _film(path: Path) -> Tensor:
    """(3, T, H, W), whole units.

    Raises:
        ValueError: there is no picture in it.
    """
    reader = RecordingReader(path)
    if "video" not in reader.spans:
        raise ValueError(f"{path} has no picture that could stand for the user's")
    return torch.cat([unit.video for unit in islice(reader, _LONGEST_FILM)], dim=1)


def _hear_all(
    pipeline: StreamerPipeline,
    samples: list[Sample],
    seed: int,
    num_steps: int | None,
    batch_size: int,
    unseen: Tensor | None,
) -> Iterator[tuple[int, str, np.ndarray, list[str]]]:
    """(index of the sample, name of its input, sound as long as that (N,), words of each unit), as they end."""
    lengths: dict[str, tuple[int, str, int]] = {}

    def users() -> Iterator[StoredDyad]:
        for index, sample in enumerate(samples):
            for name in sample.inputs:
                heard = layout.read_input(sample.folder / name)
                num_samples = heard.shape[1]
                heard = torch.nn.functional.pad(heard, (0, -num_samples % SAMPLES_PER_UNIT))
                key = f"{sample.name}/{name}"
                lengths[key] = index, name, num_samples
                yield StoredDyad(key, {}, heard, None, torch.zeros_like(heard), None)

    for done in converse(pipeline, users(), seed=seed, num_steps=num_steps, batch_size=batch_size, unseen=unseen):
        index, name, num_samples = lengths.pop(done.key)
        yield index, name, done.wave[:num_samples], done.texts


def _score_card(
    outputs: list[Output], truth: dict[str, list[float]], folder: Path, recogniser: str | None
) -> ScoreCard:
    silent = [replace(output, words=(), segments=()) for output in outputs]
    columns = {"agent": scores(outputs, truth), "silent": scores(silent, truth)}
    card = ScoreCard(ROWS, columns, title="Full-Duplex-Bench")
    there = {f"{output.sample.version}/{output.sample.subset}" for output in outputs}
    for row in ROWS:
        subset = subset_of(row)
        if subset not in there:
            card.say_why_absent([row.key], f"there is no {subset} in {folder}")
        elif row.key == "fdb.backchannel_divergence" and not truth:
            card.say_why_absent([row.key], f"there is no {subset}/{layout.BACKCHANNEL_TRUTH} in {folder}")
        else:
            card.say_why_absent([row.key], "the agent never does what it measures")
    card.notes = [
        READ_TOGETHER,
        OWN_WORDS if recogniser is None else f"words and their times were written down by {recogniser}",
        "stretches of the agent's sound are told by level alone (-38 dBFS)",
    ]
    return card
