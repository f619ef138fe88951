"""Where the time of a unit goes: each stage beside its floor, and the costliest operators."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from typing import Any

import torch
from harness import Row, Setting, alternate, convolution_probe, median, ratio
from kinds import WARM_UP, by_kind, live
from rich.console import Console
from rich.table import Table
from streamer_core import revise_language
from streamer_pipeline.training.flops import count_flops
from torch.profiler import ProfilerActivity, profile


def stage_calls(setting: Setting) -> dict[str, Callable[[], Any]]:
    """The stages of a unit in mid-conversation, each as a call that leaves the conversation where it was.

    How many revisions a unit makes depends on what is said in it: none in most, one to three where words begin.
    """
    session = setting.session()
    for unit in setting.user_units(setting.count(60, 5)):
        session.step(unit)
    pipeline = session.pipeline
    thinker, performer, model = pipeline.thinker, pipeline.performer, pipeline.streamer
    thinking, performing, cache_spec = session.state["thinker"], session.state["performer"], session.cache_spec
    unit, c = next(setting.user_units(1)), model.config
    text = torch.full((1, c.user_text_slots), c.pad_token_id)
    with torch.inference_mode():
        audio, video, _ = thinker.perceive(unit.audio[None], unit.video[None], thinking)
        said = thinker.context_pass(text, audio, video, thinking, cache_spec)[0]
        context_kv = thinker.context_kv(thinking, cache_spec)
        attention_inputs = performer.receive(context_kv, performing, cache_spec)
    latents = {
        "audio": torch.randn(1, c.agent_audio_tokens, c.audio_token_dim),
        "video": torch.randn(1, c.agent_video_tokens, c.video_token_dim),
    }
    return {
        "encode audio": lambda: thinker.audio_encoder(unit.audio[None], thinking["audio_encoder"]),
        "encode video": lambda: thinker.video_encoder(unit.video[None], thinking["video_encoder"]),
        "context": lambda: thinker.context_pass(text, audio, video, thinking, cache_spec),
        "one revision of the language": lambda: revise_language(model, said, 0, thinking["kv"], cache_spec),
        "receive": lambda: performer.receive(context_kv, performing, cache_spec),
        "solve": lambda: performer.solve(latents, performing, attention_inputs, session.options.num_inference_steps),
        "commit": lambda: performer.commit(latents, performing, attention_inputs),
        "decode": lambda: thinker.render(latents, thinking),
    }


def stages(setting: Setting) -> list[Row]:
    """Milliseconds of each stage, its FLOPs, and its floor: FLOPs over the convolution peak of the same rounds."""
    calls = stage_calls(setting)
    with torch.inference_mode():
        flops = {name: count_flops(call) for name, call in calls.items()}
    probe, probe_flops = convolution_probe()
    times = alternate(calls | {"probe": probe}, setting.count(60, 2), warm_up=setting.count(5, 1))
    rows = []
    for name, work in flops.items():
        peak = probe_flops / median(times["probe"]) / 1e6
        details = {
            "gflop": round(work / 1e9, 4),
            "floor_ms": round(work / peak / 1e6, 3),
            "share_of_peak": round(ratio(times["probe"] / probe_flops * work, times[name]), 3),
        }
        rows.append(Row(f"stage {name}", median(times[name]), "ms", details=details))
    return rows


def print_operators(setting: Setting, num_units: int = 40, num_rows: int = 20) -> None:
    """The operators that take most of a unit's time, by themselves, in a stretch of silence, question and answer."""
    session, units = setting.session(), setting.user_units(WARM_UP + num_units)
    for unit in islice(units, WARM_UP):
        session.step(unit)
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        by_kind([0.0] * num_units, live(session, units))  # raises unless the agent speaks
    table = Table("operator", "ms per unit", "calls per unit", title="operators by their own time (profiler on)")
    found = sorted(profiler.key_averages(), key=lambda event: -event.self_cpu_time_total)
    for event in found[:num_rows]:
        own, calls = event.self_cpu_time_total / 1000 / num_units, event.count / num_units
        table.add_row(event.key, f"{own:.2f}", f"{calls:.0f}")
    Console().print(table)


if __name__ == "__main__":
    print_operators(Setting())
