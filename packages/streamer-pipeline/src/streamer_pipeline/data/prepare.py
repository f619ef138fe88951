"""Recordings of conversations, as people have them, into dyads: what `wan-streamer prepare` does."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import re
import shutil
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from av import FFmpegError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ..clock import FRAME_RATE, SAMPLE_RATE, UNIT_MS
from .build import BuildOptions, BuiltDyad, build_dyads
from .dataset_card import CARD_FILE, dataset_card
from .dyads import DATASET_INFO_FILE, has_dataset_info, read_dataset_info
from .importers import FORMATS, detect_format
from .importers.conversation import Conversation, ShardMember, Skipped
from .shards import write_shard
from .splits import SPLITS, SplitBy, assign_splits
from .summary import DyadNumbers, measure, plot_summary, summarize
from .transcription import load_recogniser

SKIPPED_FILE, PLOT_FILE = "skipped.jsonl", "summary.png"
_STATE_FOLDER = ".prepare"  # what is known of finished shards
_VERSION = 1  # of what is written; another one builds shards again


@dataclass(frozen=True)
class PrepareOptions:
    """How a source becomes a data set.

    format: of `FORMATS`; None detects it. split_by, val_share, test_share: as `assign_splits` takes them.
    shard_size: conversations of a shard; finished ones are kept when a run is repeated. workers: processes; 0 takes all
    cores. license: of the recordings, as the Hub names it.
    """

    build: BuildOptions = field(default_factory=BuildOptions)
    format: str | None = None
    split_by: SplitBy = "speakers"
    val_share: float = 0.05
    test_share: float = 0.05
    shard_size: int = 16
    workers: int = 0
    license: str = "unknown"


@dataclass(frozen=True)
class Prepared:
    """What a run has made, finished shards of earlier runs included."""

    info: dict[str, Any]
    dyads: list[DyadNumbers]
    skipped: list[Skipped]


@dataclass(frozen=True)
class _Shard:
    """A shard to be: its name, its conversations, and what decides its content."""

    name: str
    conversations: list[Conversation]
    fingerprint: str


def prepare(source: Path, out: Path, options: PrepareOptions, console: Console | None = None) -> Prepared:
    """Read the conversations of `source`, bring them to the clock and write them to `out` as dyads.

    A run that was broken off and is started again keeps the shards that were finished and would become the same again.

    Raises:
        ValueError: the source has no known layout, nothing in it can be used, or `out` holds other shards.
        FileNotFoundError: there is no source.
    """
    name = options.format or detect_format(source)
    if name not in FORMATS:
        raise ValueError(f"there is no format {name!r}; there are {', '.join(FORMATS)}")
    if options.build.transcribe is not None:
        load_recogniser(options.build.transcribe, options.build.device)  # else every conversation would fail alike
    conversations, skipped = _find(source, name, options)
    shards = _plan(conversations, options)
    _claim(out, source)
    _clear_others(out, {shard.name for shard in shards})
    unfinished = [shard for shard in shards if _read_state(out, shard) is None]
    _build_shards(unfinished, out, options, console or Console())
    dyads: list[DyadNumbers] = []
    for shard in shards:
        content = _read_state(out, shard)
        assert content is not None
        dyads += content["dyads"]
        skipped += [Skipped(**item) for item in content["skipped"]]
    _write_skipped(out, skipped)
    if not dyads:
        raise ValueError(
            f"none of the {len(skipped)} conversations of {source} can be used; {out / SKIPPED_FILE} says why of each, "
            f"the first: {skipped[0].reason}"
        )
    info = _describe(name, dyads, skipped, options)
    if name == "dyads" and has_dataset_info(source):
        info = read_dataset_info(source) | info
    (out / DATASET_INFO_FILE).write_text(json.dumps(info, indent=1), encoding="utf-8")
    (out / CARD_FILE).write_text(dataset_card(info, options.license), encoding="utf-8")
    plot_summary(dyads, out / PLOT_FILE)
    return Prepared(info, dyads, skipped)


def _find(source: Path, name: str, options: PrepareOptions) -> tuple[list[Conversation], list[Skipped]]:
    """The conversations of a source, with keys and splits, and what its importer had to leave out."""
    found = list(FORMATS[name].read(source))
    if not found:
        raise ValueError(f"{source} holds no conversations; looked for {FORMATS[name].LOOKED_FOR}")
    conversations = _with_keys([item for item in found if isinstance(item, Conversation)])
    splits = assign_splits(conversations, {"val": options.val_share, "test": options.test_share}, options.split_by)
    conversations = [replace(item, split=split) for item, split in zip(conversations, splits, strict=True)]
    return conversations, [item for item in found if isinstance(item, Skipped)]


def picture_size(checkpoint: str) -> tuple[int, int]:
    """Height and width of the pictures that a checkpoint draws.

    Raises:
        ValueError: it draws none. Others as `StreamerPipeline.from_pretrained`.
    """
    from ..hub.placement import load_pipeline
    from .encoding import drawn_size

    pipeline = load_pipeline(checkpoint)
    if pipeline.video_vae is None:
        raise ValueError(f"{checkpoint} has no video_vae, so its pictures have no size: give --size instead")
    return drawn_size(pipeline)


def _with_keys(conversations: list[Conversation]) -> list[Conversation]:
    """Keys become names that a webdataset takes (no dots, no folders), and no two are the same."""
    seen: dict[str, int] = {}
    named = []
    for conversation in conversations:
        key = re.sub(r"[^\w-]+", "_", conversation.key).strip("_") or "conversation"
        seen[key] = seen.get(key, 0) + 1
        named.append(replace(conversation, key=key if seen[key] == 1 else f"{key}_{seen[key]}"))
    return named


def _plan(conversations: Sequence[Conversation], options: PrepareOptions) -> list[_Shard]:
    shards = []
    for split in SPLITS:
        of_split = sorted((item for item in conversations if item.split == split), key=lambda item: item.key)
        for first in range(0, len(of_split), options.shard_size):
            content = of_split[first : first + options.shard_size]
            name = f"{split}-{first // options.shard_size:05d}"
            shards.append(_Shard(name, content, _fingerprint(content, options.build)))
    return shards


def _fingerprint(conversations: list[Conversation], options: BuildOptions) -> str:
    """Of everything that decides the content of a shard: a file that was written again has another time."""
    media = {item for c in conversations for side in (c.user, c.agent) for item in side.media}
    paths = sorted({item.shard if isinstance(item, ShardMember) else item for item in media})
    files = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in paths if path.exists()]
    return hashlib.sha256(repr((_VERSION, conversations, asdict(options), files)).encode()).hexdigest()


def _claim(out: Path, source: Path) -> None:
    """A folder is for the dyads of one source.

    Raises:
        ValueError: it has shards of another, or of nobody.
    """
    for path in sorted(out.glob("*-*.tar")):
        if not _state_file(out, path.stem).exists():
            raise ValueError(f"{path} was not written by `wan-streamer prepare`: give a folder of its own as --out")
    owner, here = out / _STATE_FOLDER / "source", str(source.resolve())
    if owner.exists() and (other := owner.read_text(encoding="utf-8")) != here:
        raise ValueError(f"{out} holds the dyads of {other}: give another folder as --out, or delete this one first")
    owner.parent.mkdir(parents=True, exist_ok=True)
    owner.write_text(here, encoding="utf-8")


def _clear_others(out: Path, names: set[str]) -> None:
    """Shards of an earlier run that this one does not have would mix with its own."""
    for path in sorted(out.glob("*-*.tar")):
        if path.stem not in names:
            path.unlink()
            _state_file(out, path.stem).unlink()


def _state_file(out: Path, name: str) -> Path:
    return out / _STATE_FOLDER / f"{name}.json"


def _read_state(out: Path, shard: _Shard) -> dict[str, Any] | None:
    """What is known of a shard if it is finished and would become the same again."""
    try:
        state = json.loads(_state_file(out, shard.name).read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    if state.get("fingerprint") != shard.fingerprint:
        return None
    return state if (out / f"{shard.name}.tar").exists() or not state["dyads"] else None


def _build_shards(shards: list[_Shard], out: Path, options: PrepareOptions, console: Console) -> None:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    num_conversations = sum(len(shard.conversations) for shard in shards)
    with (
        TemporaryDirectory(dir=out / _STATE_FOLDER) as staging,
        Progress(*columns, console=console) as progress,
    ):
        task = progress.add_task("preparing", total=num_conversations)
        jobs = [_Job(c, options.build, Path(staging) / c.key) for shard in shards for c in shard.conversations]
        results = _run(jobs, options.workers or os.cpu_count() or 1)
        for shard in shards:
            built: list[BuiltDyad] = []
            skipped: list[Skipped] = []
            for _ in shard.conversations:
                result = next(results)
                progress.advance(task)
                if isinstance(result, Skipped):
                    skipped.append(result)
                else:
                    built += result
            path = out / f"{shard.name}.tar"
            # Whenever this is broken off, the next run knows the shard as its own, and not as finished.
            _state_file(out, shard.name).write_text("{}", encoding="utf-8")
            path.unlink(missing_ok=True)
            if built:
                write_shard(path, ((dyad.key, dyad.members) for dyad in built))
            state = {
                "fingerprint": shard.fingerprint,
                "dyads": [measure(dyad.key, dyad.labels) for dyad in built],
                "skipped": [asdict(item) for item in skipped],
            }
            _state_file(out, shard.name).write_text(json.dumps(state), encoding="utf-8")
            for conversation in shard.conversations:
                shutil.rmtree(Path(staging) / conversation.key, ignore_errors=True)


@dataclass(frozen=True)
class _Job:
    conversation: Conversation
    options: BuildOptions
    folder: Path

    def __call__(self) -> list[BuiltDyad] | Skipped:
        self.folder.mkdir(parents=True)
        try:
            return build_dyads(self.conversation, self.options, self.folder)
        except (ValueError, FFmpegError) as error:  # a full disk is no fault of the recording
            return Skipped(self.conversation.key, str(error))


def _run(jobs: list[_Job], workers: int) -> Iterator[list[BuiltDyad] | Skipped]:
    """Results in order. Few more are begun than there are workers: what is built waits on the disk."""
    workers = min(workers, len(jobs))
    if workers <= 1:
        yield from (job() for job in jobs)
        return
    context = multiprocessing.get_context("spawn")  # a forked process would inherit the threads of the progress bar
    with ProcessPoolExecutor(workers, context, initializer=_use_one_thread) as pool:
        waiting = deque(pool.submit(job) for job in jobs[: 2 * workers])
        try:
            for job in [*jobs[2 * workers :], *[None] * len(waiting)]:
                yield waiting.popleft().result()
                if job is not None:
                    waiting.append(pool.submit(job))
        except BrokenProcessPool as error:
            raise OSError(
                "a worker was ended from outside, probably because memory ran out: run the command again with fewer "
                "--workers; finished shards are kept"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def _use_one_thread() -> None:
    import torch

    torch.set_num_threads(1)


def _describe(name: str, dyads: list[DyadNumbers], skipped: list[Skipped], options: PrepareOptions) -> dict[str, Any]:
    """`dataset_info.json`: what is true of the whole set."""
    by_split = {split: [dyad for dyad in dyads if dyad["split"] == split] for split in SPLITS}
    return {
        "source": name,
        "clock": {"sample_rate": SAMPLE_RATE, "frame_rate": FRAME_RATE, "unit_ms": UNIT_MS},
        "size": list(options.build.size),
        "both_directions": options.build.both_directions,
        "split_by": options.split_by,
        "transcribed_by": options.build.transcribe and Path(options.build.transcribe).name,
        "summary": summarize(dyads),
        "splits": {split: summarize(of_split) for split, of_split in by_split.items() if of_split},
        "num_skipped": len(skipped),
    }


def _write_skipped(out: Path, skipped: list[Skipped]) -> None:
    path = out / SKIPPED_FILE
    path.unlink(missing_ok=True)
    if skipped:
        lines = [json.dumps(asdict(item), ensure_ascii=False) + "\n" for item in skipped]
        path.write_text("".join(lines), encoding="utf-8")
