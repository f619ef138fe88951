"""`wan-streamer eval`: a checkpoint against a stored test set, closed loop."""

from __future__ import annotations

import zlib
from dataclasses import asdict, dataclass, field
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from ..data.dyads import has_split, read_dataset_info, read_dyads
from ..hub.placement import find_place, load_pipeline
from ..pipeline import StreamerPipeline
from .conversation_store import ConversationStore
from .evaluator import Evaluator, Options
from .face import FaceMeter
from .landmarks import find_face_meter
from .recognisers import Recogniser, find_recogniser
from .report import print_results, write_results
from .row_set import RowSet, make_row_set
from .scorecard import ScoreCard

_STORE = "conversations"


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What `wan-streamer eval` was asked for.

    checkpoint: folder, hub id or bundled name. dataset: folder or hub id of stored dyads. teacher: a checkpoint to
    compare with; None with `teacher_steps` compares with more steps of the same. rows: of the data set's own, as
    `make_row_set` takes them. recogniser: as `find_recogniser` takes it. face: as `find_face_meter` takes it. device,
    dtype: of both checkpoints, as `load_pipeline` takes them.
    """

    checkpoint: str
    dataset: str
    split: str = "test"
    options: Options = field(default_factory=Options)
    teacher: str | None = None
    teacher_steps: int | None = None
    rows: str | None = None
    recogniser: str | None = None
    face: str | None = None
    device: str = "cpu"
    dtype: str = "float32"


def evaluate(asked: Evaluation, out: Path | None = None, workers: int = 1, console: Console | None = None) -> ScoreCard:
    """Evaluate a checkpoint; print the card, and with `out` write score.json, score.md and score.html there.

    Args:
        out: also keeps the conversations, so that a run that broke off goes on where it was.
        workers: processes of one thread each that hold the conversations between them.

    Raises:
        ValueError: the checkpoint or the data set is not what it should be, `out` holds conversations of another
            evaluation, or there are several workers and no `out`. OSError: there is no such checkpoint.
    """
    console = console or Console()
    find_place(asked.device, asked.dtype)
    info = read_dataset_info(asked.dataset)
    if workers > 1 and out is None:
        raise ValueError("several processes meet in the folder of the results: give --out")
    if not has_split(asked.dataset, asked.split):
        raise ValueError(f"{asked.dataset} has no shards {asked.split}-*.tar: name another --split, or make a data set")
    if workers > 1:
        _judges(asked, info)  # what is wrong with them is said before anybody talks
        _hold_conversations(asked, out, workers, console)
    evaluator, pipeline, other = _prepare(asked, out, console)
    _meet_everybody(asked, evaluator, pipeline, other)
    evaluator.long_session(pipeline)
    card = evaluator.finish()
    if asked.rows is None and "rows" in info:
        card.notes.append(f"this data set has rows of its own: --rows {info['rows']}")
    told = {name: value for name, value in vars(asked).items() if name != "options"}
    card.run = told | card.run | {"num_steps": asked.options.num_steps or pipeline.config.num_inference_steps}
    print_results(card, console)
    if out is not None:
        write_results(card, out)
        console.print(f"written to {out}: score.json, score.md, score.html")
    return card


def _prepare(
    asked: Evaluation, out: Path | None, console: Console, part: tuple[int, int] | None = None
) -> tuple[Evaluator, StreamerPipeline, StreamerPipeline | None]:
    """The evaluator, the agent, and its teacher if there is one."""
    info = read_dataset_info(asked.dataset)
    judges = _judges(asked, info)
    pipeline, other = load_pipeline(asked.checkpoint, asked.device, asked.dtype), None
    if asked.teacher is not None:
        other = load_pipeline(asked.teacher, asked.device, asked.dtype)
    elif asked.teacher_steps is not None:
        other = pipeline
    store = None
    if out is not None:
        depends_on = {name: value for name, value in vars(asked).items() if name not in ("options", "recogniser")}
        depends_on |= {name: value for name, value in asdict(asked.options).items() if name not in _MAY_GROW}
        weights = [None if agent is None else _fingerprint(agent) for agent in (pipeline, other)]
        store = ConversationStore(out / _STORE, {**depends_on, "weights": weights, "data": info})
    dyads = partial(read_dyads, asked.dataset, asked.split)
    return Evaluator(dyads, info, asked.options, console, *judges, store, part), pipeline, other


def _judges(asked: Evaluation, info: dict[str, Any]) -> tuple[RowSet | None, Recogniser | None, FaceMeter | None]:
    """Who judges beside the rows that every data set has."""
    return (
        None if asked.rows is None else make_row_set(asked.rows, info),
        None if asked.recogniser is None else find_recogniser(asked.recogniser, asked.device),
        None if asked.face is None else find_face_meter(asked.face),
    )


_MAY_GROW = ("per_scenario", "minutes")  # of a continued evaluation: more dyads, another long session


def _meet_everybody(
    asked: Evaluation, evaluator: Evaluator, pipeline: StreamerPipeline, other: StreamerPipeline | None
) -> None:
    """Every column of the card whose agent talks to the users of the test set."""
    evaluator.agent(pipeline)
    if other is not None:
        evaluator.agent(other, "teacher", asked.teacher_steps or other.config.num_inference_steps)
    if pipeline.audio_vae is not None and pipeline.video_vae is not None:
        evaluator.ceiling(pipeline)
    evaluator.separate_denoising(pipeline)
    evaluator.controls(pipeline)
    evaluator.acoustic_loop(pipeline)


def _hold_conversations(asked: Evaluation, out: Path | None, workers: int, console: Console) -> None:
    """Let processes fill the store; what one of them leaves out, because it ends too early, is held afterwards."""
    context = get_context("spawn")
    processes = [context.Process(target=_hold_part, args=(asked, out, (i, workers))) for i in range(workers)]
    with console.status(f"{workers} processes talk to the users of {asked.dataset}"):
        for process in processes:
            process.start()
        for process in processes:
            process.join()
    if any(process.exitcode for process in processes):
        console.print("a process ended too early; its conversations are held now")


def _hold_part(asked: Evaluation, out: Path, part: tuple[int, int]) -> None:
    torch.set_num_threads(1)
    _meet_everybody(asked, *_prepare(asked, out, Console(quiet=True), part))


def _fingerprint(pipeline: StreamerPipeline) -> int:
    """A number that changes with the weights."""
    checksum = 0
    for _, part in sorted(pipeline.components.items()):
        if isinstance(part, torch.nn.Module):
            for weight in part.state_dict().values():
                values = weight.detach().cpu().reshape(-1)  # a single number, too, has bytes then
                checksum = zlib.crc32(values.view(torch.uint8).numpy(), checksum)
    return checksum
