"""The performer: only the flow-matching solver, over its own copy of the history.

Report, section 2.4; DESIGN section 6. It also commits: after its last solver step it runs one clean pass over y_k,
whose K/V is exact because its history is exactly context <= k and responses < k.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from causal_vae import State
from streamer_core import Geometry, KVLayout, StreamerModel, append_tail, read_tail, start_history
from torch import Tensor

Latents = dict[str, Tensor]


class Solver(Protocol):
    """Anything that integrates a velocity field from noise to clean latents, `FlowMatchScheduler` for one."""

    def solve(self, velocity, noise: Latents, num_steps: int) -> Latents: ...


class Performer:
    """Denoises audio and video of one unit together and commits them."""

    stages = ("receive", "velocity", "commit")

    def __init__(self, streamer: StreamerModel, solver: Solver) -> None:
        self.streamer, self.layout, self.solver = streamer, streamer.layout, solver

    def compile(self, **options: Any) -> None:
        """Compile each stage as one graph with `torch.compile`'s options. Shapes are static: one per session size."""
        for name in self.stages:
            setattr(self, name, torch.compile(getattr(self, name), fullgraph=True, dynamic=False, **options))

    def start(self, prompt_tail: Tensor, kv_layout: KVLayout) -> State:
        """State of new sessions from the prompt's K/V (B, 2, L, H, P, D), from `Thinker.prefill`."""
        return start_history(prompt_tail, kv_layout)

    def receive(self, context_tail: Tensor, state: State, kv_layout: KVLayout) -> Geometry:
        """Append context(k), in place. Returns where y_k stands, for all passes over it."""
        append_tail(state, kv_layout.slots(state["unit"], self.layout.context), context_tail)
        return self.streamer.geometry(state, kv_layout, self.layout.response)

    def solve(self, noise: Latents, state: State, geometry: Geometry, num_steps: int) -> Latents:
        """Noise {"audio": (B, tokens, dim), "video": ...} -> clean latents alike."""

        def velocity(latents: Latents, sigma: Tensor) -> Latents:
            return self.velocity(latents, sigma, state, geometry)

        return self.solver.solve(velocity, noise, num_steps)

    def velocity(self, latents: Latents, sigma: Tensor, state: State, geometry: Geometry) -> Latents:
        """One pass over the noisy latents of this unit at noise level sigma (B,): their velocities."""
        embedded = self.streamer.embed_response(latents["audio"], latents["video"], sigma)
        hidden = self.streamer.step(embedded, state, geometry)
        velocities = self.streamer.velocities(hidden, latents["audio"], latents["video"], sigma)
        return dict(zip(("audio", "video"), velocities, strict=True))

    def commit(self, latents: Latents, state: State, geometry: Geometry) -> Tensor:
        """One clean pass (sigma = 0) over y_k; its K/V is history from now on, and the tail goes to the thinker."""
        sigma = latents["audio"].new_zeros(state["unit"].shape[0])
        embedded = self.streamer.embed_response(latents["audio"], latents["video"], sigma)
        self.streamer.step(embedded, state, geometry)
        return read_tail(state, geometry.slots)
