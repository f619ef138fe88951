"""Floating-point operations of a call, and a product that reaches a device's peak."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, register_flop_formula


def count_flops(call: Callable[[], Any]) -> float:
    """Floating-point operations of a call's matrix products, convolutions and attention (2 per multiply-add)."""
    with FlopCounterMode(display=False) as counter:
        call()
    return float(counter.get_total_flops())


@register_flop_formula(torch.ops.aten._scaled_dot_product_flash_attention_for_cpu)
def _attention_flops(query: torch.Size, key: torch.Size, value: torch.Size, *args: Any, **kwargs: Any) -> int:
    """torch counts its GPU attention kernels only; on a CPU it is two products of the same shapes."""
    batch, heads, rows, width = query
    return 2 * batch * heads * rows * key[2] * (width + value[3])


@register_flop_formula(torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward)
def _attention_backward_flops(grad: torch.Size, query: torch.Size, key: torch.Size, *args: Any, **kwargs: Any) -> int:
    """Five products where the forward pass has two: scores again, and a gradient for each of four factors."""
    batch, heads, rows, width = query
    return 5 * 2 * batch * heads * rows * key[2] * width


def matmul_probe(
    dtype: torch.dtype = torch.float32, size: int = 1024, device: torch.device | str = "cpu"
) -> tuple[Callable[[], Any], float]:
    """A matrix product that reaches a device's peak, and its FLOPs."""
    left, right = (torch.randn(size, size, dtype=dtype, device=device) for _ in range(2))
    return lambda: left @ right, 2.0 * size**3
