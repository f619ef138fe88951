"""What every field of a transformers config must be, checked once, when it is built."""

from __future__ import annotations

import math
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any


def check_fields(config: Any, unknown: Mapping[str, Any], floors: Mapping[str, int]) -> None:
    """Raise ValueError unless every field that the class of `config` itself declares has its type and its range.

    Whole numbers are at least 1, or what `floors` says of them; other numbers are finite and above 0.

    Args:
        unknown: keyword arguments that are no field. transformers keeps them; one that is nearly a field is a slip.
    """
    cls, fields = type(config).__name__, vars(type(config)).get("__annotations__", {})
    for name in unknown:
        if near := get_close_matches(name, fields, n=1, cutoff=0.85):
            raise ValueError(f"{cls} has no field {name!r}; did you mean {near[0]!r}?")
    for name, annotation in fields.items():
        value, floor = getattr(config, name), floors.get(name, 1)
        if value is None and annotation.endswith("| None"):
            continue
        kind = annotation.removesuffix(" | None")
        if kind == "int" and not (_is_whole(value) and value >= floor):
            raise ValueError(f"{cls}: {name} must be a whole number, at least {floor}; got {value!r}")
        if kind == "float" and not (isinstance(value, int | float) and math.isfinite(value) and value > 0):
            raise ValueError(f"{cls}: {name} must be a finite number above 0; got {value!r}")
        if kind == "list[int]" and not (isinstance(value, list | tuple) and all(map(_is_whole, value))):
            raise ValueError(f"{cls}: {name} must be a list of whole numbers; got {value!r}")
        if kind == "list[int]" and min(value, default=floor) < floor:
            raise ValueError(f"{cls}: the entries of {name} must be at least {floor}; got {value!r}")


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
