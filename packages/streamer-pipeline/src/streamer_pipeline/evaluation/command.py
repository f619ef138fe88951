"""`wan-streamer eval`: a checkpoint against a stored test set, closed loop."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from rich.console import Console

from ..data.dyads import read_dataset_info, read_dyads
from ..hub.placement import find_place, load_pipeline
from .examination import Examination, Options
from .report import print_results, write_results
from .scorecard import ScoreCard


def evaluate(
    checkpoint: str,
    dataset: str,
    split: str,
    options: Options,
    out: Path | None = None,
    teacher: str | None = None,
    teacher_steps: int | None = None,
    console: Console | None = None,
    device: str = "cpu",
    dtype: str = "float32",
) -> ScoreCard:
    """Examine a checkpoint; print the card, and with `out` write score.json, score.md and score.html there.

    Args:
        checkpoint: folder, hub id or bundled name. dataset: folder or hub id of stored dyads.
        teacher: a checkpoint to compare with; None with `teacher_steps` compares with more steps of the same.
        device, dtype: of both, as `load_pipeline` takes them.

    Raises:
        ValueError: the checkpoint or the data set is not what it should be. OSError: there is none.
    """
    console = console or Console()
    find_place(device, dtype)
    world = read_dataset_info(dataset)
    if "grammar" not in world:
        raise ValueError(f"{dataset} does not say what may be said in it: so far dyads of the duplex world are scored")
    pipeline = load_pipeline(checkpoint, device, dtype)
    examination = Examination(partial(read_dyads, dataset, split), world, options, console)
    examination.agent(pipeline)
    if teacher is not None or teacher_steps is not None:
        other = pipeline if teacher is None else load_pipeline(teacher, device, dtype)
        examination.agent(other, "teacher", teacher_steps or other.config.num_inference_steps)
    if pipeline.audio_vae is not None and pipeline.video_vae is not None:
        examination.ceiling(pipeline)
    examination.separate_denoising(pipeline)
    examination.controls(pipeline)
    examination.acoustic_loop(pipeline)
    examination.long_session(pipeline)
    card = examination.card
    card.run = {
        "checkpoint": checkpoint,
        "dataset": dataset,
        "split": split,
        **card.run,
        "num_steps": options.num_steps or pipeline.config.num_inference_steps,
        "teacher": teacher,
        "teacher_steps": teacher_steps,
        "device": device,
        "dtype": dtype,
    }
    print_results(card, console)
    if out is not None:
        write_results(card, out)
        console.print(f"written to {out}: score.json, score.md, score.html")
    return card
