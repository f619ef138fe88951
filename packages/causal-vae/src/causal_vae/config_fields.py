"""What every field of a config must be, checked once, when it is built."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from itertools import takewhile
from typing import Any


def check_fields(config: Any, unknown: Iterable[str], floors: Mapping[str, int]) -> None:
    """`check_values` of the fields that the class of a config declares, and its bases up to transformers' own.

    Args:
        unknown: keyword arguments that are no field. transformers keeps them; one that is nearly a field is a slip.
    """
    cls = type(config).__name__
    fields: dict[str, str] = {}
    for base in takewhile(lambda base: base.__name__ != "PreTrainedConfig", type(config).__mro__):
        fields |= vars(base).get("__annotations__", {})
    for name in unknown:
        if near := get_close_matches(name, fields, n=1, cutoff=0.85):
            raise ValueError(f"{cls} has no field {name!r}; did you mean {near[0]!r}?")
    check_values(cls, fields, {name: getattr(config, name) for name in fields}, floors)


def check_values(cls: str, fields: Mapping[str, str], values: Mapping[str, Any], floors: Mapping[str, int]) -> None:
    """Raise ValueError unless every value has its field's type and range.

    Whole numbers are at least 1, other numbers finite and above 0; either are at least what `floors` says of them.

    Args:
        cls: whose fields they are. fields: their types, as they are written in the source.
    """
    for name, annotation in fields.items():
        kind = annotation.removesuffix(" | None")
        if name not in values or kind not in _KINDS or (values[name] is None and kind != annotation):
            continue
        what, is_right = _KINDS[kind]
        if name in floors and kind == "float":
            what, is_right = _KINDS["float with a floor"]
        floor = floors.get(name, 1)
        if not is_right(values[name], floor):
            raise ValueError(f"{cls}: {name} must be {what.format(floor)}; got {values[name]!r}")


def _is_whole(value: Any, floor: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= floor


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_list(value: Any, is_entry: Callable[[Any], bool]) -> bool:
    return isinstance(value, list | tuple) and all(map(is_entry, value))


def _are_whole(value: Any, floor: int) -> bool:
    return _is_list(value, lambda entry: _is_whole(entry, floor))


# How a field is annotated -> what its value must be, and whether it is that, given its floor.
_KINDS: dict[str, tuple[str, Callable[[Any, int], bool]]] = {
    "int": ("a whole number, at least {}", _is_whole),
    "float": ("a finite number above 0", lambda value, _: _is_finite(value) and value > 0),
    "float with a floor": ("a finite number, at least {}", lambda value, floor: _is_finite(value) and value >= floor),
    "bool": ("true or false", lambda value, _: isinstance(value, bool)),
    "str": ("a text", lambda value, _: isinstance(value, str)),
    "list[int]": ("a list of whole numbers, at least {} each", _are_whole),
    "Sequence[int]": ("a list of whole numbers, at least {} each", _are_whole),
    "tuple[int, int]": ("two whole numbers, at least {} each", lambda v, floor: _are_whole(v, floor) and len(v) == 2),
    "Sequence[float]": ("a list of finite numbers", lambda value, _: _is_list(value, _is_finite)),
    "Sequence[bool]": ("a list of true and false", lambda value, _: _is_list(value, lambda e: isinstance(e, bool))),
}
