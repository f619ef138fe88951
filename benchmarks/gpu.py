"""What one CUDA card does: parity with the CPU, a unit of each preset stage by stage, the bundled agent, training.

    python benchmarks/gpu.py --out bench/gpu      # about three minutes; --device cpu --quick: does it run?

Needs torch, transformers, diffusers and the four packages; no network. Passes are as they are written, no graph is
captured. Weights of "small" and "base" are random. Writes gpu.json and gpu.md. What fails is a row that says why: one
row that needs too much memory does not cost the others.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from causal_codec import CausalAudioEncoder, CausalAudioEncoderConfig, CausalVideoEncoder, CausalVideoEncoderConfig
from streamer_core import CacheSpec, FlowMatchScheduler, StreamerModel, advance, init_kv_state, preset
from streamer_core.generation import (
    choose_language,
    commit_response,
    context_pass,
    response_velocity,
    settle_language,
)
from streamer_pipeline import StreamerPipeline, UserUnit
from streamer_pipeline.data.duplex_batch import DuplexBatch
from streamer_pipeline.training.flops import count_flops
from streamer_pipeline.training.modules import DuplexTraining, means_over_ranks
from training_speed import duplex_batch

STAGES = ("context", "slots", "solve", "commit")
PEAK_TFLOPS = {"H100": 989, "H200": 989, "A100": 312}  # dense bfloat16, of the makers' data sheets
GRIDS = {"192x336": {}, "640x368": {"video_latent_height": 46, "video_latent_width": 80}}


def facts(device: torch.device) -> dict[str, Any]:
    """What the numbers were measured on."""
    import diffusers
    import transformers

    found = {"torch": torch.__version__, "transformers": transformers.__version__, "diffusers": diffusers.__version__}
    if device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory
        found |= {"card": torch.cuda.get_device_name(), "cuda": torch.version.cuda, "memory_gib": total / 2**30}
    return found


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


class Stopwatch:
    """Milliseconds of named stages, by events of the device; by the host's clock on a CPU."""

    def __init__(self, device: torch.device) -> None:
        self.is_cuda = device.type == "cuda"
        self.marks: list[tuple[str, Any, Any]] = []

    def _now(self) -> Any:
        if not self.is_cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        start = self._now()
        yield
        self.marks.append((name, start, self._now()))

    def medians(self) -> dict[str, float]:
        times: dict[str, list[float]] = {}
        for name, start, end in self.marks:
            times.setdefault(name, []).append(start.elapsed_time(end) if self.is_cuda else 1000 * (end - start))
        return {name: round(float(np.median(values)), 2) for name, values in times.items()}


