"""Causal attention within a sliding window whose past goes in and comes out as state.

Shape legend: B session, T new tokens, P = window - 1 past tokens, H heads, G key-value heads, D width, d head width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .streaming import State, StreamingModule


class SlidingWindowAttention(StreamingModule):
    """Self-attention over (B, T, D) in which a token sees itself and the `window - 1` tokens before it.

    State: the last P keys and values, and how many of them are real. Keys are kept as they are before rotation: rotary
    attention (Su et al. 2021) depends on distances alone, so positions are counted from the oldest kept key, and a
    stream of many hours is as exact as its first second.

    Args:
        bias, key_bias: whether the query, value and output projections, and the key projection, have a bias.
    """

    time_axis = out_time_axis = 1

    def __init__(
        self,
        dim: int,
        num_heads: int,
        num_key_value_heads: int,
        head_dim: int,
        window: int,
        rope_theta: float,
        bias: bool = False,
        key_bias: bool = False,
    ) -> None:
        super().__init__()
        if num_heads % num_key_value_heads:
            raise ValueError(f"{num_heads} heads are not a multiple of {num_key_value_heads} key-value heads")
        self.head_dim, self.num_past, self.rope_theta = head_dim, window - 1, rope_theta
        self.q_proj = nn.Linear(dim, num_heads * head_dim, bias=bias)
        self.k_proj = nn.Linear(dim, num_key_value_heads * head_dim, bias=key_bias)
        self.v_proj = nn.Linear(dim, num_key_value_heads * head_dim, bias=bias)
        self.o_proj = nn.Linear(num_heads * head_dim, dim, bias=bias)

    def chunk_shape(self) -> tuple[int, ...]:
        return 1, self.q_proj.in_features

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        self.check_length(x)
        query, key, value = (self._heads(projection(x)) for projection in (self.q_proj, self.k_proj, self.v_proj))
        if state is None:
            nothing = key.new_zeros(len(x), key.shape[1], self.num_past, self.head_dim)
            state = {"keys": nothing, "values": nothing, "length": key.new_zeros(len(x), dtype=torch.int64)}
        key, value = torch.cat([state["keys"], key], dim=2), torch.cat([state["values"], value], dim=2)
        cosine, sine = self._angles(key)
        y = F.scaled_dot_product_attention(
            rotate(query, cosine[self.num_past :], sine[self.num_past :]),
            rotate(key, cosine, sine),
            value,
            self._visible(x.shape[1], state["length"]),
            enable_gqa=query.shape[1] != key.shape[1],
        )
        past = {
            "keys": key[:, :, x.shape[1] :].clone(memory_format=torch.contiguous_format),
            "values": value[:, :, x.shape[1] :].clone(memory_format=torch.contiguous_format),
            "length": (state["length"] + x.shape[1]).clamp(max=self.num_past),
        }
        return self.o_proj(y.transpose(1, 2).flatten(2)), past

    def _heads(self, x: Tensor) -> Tensor:
        """(B, T, heads * d) -> (B, heads, T, d)."""
        return x.unflatten(2, (-1, self.head_dim)).transpose(1, 2)

    def _angles(self, key: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines (P + T, d) of the positions of all keys."""
        exponents = torch.arange(0, self.head_dim, 2, device=key.device) / self.head_dim
        positions = torch.arange(key.shape[2], device=key.device, dtype=torch.float32)
        angles = (positions[:, None] * self.rope_theta**-exponents).repeat(1, 2)
        return angles.cos().to(key.dtype), angles.sin().to(key.dtype)

    def _visible(self, num_new: int, length: Tensor) -> Tensor:
        """(B, 1, T, P + T): new token i is key P + i and sees keys i to P + i, as far as they are real."""
        key = torch.arange(self.num_past + num_new, device=length.device)
        query = torch.arange(num_new, device=length.device)[:, None]
        in_window = (key >= query) & (key <= self.num_past + query)
        return (in_window & (key >= self.num_past - length[:, None, None]))[:, None]


def rotate(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Turn (..., T, d) by the angles (T, d); element i is paired with element i + d / 2."""
    first, second = x.chunk(2, dim=-1)
    return x * cosine + torch.cat([-second, first], dim=-1) * sine
