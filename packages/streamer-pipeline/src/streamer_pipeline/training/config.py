"""The one record of a training run: flat, checked once, from YAML and flags, written beside what it made."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, Self, get_args

import yaml

from ..checkpoints import BUNDLED

Method = Literal["full", "lora", "heads"]
Phase = Literal["trajectory", "self-forcing"]
Preset = Literal["tiny", "small", "base"]
Precision = Literal["32-true", "bf16-mixed", "bf16-true", "16-mixed"]
Words = Literal["written", "plain"]
CONFIG_FILE = "config.yaml"
# What may differ when a run is continued; of these max_steps alone changes numbers: it stretches the schedule.
_FREE = {"max_steps", "validate_every", "num_workers", "num_threads", "samples", "cache", "run"}


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """A training run.

    data: folder or hub id of dyads (`wan-streamer prepare`). split, val_split: of them to train and to validate; the
        latter may be missing. words: "plain" is lower case without punctuation, as wan-streamer-tiny writes.
    start_from: folder, hub id or bundled name of the checkpoint whose weights are trained, and whose other parts are
        copied. preset: train new weights of this shape instead, with that checkpoint's tokenizer and VAEs.
    run: folder of the run.
    stage: 1 tasks apart, 2 duplex, 3 distillation into few solver steps. phase: of stage 3. teacher: of stage 3, if not
        `start_from`. tasks: instead of the stage's, "duplex=3 words=1".
    method: "full", "lora" (adapters of the Transformer, merged at the end) or "heads" (its output layers;
        with tied embeddings those of sound and picture alone, which learn no word).
    lora_rank, lora_alpha, lora_targets: as PEFT has them; layers by the ends of their names.
    max_steps, batch_size, num_units, learning_rate: None takes the stage's; num_units is the length of a window.
    audio_weight, video_weight, text_weight, history_noise, history_dropout: as `DuplexTraining` has them.
    vary: whether the user's microphone and camera differ from the recording's.
    hears_words: give the Transformer the head that writes down the user's words, which the dyads must have.
    validate_every: steps. samples: conversations of the validation split that the agent answers after each validation.
    precision, devices, num_nodes: Lightning's. strategy: Lightning's, or "fsdp2", which splits weights over devices.
    num_workers: processes that draw batches. num_threads: of torch; 0 leaves its default. seed: of weights, data and
        noise. cache: folder of encoded dyads.

    Raises:
        ValueError: a field has another type or lies outside its range, or two do not go together.
    """

    data: str
    split: str = "train"
    val_split: str = "val"
    words: Words = "written"
    start_from: str = BUNDLED
    preset: Preset | None = None
    run: str = "runs/train"
    stage: int = 2
    phase: Phase = "trajectory"
    teacher: str | None = None
    tasks: str | None = None
    method: Method = "full"
    lora_rank: int = 16
    lora_alpha: float = 32.0
    lora_targets: str = "q_proj k_proj v_proj o_proj gate_proj up_proj down_proj"
    max_steps: int | None = None
    batch_size: int = 4
    num_units: int = 48
    learning_rate: float | None = None
    audio_weight: float = 4.0
    video_weight: float = 1.0
    text_weight: float = 1.0
    history_noise: float = 0.3
    history_dropout: float = 0.0
    vary: bool = True
    hears_words: bool = False
    validate_every: int = 250
    samples: int = 1
    precision: Precision = "32-true"
    devices: int = 1
    num_nodes: int = 1
    strategy: str = "auto"
    num_workers: int = 0
    num_threads: int = 0
    seed: int = 0
    cache: str | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if reason := _fault(field.name, str(field.type), value):
                raise ValueError(f"{field.name} must be {reason}; got {value!r}")
        if self.stage not in (1, 2, 3):
            raise ValueError(f"stage must be 1 (tasks), 2 (duplex) or 3 (distillation); got {self.stage}")
        if self.history_dropout > 1:
            raise ValueError(f"history_dropout is a share, at most 1; got {self.history_dropout}")
        if self.stage == 3 and (self.method != "full" or self.strategy == "fsdp2" or self.preset):
            raise ValueError("stage 3 holds a teacher beside its student: it takes --method full, no fsdp2, no preset")
        if self.preset and self.method != "full":
            raise ValueError(f"new weights ({self.preset}) are trained whole: {self.method} adapts weights that exist")
        if self.hears_words and self.method == "lora":
            raise ValueError("lora trains no new head: take --method full or heads with hears_words")
        if self.strategy == "fsdp2" and self.method == "lora":
            raise ValueError("lora trains few weights: take --strategy auto instead of fsdp2")

    @property
    def num_devices(self) -> int:
        """Processes that train together."""
        return self.devices * self.num_nodes

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """From names and values, such as those of a YAML file.

        Raises:
            ValueError: a name that is no field; the nearest one is named. Or as the class.
        """
        names = [field.name for field in fields(cls)]
        for name in values:
            if name not in names:
                near = get_close_matches(str(name), names, 1)
                raise ValueError(f"training has no setting {name!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
        if "data" not in values:
            raise ValueError("training needs data: a folder or hub id of dyads, made by `wan-streamer prepare`")
        return cls(**values)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def read_settings(path: Path) -> dict[str, Any]:
    """The names and values in a YAML file.

    Raises:
        ValueError: it cannot be read, or holds something else.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"{path} cannot be read as YAML: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} must hold settings as `name: value`, one on a line")
    return values


def claim(config: TrainConfig) -> None:
    """Write the record into the run's folder, or see that a run that is continued is the same.

    Raises:
        ValueError: the folder holds a run with other settings.
    """
    path = Path(config.run) / CONFIG_FILE
    if path.exists():
        before, now = read_settings(path), config.as_dict()
        others = [name for name in now if name not in _FREE and before.get(name) != now[name]]
        if others:
            told = ", ".join(f"{name} {before.get(name)!r}, not {now[name]!r}" for name in others)
            raise ValueError(f"{config.run} holds a run with {told}: continue it as it was, or take another --run")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}.partial")  # all processes write it, and none shall read half of it
    partial.write_text(yaml.safe_dump(config.as_dict(), sort_keys=False), encoding="utf-8")
    partial.replace(path)


_CHOICES = {"Method": Method, "Phase": Phase, "Preset": Preset, "Precision": Precision, "Words": Words}
_FROM_ZERO = {"num_workers", "num_threads", "samples", "seed"}


def _fault(name: str, annotation: str, value: Any) -> str | None:
    """What a field should have been, or None."""
    kind = annotation.removesuffix(" | None")
    if value is None and kind != annotation:
        return None
    if kind in _CHOICES:
        choices = get_args(_CHOICES[kind])
        return None if value in choices else f"one of {', '.join(choices)}"
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if kind == "int":
        floor = 0 if name in _FROM_ZERO else 1
        is_right = is_number and isinstance(value, int) and value >= floor
        return None if is_right else f"a whole number, at least {floor}"
    if kind == "float":
        above = name in ("learning_rate", "lora_alpha")
        is_right = is_number and math.isfinite(value) and (value > 0 if above else value >= 0)
        return None if is_right else f"a finite number, {'above 0' if above else '0 or more'}"
    if kind == "bool":
        return None if isinstance(value, bool) else "true or false"
    return None if isinstance(value, str) and value else "a text"
