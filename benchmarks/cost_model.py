"""What a unit costs, as a model: work in FLOPs and bytes, four prices fitted on half of the measurements.

    python benchmarks/cost_model.py               # measure, fit, and write both tables into COST.md
    python benchmarks/cost_model.py --no-measure  # the computed table alone
    python benchmarks/cost_model.py --print       # to the terminal instead

The prices belong to a machine; the work belongs to a configuration. With a datasheet's prices the same work says what
the `base` preset would need on a GPU that is not here.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated, Any

import numpy as np
import torch
import typer
from causal_vae import CausalVideoVAE
from harness import ROOT, Setting, alternate, machine_facts
from scipy.optimize import nnls
from streamer_core import (
    CacheSpec,
    StreamerConfig,
    StreamerModel,
    UnitLayout,
    choose_language,
    context_pass,
    init_kv_state,
    preset,
    revise_language,
)
from streamer_pipeline import UNIT_MS
from streamer_pipeline.training.flops import count_flops

PAGE = ROOT / "packages" / "streamer-pipeline" / "COST.md"
PROMPT_CAPACITY = 64


@dataclass(frozen=True)
class Work:
    """What the Transformer does in one unit.

    layer_passes: passes times layers: each has a fixed overhead of small operators.
    linear_flops, attention_flops: multiply-adds count twice.
    mask_elements: query rows times keys, summed over passes; made once per pass, whatever the layers.
    weight_bytes, history_bytes: read once per pass.
    """

    layer_passes: int
    linear_flops: float
    attention_flops: float
    mask_elements: float
    weight_bytes: float
    history_bytes: float

    def __add__(self, other: Work) -> Work:
        return Work(*(getattr(self, name) + getattr(other, name) for name in self.__dataclass_fields__))

    @property
    def features(self) -> list[float]:
        """What the fitted prices apply to. Bytes are left out: on a CPU they grow as the FLOPs do."""
        return [self.layer_passes, self.linear_flops, self.attention_flops, self.mask_elements]


def layer_parameters(config: StreamerConfig) -> int:
    c = config
    attention = 2 * (c.num_attention_heads + c.num_key_value_heads) * c.head_dim * c.hidden_size
    return attention + 3 * c.hidden_size * c.intermediate_size


def bytes_per_token(config: StreamerConfig, bytes_per_number: int) -> int:
    """Keys and values of one token in every layer."""
    c = config
    return 2 * c.num_hidden_layers * c.num_key_value_heads * c.head_dim * bytes_per_number


def one_pass(config: StreamerConfig, num_tokens: int, num_keys: int, bytes_per_number: int = 4) -> Work:
    """`num_tokens` rows through all layers against `num_keys` keys."""
    c, parameters = config, config.num_hidden_layers * layer_parameters(config)
    return Work(
        c.num_hidden_layers,
        2.0 * num_tokens * parameters,
        4.0 * num_tokens * num_keys * c.num_attention_heads * c.head_dim * c.num_hidden_layers,
        float(num_tokens * num_keys),
        float(parameters * bytes_per_number),
        float(num_keys * bytes_per_token(c, bytes_per_number)),
    )


def thinker_passes(
    config: StreamerConfig, num_keys: int, num_language_passes: int, bytes_per_number: int = 4
) -> list[Work]:
    """The pass over the context with its language as drafted, and those that revise the draft.

    Each is followed by a look at the whole vocabulary for the slots that it settles.

    Args:
        num_language_passes: 1 where nothing is revised. Each pass more leaves out one slot more, from the first one on.
    """
    layout, head = UnitLayout(config), config.vocab_size * config.hidden_size
    slots = layout.num_language_slots

    def choice(num_slots: int) -> Work:
        return Work(0, 2.0 * head * num_slots, 0.0, 0.0, float(head * bytes_per_number), 0.0)

    found = [one_pass(config, layout.num_context_tokens, num_keys, bytes_per_number) + choice(slots)]
    for first in range(num_language_passes - 1):
        found.append(one_pass(config, slots - first, num_keys, bytes_per_number) + choice(slots - first - 1))
    return found


def performer_passes(config: StreamerConfig, num_steps: int, num_keys: int, bytes_per_number: int = 4) -> list[Work]:
    """The solver's passes and the commit."""
    first = one_pass(config, UnitLayout(config).num_response_tokens, num_keys, bytes_per_number)
    return [first, *[replace(first, mask_elements=0.0)] * num_steps]  # one mask serves them all


