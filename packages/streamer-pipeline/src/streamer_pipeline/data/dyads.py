"""Stored dyads: conversations of a user and a reference agent, streamed from webdataset shards (extra `[eval]`).

A source is a folder or a dataset on the hub. Per split it holds shards `<split>-00000.tar`, ...; of every dyad
`<key>.user.mp4` and `<key>.agent.mp4` (picture, where there is one), `<key>.user.flac` and `<key>.agent.flac` (sound),
and `<key>.json` (labels). `dataset_info.json` beside them says what is true of the whole set. `wan-streamer prepare`
makes them of recordings.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from av import FFmpegError
from huggingface_hub import HfFileSystem, hf_hub_download
from huggingface_hub.errors import EntryNotFoundError
from torch import Tensor

from ..units import FRAMES_PER_UNIT, SAMPLE_RATE, SAMPLES_PER_UNIT

DATASET_INFO_FILE = "dataset_info.json"
_OLD_INFO_FILE = "world.json"
MEDIA = ("user.flac", "agent.flac", "user.mp4", "agent.mp4")
StoredRow = dict[str, Any]


@dataclass(frozen=True, eq=False)
class StoredDyad:
    """One conversation on the wall clock, both sides.

    user_audio, agent_audio: (1, num_units * 3840) in [-1, 1], 24 kHz. user_video, agent_video: (3, num_units * 4, H, W)
    in [-1, 1], 25 fps; None where nobody filmed. labels: who said and showed what when, and what the agent owes. Of
    prepared recordings: `labels["agent"]["transcript"]` and the user's are [[word, start, end], ...] in seconds, None
    where nobody wrote it down; the agent's `words` and `speaking` are what its language slots hold, per unit.
    """

    key: str
    labels: dict[str, Any]
    user_audio: Tensor
    user_video: Tensor | None
    agent_audio: Tensor
    agent_video: Tensor | None

    @property
    def num_units(self) -> int:
        return self.user_audio.shape[1] // SAMPLES_PER_UNIT


def _dataset_info_file(source: str | Path) -> Path | None:
    return _dataset_file(source, DATASET_INFO_FILE) or _dataset_file(source, _OLD_INFO_FILE)


def has_dataset_info(source: str | Path) -> bool:
    """Whether `read_dataset_info` finds something to read."""
    return _dataset_info_file(source) is not None


def read_dataset_info(source: str | Path) -> dict[str, Any]:
    """What `dataset_info.json` of a source says; `world.json`, its name in version 0.1, is read as well.

    Raises:
        ValueError: there is no such source, it has no such file, or the file is damaged.
    """
    path = _dataset_info_file(source)
    if path is None:
        raise ValueError(f"{source} has no {DATASET_INFO_FILE}; make a data set with `wan-streamer prepare`")
    try:
        info = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is damaged ({error}); delete it and make the data set again") from error
    if not isinstance(info, dict):
        raise ValueError(f"{path} should hold an object, not {info!r:.40}; delete it and make the data set again")
    return info


def _dataset_file(source: str | Path, name: str) -> Path | None:
    """The local path of a file of a folder or of a dataset on the Hub; None where the source has no such file."""
    if Path(source).is_dir():
        path = Path(source) / name
        return path if path.exists() else None
    try:
        return Path(hf_hub_download(str(source), name, repo_type="dataset"))
    except EntryNotFoundError:
        return None
    except Exception as error:
        raise ValueError(f"{source} is neither a folder nor a dataset that can be reached: {error}") from error


def read_dyads(source: str | Path, split: str = "test") -> Iterator[StoredDyad]:
    """The dyads of a split, in order, one in memory at a time.

    Raises:
        ValueError: there is no such source or split, or a dyad's media are damaged or do not fit its labels.
    """
    for row in read_rows(source, split):
        yield decode_dyad(row, source)


def read_rows(source: str | Path, split: str) -> Iterator[StoredRow]:
    """The dyads of a split as they are stored, nothing decoded: `__key__`, `json`, and the media's bytes or None.

    Raises:
        ValueError: there is no such source or split, or a shard is damaged.
    """
    from datasets import Features, Json, Value, load_dataset

    # Named here, media stay bytes: inferred, `datasets` would want torchcodec to hand them over.
    features = Features(
        {"__key__": Value("string"), "__url__": Value("string"), "json": Json()}
        | {name: Value("binary") for name in MEDIA}
    )
    files = {split: _shards(source, split)}
    rows = load_dataset("webdataset", data_files=files, split=split, streaming=True, features=features)
    yield from _undamaged(rows, source, split)


def has_split(source: str | Path, split: str) -> bool:
    """Whether a source has shards of a split.

    Raises:
        ValueError: there is no such source.
    """
    return bool(_find_shards(source, split))


def decode_dyad(row: StoredRow, source: str | Path) -> StoredDyad:
    """A row of `read_rows` as a dyad.

    Raises:
        ValueError: its media are damaged or do not fit its labels.
    """
    key, labels = row["__key__"], row["json"]
    if missing := [name for name in ("json", "user.flac", "agent.flac") if row[name] is None]:
        raise ValueError(f"dyad {key} of {source} has no {key}.{f' and no {key}.'.join(missing)}")
    try:
        sounds = {name: _decode_sound(row[f"{name}.flac"]) for name in ("user", "agent")}
        pictures = {name: row[f"{name}.mp4"] and _decode_picture(row[f"{name}.mp4"]) for name in sounds}
        num_units = labels["num_units"]
    except (FFmpegError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"dyad {key} of {source} cannot be read: {type(error).__name__} {error}") from error
    dyad = StoredDyad(key, labels, sounds["user"], pictures["user"], sounds["agent"], pictures["agent"])
    lengths = {sound.shape[1] / SAMPLES_PER_UNIT for sound in sounds.values()}
    lengths |= {picture.shape[1] / FRAMES_PER_UNIT for picture in pictures.values() if picture is not None}
    if lengths != {num_units}:
        raise ValueError(f"dyad {key} of {source} should last {num_units} units; its media last {sorted(lengths)}")
    return dyad


def _undamaged(rows: Iterable[dict[str, Any]], source: str | Path, split: str) -> Iterator[dict[str, Any]]:
    try:
        yield from rows
    except (tarfile.TarError, json.JSONDecodeError) as error:
        raise ValueError(
            f"a shard {split}-*.tar of {source} is damaged ({error}); build or download it again"
        ) from error


def _shards(source: str | Path, split: str) -> list[str]:
    if shards := _find_shards(source, split):
        return shards
    raise ValueError(f"{source} has no shards {split}-*.tar; make a data set with `wan-streamer prepare`")


def _find_shards(source: str | Path, split: str) -> list[str]:
    if Path(source).is_dir():
        return [str(path) for path in sorted(Path(source).glob(f"{split}-*.tar"))]
    try:
        return [f"hf://{path}" for path in sorted(HfFileSystem().glob(f"datasets/{source}/{split}-*.tar"))]
    except Exception as error:
        raise ValueError(f"{source} is neither a folder nor a dataset that can be reached: {error}") from error


def _decode_sound(data: bytes) -> Tensor:
    """FLAC of 24 kHz mono -> (1, T) float32."""
    with av.open(io.BytesIO(data), "r") as container:
        stream = container.streams.audio[0]
        if (stream.rate, stream.channels) != (SAMPLE_RATE, 1):
            raise ValueError(f"sound is {stream.rate} Hz with {stream.channels} channels; expected 24000 Hz mono")
        pieces = [frame.to_ndarray().reshape(1, -1) for frame in container.decode(stream)]
    return torch.from_numpy(np.concatenate(pieces, axis=1).astype(np.float32) / 32768)


def _decode_picture(data: bytes) -> Tensor:
    """Any video -> (3, T, H, W) float32 in [-1, 1]."""
    with av.open(io.BytesIO(data), "r") as container:
        frames = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    return torch.from_numpy(frames).permute(3, 0, 1, 2).float().div_(127.5).sub_(1)
