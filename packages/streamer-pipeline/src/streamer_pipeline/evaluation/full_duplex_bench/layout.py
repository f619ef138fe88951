"""The folders of Full-Duplex-Bench: what it gives to hear, and what is written beside it.

    v1_0/SUBSET/ID/input.wav and pause.json, turn_taking.json or interrupt.json (lists with "timestamp": [start, end])
    v1_5/SUBSET/ID/input.wav, clean_input.wav (without what happens in the input) and metadata.json

Beside each `input.wav` come `output.wav` (24 kHz, as long) and `output.json` (`text`, and `chunks` of words with
`timestamp`); beside `clean_input.wav`, `clean_output.wav` and `clean_output.json`. OmniInteract wants the same two.
"""

from __future__ import annotations

import json
import math
import wave
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...clock import SAMPLE_RATE
from ...data.words import Word
from ...media.recordings import RecordingReader

INPUT, CLEAN_INPUT = "input.wav", "clean_input.wav"
SUBSETS = {
    "v1_0": (
        "candor_pause_handling",
        "synthetic_pause_handling",
        "candor_turn_taking",
        "synthetic_user_interruption",
        "icc_backchannel",
    ),
    "v1_5": ("user_interruption", "user_backchannel", "talking_to_other", "background_speech"),
}
BACKCHANNEL_TRUTH = "icc_gt_distribution.json"  # beside the samples of icc_backchannel
_CHANGED = 0.01  # of full scale: where input and clean input differ by more, something happens


@dataclass(frozen=True)
class Sample:
    """One folder of the benchmark. version: "v1_0" or "v1_5"."""

    version: str
    subset: str
    folder: Path

    @property
    def name(self) -> str:
        return f"{self.version}/{self.subset}/{self.folder.name}"

    @property
    def inputs(self) -> tuple[str, ...]:
        """The files to be heard; what is said to INPUT goes to "output", to CLEAN_INPUT to "clean_output"."""
        return (INPUT, CLEAN_INPUT) if self.version == "v1_5" else (INPUT,)


def find_samples(folder: Path, at_most: int | None = None) -> list[Sample]:
    """The samples of a folder that holds `v1_0`, `v1_5`, or subsets of either; `at_most` of each subset.

    Raises:
        ValueError: there are none, or one lacks a file.
    """
    found = []
    for version, subsets in SUBSETS.items():
        root = folder / version if (folder / version).is_dir() else folder
        for subset in subsets:
            inputs = sorted((root / subset).glob(f"*/{INPUT}"), key=lambda path: _in_order(path.parent.name))
            annotated = {path.parent for path in (root / subset).glob("*/*.json")}
            if lost := sorted(annotated - {path.parent for path in inputs}):
                raise ValueError(f"{lost[0]} has annotations but no {INPUT}")
            samples = [Sample(version, subset, path.parent) for path in inputs[:at_most]]
            for sample in samples:
                for name in sample.inputs:
                    if not (sample.folder / name).exists():
                        raise ValueError(f"{sample.folder} has {INPUT} but no {name}, which {version}/{subset} needs")
            found += samples
    if not found:
        names = ", ".join(f"{version}/{subset}" for version, subsets in SUBSETS.items() for subset in subsets)
        raise ValueError(f"{folder} holds no samples of Full-Duplex-Bench: no ID/{INPUT} in any of {names}")
    return found


def _in_order(name: str) -> tuple[bool, int, str]:
    return (False, int(name), "") if name.isdigit() else (True, 0, name)


def check_inputs(sample: Sample) -> None:
    """Whether there is something to be heard, asked before the work.

    Raises:
        ValueError: an input cannot be read, or holds no sound.
    """
    for name in sample.inputs:
        if "audio" not in RecordingReader(sample.folder / name).spans:
            raise ValueError(f"{sample.folder / name} holds no sound")