# ---- measured: the tiny preset and what changes its cost ----


@dataclass(frozen=True)
class Point:
    """One measured variant: which table it belongs to, how it is called there, and what makes it.

    num_language_passes: 1 is a unit whose language comes out as drafted: most, and all silent ones but the first.
    """

    sweep: str
    label: str
    config: StreamerConfig
    num_steps: int = 4
    capacity_units: int = 64
    num_language_passes: int = 1

    @property
    def cache_spec(self) -> CacheSpec:
        return CacheSpec.for_policy(self.config, PROMPT_CAPACITY, self.capacity_units)

    @property
    def work(self) -> Work:
        num_keys = self.cache_spec.num_slots
        first, *others = thinker_passes(self.config, num_keys, self.num_language_passes)
        return sum(others + performer_passes(self.config, self.num_steps, num_keys), first)


def points(quick: bool) -> list[Point]:
    """The sweeps of COST.md. Time does not depend on how full a history is, so none has to be lived through."""
    tiny = preset("tiny", context_window=40)
    full = preset("tiny", context_window=None, response_window=None)
    histories, windows = ([64, 128], [20, 40]) if quick else ([64, 256, 512, 1024, 2048], [20, 40, 80, 160, 320])
    found = [
        Point("history", f"full, {n} units ({n * UNIT_MS / 1000:.0f} s)", full, capacity_units=n) for n in histories
    ]
    found += [Point("window", f"context {n}, response 8", preset("tiny", context_window=n)) for n in windows]
    patches = {"4 x 7": (4, 7), "4 x 1": (4, 1), "2 x 1": (2, 1), "1 x 1": (1, 1)}
    for name, (height, width) in patches.items():
        config = preset("tiny", context_window=40, video_patch_height=height, video_patch_width=width)
        found.append(Point("tokens", f"{UnitLayout(config).num_tokens} (video patches of {name})", config))
    found += [Point("solver steps", str(n), tiny, num_steps=n) for n in (1, 2, 4, 8)]
    most = 1 + UnitLayout(tiny).num_language_slots
    return found + [Point("language passes", str(n), tiny, num_language_passes=n) for n in range(1, most + 1)]


def unit_of_passes(point: Point) -> Callable[[], None]:
    """The Transformer's passes of one unit in a long conversation, with random weights."""
    torch.manual_seed(0)
    model = StreamerModel(point.config).eval()
    layout, cache_spec = model.layout, point.cache_spec
    kv = init_kv_state(cache_spec, 1)
    kv["unit"] += 10_000
    user = torch.randn(1, layout.num_user_tokens, point.config.hidden_size)
    language = torch.full((1, layout.num_language_slots), point.config.pad_token_id)
    response = torch.randn(1, layout.num_response_tokens, point.config.hidden_size)

    def run() -> None:
        choose_language(model, context_pass(model, user, language, kv, cache_spec).before_language)
        for first in range(point.num_language_passes - 1):
            revise_language(model, language, first, kv, cache_spec)
        attention_inputs = model.attention_inputs(kv, cache_spec, layout.response)
        for _ in range(point.num_steps + 1):
            model.step(response, kv, attention_inputs)

    return run