def summary(times: list[float]) -> dict[str, float]:
    """Of milliseconds, without the first quarter, in which kernels are chosen and memory is fetched."""
    kept = np.array(times[len(times) // 4 :])
    return {"p50_ms": round(float(np.median(kept)), 2), "p99_ms": round(float(np.percentile(kept, 99)), 2)}


@torch.inference_mode()
def unit_of(name: str, device: torch.device, num_units: int, num_steps: int, history_units: int, **shape: int) -> dict:
    """A unit in the Transformer of a preset, in bfloat16, after `history_units` (None of a window: full history)."""
    config = preset(name, **shape)
    with device:
        torch.manual_seed(0)
        torch.set_default_dtype(torch.bfloat16)
        model = StreamerModel(config).eval()
        torch.set_default_dtype(torch.float32)
    cache_spec = CacheSpec.for_policy(config, prompt_capacity=16, capacity_units=history_units + num_units)
    kv = init_kv_state(cache_spec, 1, device, model.dtype)
    kv["unit"] += history_units
    c, solver, watch, times = config, FlowMatchScheduler(), Stopwatch(device), []
    user = torch.randn(1, model.layout.num_user_tokens, c.hidden_size, device=device, dtype=model.dtype)
    noise = {
        "audio": torch.randn(1, c.agent_audio_tokens, c.audio_token_dim, device=device, dtype=model.dtype),
        "video": torch.randn(1, c.agent_video_tokens, c.video_token_dim, device=device, dtype=model.dtype),
    }
    draft = torch.full((1, model.layout.num_language_slots), c.state_token_ids[0], device=device)
    for _ in range(num_units):
        start = time.perf_counter()
        with watch.stage("context"):
            context = context_pass(model, user, draft, kv, cache_spec)
            drafted = choose_language(model, context.before_language)
        with watch.stage("slots"):
            settle_language(model, drafted, draft, kv, cache_spec)
        attention_inputs = model.attention_inputs(kv, cache_spec, model.layout.response)

        def velocity(latents: dict, sigma: torch.Tensor, kv: dict = kv, where: Any = attention_inputs) -> dict:
            return response_velocity(model, latents, sigma, kv, where)

        with watch.stage("solve"):
            latents = solver.solve(velocity, noise, num_steps)
        with watch.stage("commit"):
            commit_response(model, latents, kv, attention_inputs)
        kv = advance(kv)
        wait(device)
        times.append(1000 * (time.perf_counter() - start))
    memory = kv["keys"].nbytes * 2 / 2**30
    return summary(times) | {"stages_ms": watch.medians(), "kv_gib": round(memory, 2)}


def agent(device: torch.device, num_units: int, dtype: torch.dtype, against_cpu: bool = False) -> dict:
    """The bundled agent, media in and out; or how far its stream is from that of the CPU."""
    torch.manual_seed(0)
    units = [
        UserUnit(audio=0.1 * torch.randn(1, 3840), video=torch.rand(3, 4, 192, 336) * 2 - 1) for _ in range(num_units)
    ]
    pipeline = StreamerPipeline.from_pretrained(dtype=dtype).to(device)
    times, answers = [], []
    session = pipeline.open_session(seed=0, height=192, width=336)
    for unit in units:
        start = time.perf_counter()
        answers.append(session.step(unit))
        wait(device)
        times.append(1000 * (time.perf_counter() - start))
    if not against_cpu:
        return summary(times)
    session = StreamerPipeline.from_pretrained(dtype=dtype).open_session(seed=0, height=192, width=336)
    apart = 0.0
    for unit, answer in zip(units, answers, strict=True):
        expected = session.step(unit)
        for ours, theirs in ((answer.audio, expected.audio), (answer.video, expected.video)):
            apart = max(apart, float((ours.float().cpu() - theirs.float()).abs().max()))
    return {"max_difference": apart}


def training(name: str, device: torch.device, rows: int, num_units: int, num_steps: int = 8) -> dict:
    """Steps of stage 2 in bfloat16: units and tokens per second, and the share of the card's peak."""
    torch.manual_seed(0)
    config = preset(name, **({"vocab_size": 511, "context_window": 40} if name == "tiny" else {}))
    with device:
        ears = CausalAudioEncoder(CausalAudioEncoderConfig(output_dim=config.perception_dim))
        eyes = CausalVideoEncoder(CausalVideoEncoderConfig(output_dim=config.perception_dim))
        trained = DuplexTraining(StreamerModel(config), ears, eyes, learning_rate=1e-4, max_steps=100).train()
    if name == "base":
        trained.streamer.gradient_checkpointing_enable()
    batch = duplex_batch(trained, rows, num_units)
    batch = DuplexBatch(*(x.to(device) if isinstance(x, torch.Tensor) else x for x in batch))
    optimizer = torch.optim.AdamW(trained.parameters(), lr=1e-4, fused=device.type == "cuda")
    if eyes.config.tokens_per_unit != config.user_video_tokens:  # of a larger encoder: drawn, so not in the time
        seen = torch.randn(rows, num_units, config.user_video_tokens, config.perception_dim, device=device)
        perceive = trained.streams
        trained.streams = lambda batch: replace(perceive(batch), user_video=seen)

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast(device.type, torch.bfloat16):
            terms, _ = trained.losses(batch)
        torch.stack(list(means_over_ranks(terms).values())).sum().backward()
        optimizer.step()

    flops = count_flops(step)
    times = []
    for _ in range(num_steps):
        start = time.perf_counter()
        step()
        wait(device)
        times.append(time.perf_counter() - start)
    seconds = float(np.median(times[2:]))
    layout = trained.streamer.layout
    tokens = rows * num_units * (layout.num_tokens + 2 * layout.num_response_tokens)
    found = {"ms_per_step": round(1000 * seconds, 1), "tokens_per_s": round(tokens / seconds)}
    found |= {"units_per_s": round(rows * num_units / seconds), "tflop_per_step": round(flops / 1e12, 3)}
    if device.type == "cuda":
        found["peak_memory_gib"] = round(torch.cuda.max_memory_allocated() / 2**30, 1)
        peak = next((p for card, p in PEAK_TFLOPS.items() if card in torch.cuda.get_device_name()), None)
        found["share_of_peak"] = round(flops / seconds / 1e12 / peak, 4) if peak else None
    return found


def rows(device: torch.device, quick: bool) -> Iterator[tuple[str, Callable[[], dict]]]:
    """Every measurement by name, the surest first."""
    n = 4 if quick else 40
    yield "bundled agent, float32, against the CPU", lambda: agent(device, n, torch.float32, against_cpu=True)
    yield "bundled agent, a unit, float32", lambda: agent(device, n, torch.float32)
    yield "bundled agent, a unit, bfloat16", lambda: agent(device, n, torch.bfloat16)
    yield "tiny: a unit, 4 steps", lambda: unit_of("tiny", device, n, 4, 40)
    yield "small: a unit, 4 steps", lambda: unit_of("small", device, n, 4, 256)
    yield "training, tiny, 16 rows of 48 units", lambda: training("tiny", device, 1 if quick else 16, 48)
    if quick:
        return
    for size, grid in GRIDS.items():
        windows = {"context_window": 375, "response_window": 25, **grid}
        for steps in (4, 2):
            yield (
                f"base, {size}: a unit, {steps} steps, windows of 60 s and 4 s",
                lambda s=steps, w=windows: unit_of("base", device, n, s, 375, **w),
            )
    for minutes in (1, 5):
        yield (
            f"base, 192x336: a unit, 4 steps, full history of {minutes} min",
            lambda m=minutes: unit_of("base", device, n, 4, 375 * m),
        )
    yield "training, base, 1 row of 16 units", lambda: training("base", device, 1, 16)
    yield "training, base, 4 rows of 16 units", lambda: training("base", device, 4, 16)


def measured(call: Callable[[], dict]) -> dict:
    """What a measurement found, or why it found nothing."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    try:
        return call()
    except Exception as error:
        return {"failed": f"{type(error).__name__}: {str(error)[:300]}"}


def main(
    out: Annotated[Path, typer.Option(help="folder of gpu.json and gpu.md")] = Path("bench/gpu"),
    device: str = "cuda",
    quick: Annotated[bool, typer.Option(help="few units of the small ones")] = False,
    only: Annotated[str, typer.Option(help="rows whose name holds this")] = "",
) -> None:
    where = torch.device(device)
    found: dict[str, dict] = {"machine": facts(where)}
    out.mkdir(parents=True, exist_ok=True)
    for name, call in rows(where, quick):
        if only not in name:
            continue
        start = time.perf_counter()
        found[name] = measured(call)
        typer.echo(f"{name}: {found[name]} ({time.perf_counter() - start:.0f} s)")
        (out / "gpu.json").write_text(json.dumps(found, indent=1))
    lines = ["| what | found |", "|---|---|"]
    lines += [f"| {name} | {', '.join(f'{k} {v}' for k, v in row.items())} |" for name, row in found.items()]
    (out / "gpu.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    typer.run(main)
