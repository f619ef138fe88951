"""How everything here is measured: ours and theirs in turn, in one run, medians, and the aim beside the number.

A machine that does other work slows both sides of a ratio alike, so ratios are medians over rounds, each of which runs
every side once. Absolute numbers are those of the machine as it was: `machine_facts` says what else ran.
Whoever steps a session lets a user talk to it (`users.py`) and tells silent and speaking units apart (`kinds.py`).
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from streamer_pipeline import StreamerPipeline, StreamerSession, UserUnit
from streamer_pipeline.training.flops import matmul_probe
from torch.profiler import ProfilerActivity, profile
from users import make_recording, read_user

ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Setting:
    """What is measured, for how long, on how many threads, and where the user's recording and plots are.

    checkpoint: folder, hub id or name. height, width: of the user's picture. quick: a few rounds, to see that it runs.
    """

    quick: bool = False
    num_threads: int = 2
    folder: Path = ROOT / "bench"
    checkpoint: str = "wan-streamer-tiny"
    height: int = 192
    width: int = 336

    def count(self, full: int, quick: int) -> int:
        return quick if self.quick else full

    def pipeline(self) -> StreamerPipeline:
        return StreamerPipeline.from_pretrained(self.checkpoint)

    def session(self, pipeline: StreamerPipeline | None = None, seed: int = 0) -> StreamerSession:
        """A new conversation with `pipeline`, or with the checkpoint."""
        return (pipeline or self.pipeline()).open_session(seed=seed, height=self.height, width=self.width)

    def user_units(self, num: int, phase: float = 0.0) -> Iterator[UserUnit]:
        """`num` units of people who talk, from `phase` of their minute on; they are recorded at the first use."""
        path = self.folder / "user.mp4"
        if not path.exists():
            make_recording(path)
        return read_user(path, self.height, self.width).units(num, phase)


@dataclass(frozen=True)
class Row:
    """One measured number and what was wanted of it.

    aim: "<= 160", ">= 1.5", or "" where the number only informs.
    details: whatever explains the number: medians of both sides, counts, sizes.
    kinds: milliseconds of silent and speaking units apart, as `kinds.by_kind` gives them; empty where no session is.
    """

    name: str
    value: float
    unit: str
    aim: str = ""
    details: dict[str, Any] = field(default_factory=dict)
    kinds: dict[str, dict[str, float]] = field(default_factory=dict)

    @property
    def reached(self) -> bool | None:
        """Whether the aim is met; None where there is none. A number that is not one meets nothing."""
        if not self.aim:
            return None
        relation, limit = self.aim.split()
        return {"<=": self.value <= float(limit), ">=": self.value >= float(limit)}[relation]

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"reached": self.reached}


def alternate(
    sides: dict[str, Callable[[], Any]], num_rounds: int, warm_up: int = 3, training: bool = False
) -> dict[str, np.ndarray]:
    """Run every side once per round; milliseconds (num_rounds,) by side, without the first `warm_up` rounds.

    Gradients are off unless `training`.
    """
    times: dict[str, list[float]] = {name: [] for name in sides}
    with torch.inference_mode(not training):
        for _ in range(warm_up + num_rounds):
            for name, call in sides.items():
                start = time.perf_counter()
                call()
                times[name].append(1000 * (time.perf_counter() - start))
    return {name: np.array(values[warm_up:]) for name, values in times.items()}


def ratio(slower: np.ndarray, faster: np.ndarray) -> float:
    """Median over rounds of slower / faster."""
    return float(np.median(slower / faster))


def median(values: np.ndarray) -> float:
    return round(float(np.median(values)), 3)


def convolution_probe(channels: int = 96) -> tuple[Callable[[], Any], float]:
    """A 3 x 3 convolution on a 48 x 84 grid, which oneDNN runs at its best, and its FLOPs."""
    picture, weight = torch.randn(1, channels, 48, 84), torch.randn(channels, channels, 3, 3)
    return lambda: F.conv2d(picture, weight, padding=1), 2.0 * 9 * channels**2 * 48 * 84


def memory_growth(call: Callable[[], Any]) -> tuple[int, int]:
    """Bytes by which tensors' memory grew while `call` ran: (at the most, in the end).

    Read off torch's allocator, so what a kernel needs for itself counts too.
    """
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        call()
    held = most = 0
    events = (event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]")
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most, held


def resident_bytes() -> int:
    """Physical memory of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def machine_facts() -> dict[str, Any]:
    """What the numbers were measured on, and beside what."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    info = dict(line.split(":", 1) for line in reversed(lines) if ":" in line)
    info = {name.strip(): value.strip() for name, value in info.items()}
    wanted = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
    return {
        "processor": info.get("model name", platform.processor()),
        "flags": [flag for flag in wanted if flag in info.get("flags", "").split()],
        "num_cores": os.cpu_count(),
        "num_threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "omp_wait_policy": os.environ.get("OMP_WAIT_POLICY", ""),
        "load_average": [round(load, 2) for load in os.getloadavg()],
        "time": time.strftime("%Y-%m-%d %H:%M:%S"),
    }


def peaks(num_rounds: int = 30) -> dict[str, float]:
    """GFLOP/s of this machine now: the best of `num_rounds` of matrix products and of a convolution."""
    probes = {"matmul": matmul_probe(), "matmul_bf16": matmul_probe(torch.bfloat16), "convolution": convolution_probe()}
    times = alternate({name: call for name, (call, _) in probes.items()}, num_rounds)
    return {name: round(flops / times[name].min() / 1e6, 1) for name, (_, flops) in probes.items()}
