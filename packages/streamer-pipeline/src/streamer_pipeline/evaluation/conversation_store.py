"""Conversations of an evaluation on disk: what broke off goes on, and several processes fill one score card."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.numpy import save_file

from .face import FaceTracks
from .recorded_conversation import RecordedConversation

_RECORD = "run.json"
_COST = "cost.jsonl"


class ConversationStore:
    """A folder with a file for every conversation, by the column of the score card and the key of the dyad.

    Args:
        folder: is made where it is missing.
        record: what the conversations depend on: checkpoint, data, options.

    Raises:
        ValueError: the folder holds conversations with another record.
    """

    def __init__(self, folder: Path, record: dict[str, Any]) -> None:
        self._folder, path = folder, folder / _RECORD
        record = json.loads(json.dumps(record, default=str))
        held = json.loads(path.read_text(encoding="utf-8")) if path.exists() else record
        if held != record:
            differing = [name for name in record | held if record.get(name) != held.get(name)]
            told = ", ".join(f"{name} {held.get(name)!r}, not {record.get(name)!r}" for name in differing)
            raise ValueError(f"{folder} holds conversations of {told}: take another --out, or remove that folder")
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")

    def has(self, column: str, key: str) -> bool:
        return self._path(column, key).exists()

    def write(self, column: str, conversation: RecordedConversation) -> None:
        """Keep a conversation; nobody ever finds half of one."""
        path = self._path(column, conversation.key)
        path.parent.mkdir(exist_ok=True)
        tracks = (
            {} if conversation.face is None else {k: v for k, v in vars(conversation.face).items() if v is not None}
        )
        told = {name: getattr(conversation, name) for name in ("key", "labels", "texts", "heard")}
        partial = path.with_suffix(".partial")
        save_file({"wave": conversation.wave, **tracks}, partial, {"conversation": json.dumps(told)})
        partial.rename(path)

    def read(self, column: str, key: str) -> RecordedConversation:
        with safe_open(self._path(column, key), "numpy") as file:
            told = json.loads(file.metadata()["conversation"])
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (it is no mapping)
        wave = arrays.pop("wave")
        return RecordedConversation(**told, wave=wave, face=FaceTracks(**arrays) if arrays else None)

    def add_cost(self, column: str, num_passes: int, num_units: int) -> None:
        """Note how many passes of the solver so many units of a column took."""
        with (self._folder / _COST).open("a", encoding="utf-8") as file:
            file.write(json.dumps([column, num_passes, num_units]) + "\n")

    def cost(self, column: str) -> tuple[int, int]:
        """All passes and units of a column."""
        path = self._folder / _COST
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []
        own = [(passes, units) for name, passes, units in lines if name == column]
        return sum(passes for passes, _ in own), sum(units for _, units in own)

    def _path(self, column: str, key: str) -> Path:
        name = hashlib.sha1(key.encode(), usedforsecurity=False).hexdigest()
        return self._folder / column.replace(" ", "_") / f"{name}.safetensors"
