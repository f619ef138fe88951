"""`wan-streamer inspect`: look into a checkpoint."""

from __future__ import annotations

from ..checkpoints import BUNDLED
from .options import Checkpoint, Device, Dtype, console, in_a_sentence


def inspect(checkpoint: Checkpoint = BUNDLED, device: Device = "cpu", dtype: Dtype = "float32") -> None:
    """Print a checkpoint's parts and sizes, the tokens of a unit, the arithmetic of latency, bytes per session."""
    from rich.table import Table

    from ..checks.inspection import describe_latency, describe_parts, describe_session
    from ..hub.placement import load_pipeline

    with in_a_sentence():
        pipeline = load_pipeline(checkpoint, device, dtype)
        descriptions = describe_parts(pipeline), describe_latency(pipeline), describe_session(pipeline)
    for title, columns, rows in descriptions:
        table = Table(*columns, title=title, title_justify="left")
        for row in rows:
            table.add_row(*map(str, row))
        console.print(table)
