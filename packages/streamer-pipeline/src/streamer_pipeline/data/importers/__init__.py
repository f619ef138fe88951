"""Recordings as people have them, one file per format. An importer says whether a source `matches`, what it
`LOOKED_FOR`, and `read`s conversations; what it cannot use it yields as `Skipped`, with the reason.
"""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

from . import dyads, lhotse, moshi_finetune, pairs, seamless

# In the order in which they are tried: what is told apart by more comes first.
FORMATS: dict[str, ModuleType] = {
    "dyads": dyads,
    "seamless-interaction": seamless,
    "lhotse": lhotse,
    "moshi-finetune": moshi_finetune,
    "pairs": pairs,
}


def detect_format(source: Path) -> str:
    """The name in `FORMATS` of what lies there.

    Raises:
        ValueError: it is none of them; the message says what was looked for. FileNotFoundError: nothing is there.
    """
    if not source.exists():
        raise FileNotFoundError(f"there is no {source}: give a folder of recordings, or a list of them")
    for name, importer in FORMATS.items():
        if importer.matches(source):
            return name
    wanted = "; ".join(f"{name}: {importer.LOOKED_FOR}" for name, importer in FORMATS.items())
    raise ValueError(f"{source} holds no recordings of a known layout. Looked for {wanted}")
