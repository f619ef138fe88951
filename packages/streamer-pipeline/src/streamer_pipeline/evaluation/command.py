"""`wan-streamer eval`: a checkpoint against a stored test set, closed loop."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from rich.console import Console

from ..data.dyads import has_split, read_dataset_info, read_dyads
from ..hub.placement import find_place, load_pipeline
from .evaluator import Evaluator, Options
from .landmarks import find_face_meter
from .recognisers import find_recogniser
from .report import print_results, write_results
from .row_set import make_row_set
from .scorecard import ScoreCard


def evaluate(
    checkpoint: str,
    dataset: str,
    split: str,
    options: Options,
    out: Path | None = None,
    teacher: str | None = None,
    teacher_steps: int | None = None,
    rows: str | None = None,
    recogniser: str | None = None,
    face: str | None = None,
    console: Console | None = None,
    device: str = "cpu",
    dtype: str = "float32",
) -> ScoreCard:
    """Evaluate a checkpoint; print the card, and with `out` write score.json, score.md and score.html there.

    Args:
        checkpoint: folder, hub id or bundled name. dataset: folder or hub id of stored dyads.
        teacher: a checkpoint to compare with; None with `teacher_steps` compares with more steps of the same.
        rows: of the data set's own, as `make_row_set` takes them. recogniser: as `find_recogniser` takes it.
        face: as `find_face_meter` takes it.
        device, dtype: of both, as `load_pipeline` takes them.

    Raises:
        ValueError: the checkpoint or the data set is not what it should be. OSError: there is none.
    """
    console = console or Console()
    find_place(device, dtype)
    info = read_dataset_info(dataset)
    if not has_split(dataset, split):
        raise ValueError(f"{dataset} has no shards {split}-*.tar: name another --split, or make a data set")
    row_set = None if rows is None else make_row_set(rows, info)
    listener = None if recogniser is None else find_recogniser(recogniser, device)
    face_meter = None if face is None else find_face_meter(face)
    pipeline = load_pipeline(checkpoint, device, dtype)
    evaluator = Evaluator(partial(read_dyads, dataset, split), info, options, console, row_set, listener, face_meter)
    evaluator.agent(pipeline)
    if teacher is not None or teacher_steps is not None:
        other = pipeline if teacher is None else load_pipeline(teacher, device, dtype)
        evaluator.agent(other, "teacher", teacher_steps or other.config.num_inference_steps)
    if pipeline.audio_vae is not None and pipeline.video_vae is not None:
        evaluator.ceiling(pipeline)
    evaluator.separate_denoising(pipeline)
    evaluator.controls(pipeline)
    evaluator.acoustic_loop(pipeline)
    evaluator.long_session(pipeline)
    card = evaluator.finish()
    if rows is None and "rows" in info:
        card.notes.append(f"this data set has rows of its own: --rows {info['rows']}")
    card.run = {
        "checkpoint": checkpoint,
        "dataset": dataset,
        "split": split,
        **card.run,
        "num_steps": options.num_steps or pipeline.config.num_inference_steps,
        "rows": rows,
        "recogniser": recogniser,
        "face": face,
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
