"""What a checkpoint is made of, as tables: (title, columns, rows)."""

from __future__ import annotations

from torch import nn

from ..pipeline import StreamerPipeline
from ..units import HEIGHT, UNIT_MS, WIDTH

Description = tuple[str, list[str], list[list[object]]]


def describe_parts(pipeline: StreamerPipeline) -> Description:
    """Every component with its class, parameters and bytes."""
    rows: list[list[object]] = []
    for name, part in pipeline.components.items():
        if isinstance(part, nn.Module):
            count = sum(p.numel() for p in part.parameters())
            size = sum(t.numel() * t.element_size() for t in part.state_dict().values())
            rows.append([name, type(part).__name__, f"{count / 1e6:.2f} M", f"{size / 2**20:.1f} MiB"])
        else:
            rows.append([name, type(part).__name__ if part is not None else "-", "", ""])
    return "parts", ["part", "class", "parameters", "in memory"], rows


def describe_latency(pipeline: StreamerPipeline) -> Description:
    """Tokens and passes of one unit and when its response plays."""
    config, layout = pipeline.streamer.config, pipeline.streamer.layout
    steps, delay = pipeline.config.num_inference_steps, config.response_delay
    counts = ", ".join(f"{name} {count}" for name, count in layout.counts.items())
    slots, least = layout.num_language_slots, 1 + steps + 1
    rows: list[list[object]] = [
        ["tokens per unit", f"{layout.num_tokens} ({counts})"],
        ["passes per unit", f"{least} = 1 context + {steps} solver + 1 commit, its language as drafted"],
        [
            "where it says something new",
            f"up to {least + slots}: at most {slots} more over the language; on a GPU always",
        ],
        ["commit_delay", f"{config.commit_delay} ({'overlapping' if config.commit_delay else 'in turn'})"],
        ["response plays", f"{delay * UNIT_MS} ms after its user unit begins (response_delay {delay})"],
        ["event to output", f"{(delay - 1) * UNIT_MS} to {delay * UNIT_MS} ms by its place in the unit, and computing"],
        ["history", f"context {_window(config.context_window)}, responses {_window(config.response_window)}"],
    ]
    return "one unit of 160 ms", ["what", "value"], rows


def _window(units: int | None) -> str:
    return "full" if units is None else f"{units} units ({units * UNIT_MS / 1000:.1f} s)"


def describe_session(pipeline: StreamerPipeline) -> Description:
    """Bytes that one session takes: predicted for the histories, and read off a fresh session."""
    cache_spec = pipeline.cache_spec()
    session = pipeline.open_session()
    history = 2 * cache_spec.nbytes()
    per_token = cache_spec.nbytes() / cache_spec.num_slots
    rows: list[list[object]] = [
        ["key-value slots per side", cache_spec.num_slots],
        ["bytes per token", f"{per_token:,.0f}"],
        ["history, thinker and performer", f"{history / 2**20:.2f} MiB"],
        ["encoders and decoders", f"{(session.nbytes() - history) / 2**20:.2f} MiB at {HEIGHT}x{WIDTH}"],
        ["whole session", f"{session.nbytes() / 2**20:.2f} MiB"],
    ]
    if cache_spec.max_units() is not None:
        per_minute = 2 * per_token * pipeline.streamer.layout.num_tokens * 60_000 / UNIT_MS
        rows.append(["grows by, per minute", f"{per_minute / 2**20:.1f} MiB (full history)"])
    return "one session", ["what", "value"], rows