def read_input(path: Path) -> Tensor:
    """What is heard, (1, N) at 24 kHz, all channels mixed; as long as the file to a sample.

    Raises:
        ValueError: there is no sound in it, or samples that are not finite.
    """
    pieces = list(RecordingReader(path).sound())
    if not pieces:
        raise ValueError(f"{path} holds no sound")
    heard = torch.cat(pieces, dim=1)
    if not heard.isfinite().all():
        raise ValueError(f"{path} holds samples that are not finite")
    return heard


def turn_end(sample: Sample) -> float:
    """When the user's turn is over, in seconds: candor_turn_taking."""
    return _first_timestamp(sample.folder / "turn_taking.json")[0]


def interruption_end(sample: Sample) -> float:
    """When the user's interruption is over, in seconds: synthetic_user_interruption."""
    return _first_timestamp(sample.folder / "interrupt.json")[1]


def event(sample: Sample) -> tuple[float, float]:
    """When something happens in a sample of v1.5, in seconds.

    `timestamps` or `timestamp` of its `metadata.json` say it; without them it is where the input differs from the
    clean input.

    Raises:
        ValueError: neither says it.
    """
    path = sample.folder / "metadata.json"
    metadata = _read_json(path) if path.exists() else {}
    for key in ("timestamps", "timestamp"):
        if isinstance(metadata, dict) and key in metadata:
            return _span(metadata[key], path)
    heard, clean = (read_input(sample.folder / name)[0] for name in (INPUT, CLEAN_INPUT))
    length = min(len(heard), len(clean))
    differs = torch.cat([(heard[:length] - clean[:length]).abs() > _CHANGED, heard[length:].abs() > _CHANGED])
    where = differs.nonzero().flatten()
    if not len(where):
        raise ValueError(f"{sample.folder}: {INPUT} and {CLEAN_INPUT} are alike, and metadata.json has no timestamps")
    return where[0].item() / SAMPLE_RATE, (where[-1].item() + 1) / SAMPLE_RATE


def read_backchannel_truth(samples: Iterable[Sample]) -> dict[str, list[float]]:
    """Sample ID -> how often people give a back-channel in each window of 0.2 s; empty where there is no such file.

    Raises:
        ValueError: the file says something else.
    """
    for sample in samples:
        path = sample.folder.parent / BACKCHANNEL_TRUTH
        if path.exists():
            truth = _read_json(path)
            if not isinstance(truth, dict) or not all(map(_is_distribution, truth.values())):
                raise ValueError(f'{path} should be {{"ID": [weight of every 0.2 s, ...], ...}}')
            return {name: [float(weight) for weight in weights] for name, weights in truth.items()}
    return {}


def _is_distribution(weights: Any) -> bool:
    if not isinstance(weights, list) or not weights:
        return False
    return all(isinstance(weight, int | float) and 0 <= weight < math.inf for weight in weights)


def write_output(sample: Sample, name: str, samples: np.ndarray, words: Sequence[Word]) -> None:
    """`output.wav` and `output.json`, of `clean_input.wav` the same with `clean_` before their names."""
    stem = name.removesuffix(".wav").replace("input", "output")
    with wave.open(str(sample.folder / f"{stem}.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        file.writeframes((np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes())
    chunks = [{"text": word.text, "timestamp": [round(word.start, 3), round(word.end, 3)]} for word in words]
    record = {"text": " ".join(word.text for word in words), "chunks": chunks}
    (sample.folder / f"{stem}.json").write_text(json.dumps(record, indent=1), encoding="utf-8")


def _first_timestamp(path: Path) -> tuple[float, float]:
    record = _read_json(path)
    if not isinstance(record, list) or not record or not isinstance(record[0], dict):
        raise ValueError(f'{path} should be a list of {{"timestamp": [start, end], ...}}')
    return _span(record[0].get("timestamp"), path)


def _span(value: Any, path: Path) -> tuple[float, float]:
    if isinstance(value, list) and len(value) == 2 and all(isinstance(x, int | float) for x in value):
        start, end = map(float, value)
        if 0 <= start <= end:
            return start, end
    raise ValueError(f"{path}: a timestamp is [start, end] in seconds; got {value!r}")


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ValueError(f"{path} is missing") from error
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from error
