"""The performer: only the flow-matching solver, over its own copy of the history.

Report, section 2.4; DESIGN section 6. It also commits: after its last solver step it runs one clean pass over y_k,
whose K/V is exact because its history is exactly context <= k and responses < k.
"""

from __future__ import annotations

from typing import Any

import torch
from causal_vae import State
from streamer_core import (
    AttentionInputs,
    CacheSpec,
    Latents,
    Solver,
    StreamerModel,
    as_solver,
    commit_response,
    read_kv,
    response_velocity,
    start_history,
    write_kv,
)
from torch import Tensor


class Performer:
    """Denoises audio and video of one unit together and commits them."""

    stages = ("receive", "velocity", "commit")

    def __init__(self, streamer: StreamerModel, solver: Solver) -> None:
        self.streamer, self.layout, self.solver = streamer, streamer.layout, as_solver(solver)

    def compile(self, **options: Any) -> None:
        """Compile each stage as one graph with `torch.compile`'s options. Shapes are static: one per batch size."""
        for name in self.stages:
            setattr(self, name, torch.compile(getattr(self, name), fullgraph=True, dynamic=False, **options))

    def start(self, prompt_kv: Tensor, cache_spec: CacheSpec) -> State:
        """State of new sessions from the prompt's K/V (B, 2, L, H, P, D), from `Thinker.prefill`."""
        return start_history(prompt_kv, cache_spec)

    def receive(self, context_kv: Tensor, state: State, cache_spec: CacheSpec) -> AttentionInputs:
        """Append context(k), in place. Returns where y_k stands, for all passes over it."""
        write_kv(state, cache_spec.slots(state["unit"], self.layout.context), context_kv)
        return self.streamer.attention_inputs(state, cache_spec, self.layout.response)

    def solve(self, noise: Latents, state: State, attention_inputs: AttentionInputs, num_steps: int) -> Latents:
        """Noise {"audio": (B, tokens, dim), "video": ...} -> clean latents alike."""
        return self.solver.solve(lambda z, sigma: self.velocity(z, sigma, state, attention_inputs), noise, num_steps)

    def velocity(self, latents: Latents, sigma: Tensor, state: State, attention_inputs: AttentionInputs) -> Latents:
        """One pass over the noisy latents of this unit at noise level sigma (B,): their velocities."""
        return response_velocity(self.streamer, latents, sigma, state, attention_inputs)

    def commit(self, latents: Latents, state: State, attention_inputs: AttentionInputs) -> Tensor:
        """One clean pass over y_k; its K/V is history from now on, and those K/V go to the thinker."""
        commit_response(self.streamer, latents, state, attention_inputs)
        assert attention_inputs.slots is not None  # of `receive`
        return read_kv(state, attention_inputs.slots)
