"""`wan-streamer eval`: score a checkpoint on a test set."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from ..checkpoints import BUNDLED
from .options import (
    Checkpoint,
    Device,
    Dtype,
    Threads,
    check_folder,
    console,
    finite,
    in_a_sentence,
    needs_extra,
    use_threads,
)


def evaluate(
    checkpoint: Checkpoint = BUNDLED,
    folder: Annotated[Path | None, typer.Argument(help="of the benchmark's samples, with --benchmark")] = None,
    dataset: Annotated[str, typer.Option(help="folder or hub id of stored dyads")] = "runs/world",
    benchmark: Annotated[
        Literal["full-duplex-bench"] | None, typer.Option(help="hear the samples of a public benchmark in FOLDER")
    ] = None,
    picture: Annotated[
        Path | None, typer.Option(help="film of a person, who is seen while the samples of a benchmark are heard")
    ] = None,
    recogniser: Annotated[
        str | None,
        typer.Option(help="who writes down what the agent says: pocketsphinx, whisper:MODEL or module:callable"),
    ] = None,
    split: Annotated[str, typer.Option(help="split of the dyads")] = "test",
    per_scenario: Annotated[
        int | None,
        typer.Option(min=1, help="dyads of every scenario, default 10; of a benchmark's subset, default all"),
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="solver steps; default the checkpoint's own")] = None,
    seed: Annotated[int, typer.Option(help="of all noise")] = 0,
    out: Annotated[Path | None, typer.Option(help="folder for score.json, score.md and score.html")] = None,
    rows: Annotated[
        str | None, typer.Option(metavar="MODULE:NAME", help="rows that the data set brings of its own")
    ] = None,
    face: Annotated[
        str | None,
        typer.Option(help="who finds mouth, brows and identity in the agent's picture: landmarks, or module:name"),
    ] = None,
    teacher: Annotated[str | None, typer.Option(help="another checkpoint to compare with")] = None,
    teacher_steps: Annotated[int | None, typer.Option(min=1, help="compare with so many solver steps")] = None,
    minutes: Annotated[
        float, typer.Option(min=0, callback=finite, help="length of the long session; 0 leaves it out")
    ] = 3.0,
    batch_size: Annotated[int, typer.Option(min=1, help="conversations at once")] = 8,
    workers: Annotated[int, typer.Option(min=1, help="processes of one thread that share the conversations")] = 1,
    device: Device = "cpu",
    dtype: Dtype = "float32",
    threads: Threads = 0,
) -> None:
    """Let a checkpoint meet the users of a test set, closed loop, and print its score card beside aims and baselines.

    What needs only two tracks and words is measured on every data set of dyads; --rows adds what a data set brings.

    With --benchmark full-duplex-bench FOLDER it hears the samples of that benchmark (v1_0, v1_5) instead, writes
    output.wav and output.json beside each, and prints its measures.

    Needs the extra `eval`: pip install "wan-streamer-pipeline[eval]".
    """
    with in_a_sentence():
        if out is not None:
            check_folder(out)
        use_threads(threads)
        if (benchmark is None) != (folder is None):
            raise ValueError("--benchmark and a FOLDER go together: CHECKPOINT --benchmark full-duplex-bench FOLDER")
        if benchmark is not None and folder is not None:
            with needs_extra("eval"):
                from ..evaluation.full_duplex_bench.command import run_benchmark
            run_benchmark(
                checkpoint,
                folder,
                recogniser,
                picture,
                per_scenario,
                steps,
                seed,
                batch_size,
                out,
                console=console,
                device=device,
                dtype=dtype,
            )
            return
        with needs_extra("eval"):
            from ..evaluation import command
            from ..evaluation.evaluator import Options
        asked = command.Evaluation(
            checkpoint=checkpoint,
            dataset=dataset,
            split=split,
            options=Options(per_scenario or 10, steps, seed, minutes, batch_size),
            teacher=teacher,
            teacher_steps=teacher_steps,
            rows=rows,
            recogniser=recogniser,
            face=face,
            device=device,
            dtype=dtype,
        )
        command.evaluate(asked, out, workers, console)