def fit(features: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Non-negative prices that explain `times` (N,) by `features` (N, F), with equal care for every relative error."""
    scale = features.max(axis=0)
    prices, _ = nnls(features / scale / times[:, None], np.ones(len(times)))
    return prices / scale


def predicted(features: np.ndarray, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(predictions (N,), which were used to fit (N,)): every other point is used, the others only checked."""
    used = np.arange(len(times)) % 2 == 0
    return features @ fit(features[used], times[used]), used


def table(header: list[str], rows: list[list[Any]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def measured_table(setting: Setting) -> str:
    """Measure the Transformer's sweeps, predict them, and say how far off the prediction is."""
    swept = points(setting.quick)
    calls = {str(index): unit_of_passes(point) for index, point in enumerate(swept)}
    measured = alternate(calls, setting.count(25, 2), warm_up=setting.count(3, 1))
    times = np.array([np.median(measured[name]) for name in calls])
    estimates, used = predicted(np.array([point.work.features for point in swept]), times)
    rows = []
    for point, time, estimate, fitted in zip(swept, times, estimates, used, strict=True):
        gflop = (point.work.linear_flops + point.work.attention_flops) / 1e9
        error = f"{100 * (estimate / time - 1):+.0f} %{' (fitted)' if fitted else ''}"
        kib = point.cache_spec.nbytes() / 1024
        row = [point.sweep, point.label, f"{gflop:.2f}", f"{kib:,.0f}", f"{time:.1f}", f"{estimate:.1f}", error]
        rows.append(row)
    header = ["what varies", "value", "GFLOP", "K/V, KiB per side", "measured ms", "model ms", "error"]
    worst = 100 * np.abs(estimates / times - 1)[~used].max()
    summary = f"Largest error on points that were not fitted: {worst:.0f} %."
    return f"{table(header, rows)}\n\n{summary}"


def resolution_table(setting: Setting) -> str:
    """The video VAE's two halves by picture size: FLOPs counted, milliseconds = overhead + FLOPs / speed."""
    torch.manual_seed(0)
    vae = CausalVideoVAE().eval()
    sizes = [(96, 192), (144, 240), (192, 336), (288, 480), (384, 672)]
    calls, flops = {}, []
    for height, width in sizes:
        latents = torch.randn(1, 32, 1, height // vae.spatial_stride, width // vae.spatial_stride)

        def decode(latents: torch.Tensor = latents) -> None:
            vae.decode(latents)

        calls[f"{height} x {width}"] = decode
        with torch.inference_mode():
            flops.append(count_flops(decode))
    measured = alternate(calls, setting.count(25, 2), warm_up=setting.count(3, 1))
    times = np.array([np.median(measured[name]) for name in calls])
    estimates, used = predicted(np.stack([np.ones(len(flops)), flops], axis=1), times)
    rows = [
        [name, f"{work / 1e9:.2f}", f"{time:.1f}", f"{estimate:.1f}", f"{100 * (estimate / time - 1):+.0f} %{mark}"]
        for name, work, time, estimate, mark in zip(
            calls, flops, times, estimates, np.where(used, " (fitted)", ""), strict=True
        )
    ]
    return table(["decoded picture", "GFLOP per unit", "measured ms", "model ms", "error"], rows)


# ---- computed: the base preset on a GPU's datasheet ----


@dataclass(frozen=True)
class Device:
    """What a datasheet promises: FLOP/s of dense bf16, bytes/s of memory, bytes of it, bytes/s to a neighbour."""

    name: str
    flops_per_s: float
    memory_bytes_per_s: float
    memory_bytes: float
    link_bytes_per_s: float

    def floor_ms(self, passes: list[Work]) -> float:
        """Time of passes one after the other: none is faster than its arithmetic or its memory traffic."""
        seconds = 0.0
        for work in passes:
            arithmetic = (work.linear_flops + work.attention_flops) / self.flops_per_s
            seconds += max(arithmetic, (work.weight_bytes + work.history_bytes) / self.memory_bytes_per_s)
        return 1000 * seconds


H100 = Device("H100 SXM", 989e12, 3.35e12, 80e9, 450e9)  # NVIDIA H100 datasheet; NVLink 900 GB/s is both ways together
EFFICIENCY = 0.4  # what good kernels reach of such floors; an assumption


def base_tables(device: Device = H100) -> str:
    """The `base` preset with full history and with windows, bf16: computed, not measured.

    A GPU is not asked whether a draft came out: every unit makes all language passes, whatever is said in it. Thinker
    and performer overlap (commit delay 1), so each has the time of a unit.
    """
    config = preset("base")
    layout, per_token = UnitLayout(config), bytes_per_token(config, 2)
    latents = 2 * (
        config.audio_token_dim * config.agent_audio_tokens + config.video_token_dim * config.agent_video_tokens
    )
    there, back = layout.num_context_tokens * per_token, layout.num_response_tokens * per_token + latents
    per_minute = layout.num_tokens * per_token * 60_000 / UNIT_MS
    facts = [
        ["language passes per unit", f"{1 + layout.num_language_slots}"],
        [
            "tokens per unit",
            f"{layout.num_tokens} ({layout.num_context_tokens} context, {layout.num_response_tokens} response)",
        ],
        ["K/V of one token", f"{per_token:,} bytes"],
        ["K/V per minute of full history, each side", f"{per_minute / 1e9:.1f} GB"],
        [
            f"full history that {device.memory_bytes / 1e9:.0f} GB hold",
            f"{device.memory_bytes / per_minute:.1f} minutes, weights aside",
        ],
        [
            "thinker -> performer, per unit",
            f"{there / 1e6:.1f} MB, {1000 * there / device.link_bytes_per_s:.2f} ms at NVLink's rate",
        ],
        [
            "performer -> thinker, per unit",
            f"{back / 1e6:.1f} MB, {1000 * back / device.link_bytes_per_s:.2f} ms at NVLink's rate",
        ],
    ]
    windowed = preset("base", context_window=375, response_window=16)
    variants = [(f"full, {minutes:g} min", config, round(minutes * 60_000 / UNIT_MS)) for minutes in (0.25, 1, 2, 5)]
    variants.append(("context 375 units (1 min), response 16", windowed, 0))
    rows = []
    for name, variant, num_units in variants:
        num_keys = CacheSpec.for_policy(variant, PROMPT_CAPACITY, num_units).num_slots
        for num_steps in (2, 4, 8):
            thinker = device.floor_ms(thinker_passes(variant, num_keys, 1 + layout.num_language_slots, 2))
            performer = device.floor_ms(performer_passes(variant, num_steps, num_keys, 2))
            transfer = 1000 * (there + back) / device.link_bytes_per_s
            sides = thinker / EFFICIENCY, performer / EFFICIENCY + transfer
            fits = "yes" if max(sides) < UNIT_MS else "no"
            memory = num_keys * per_token / 1e9
            if memory >= device.memory_bytes / 1e9:
                fits += ", but no memory"
            cells = [name, num_steps, f"{num_keys:,}", f"{memory:.1f}", f"{thinker:.1f}", f"{performer:.1f}"]
            rows.append([*cells, *(f"{real:.0f}" for real in sides), fits])
    header = ["history", "solver steps", "keys", "K/V, GB", "thinker floor, ms", "performer floor, ms"]
    header += [f"{side} at {100 * EFFICIENCY:.0f} %, ms" for side in ("thinker", "performer and transfer")]
    header.append(f"both < {UNIT_MS} ms")
    return f"{table(['base', device.name + ', computed'], facts)}\n\n{table(header, rows)}"


# ---- the page ----


def write_section(name: str, text: str) -> None:
    """Replace what stands between the markers of section `name` in COST.md."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    page = PAGE.read_text(encoding="utf-8")
    if begin not in page or end not in page:
        raise ValueError(f"{PAGE} has no section between {begin!r} and {end!r}; put the two markers where it belongs")
    pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
    PAGE.write_text(pattern.sub(lambda _: f"{begin}\n{text}\n{end}", page), encoding="utf-8")


def sections(setting: Setting, measure: bool) -> dict[str, str]:
    """Text of every section by name."""
    found = {"computed": base_tables()}
    if measure:
        torch.set_num_threads(setting.num_threads)
        facts = machine_facts()
        conditions = (
            f"{facts['processor']}, {facts['num_threads']} threads of {facts['num_cores']} cores, "
            f"torch {facts['torch']}, load average before the run {facts['load_average'][0]}, {facts['time']}."
        )
        found["measured"] = f"{conditions}\n\n{measured_table(setting)}\n\n{resolution_table(setting)}"
    return found


def main(
    measure: Annotated[bool, typer.Option(help="also the measured tables")] = True,
    print_only: Annotated[bool, typer.Option("--print", help="do not touch COST.md")] = False,
    quick: Annotated[bool, typer.Option(help="a few rounds of fewer points")] = False,
    num_threads: Annotated[int, typer.Option(help="CPU threads")] = 2,
) -> None:
    for name, text in sections(Setting(quick, num_threads), measure).items():
        if print_only:
            typer.echo(f"## {name}\n\n{text}\n")
        else:
            write_section(name, text)


if __name__ == "__main__":
    typer.run(main)
