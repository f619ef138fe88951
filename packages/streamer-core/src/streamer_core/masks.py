"""Who sees whom in a whole training sequence, and in which order its rows are cheap to attend from."""

from __future__ import annotations

import torch
from torch import Tensor

from .layout import UnitLayout


def training_mask(
    layout: UnitLayout,
    num_units: int,
    num_copies: int,
    prompt_length: int,
    device: torch.device | str,
    region: slice,
) -> Tensor:
    """(T, T) boolean mask over [prompt, clean units, noisy copies]: `UnitLayout.visible`, copy by copy.

    `region` says which tokens of the clean units are there: all, or the context alone.
    """
    units = torch.arange(num_units, device=device)
    tokens = layout.indices(region, device)
    response = layout.indices(layout.response, device)
    unit = torch.cat([units.repeat_interleave(len(tokens)), units.repeat_interleave(len(response)).repeat(num_copies)])
    index = torch.cat([tokens.repeat(num_units), response.repeat(num_units * num_copies)])
    copy = torch.cat(
        [
            torch.zeros(num_units * len(tokens), dtype=torch.int64, device=device),
            torch.arange(1, num_copies + 1, device=device).repeat_interleave(num_units * len(response)),
        ]
    )
    distance = unit[:, None] - unit
    # The clean tokens are history for all; a noisy copy sees itself in place of its own unit's clean response,
    # and nobody else sees it.
    is_response = index >= layout.num_context_tokens
    from_history = (copy == 0) & ~((copy[:, None] > 0) & is_response & (distance == 0))
    from_own_copy = (copy == copy[:, None]) & (distance == 0)
    mask = layout.visible(distance, index[:, None], index) & (from_history | from_own_copy)
    if not prompt_length:
        return mask
    total = prompt_length + len(mask)
    full = torch.zeros(total, total, dtype=torch.bool, device=device)
    full[:, :prompt_length] = True
    full[:prompt_length, :prompt_length] = torch.ones(
        prompt_length, prompt_length, dtype=torch.bool, device=device
    ).tril()
    full[prompt_length:, prompt_length:] = mask
    return full


def group_rows(
    layout: UnitLayout,
    num_units: int,
    num_copies: int,
    prompt_length: int,
    device: torch.device | str,
    region: slice,
    units_per_group: int = 4,
) -> tuple[Tensor, list[int]]:
    """An order of [prompt, clean units, noisy copies] in which tokens of near units stand together, and group sizes.

    Rows of a group see nearly the same keys, so attention by groups skips most of what the mask forbids.
    """
    units = torch.arange(num_units, device=device) // units_per_group + 1
    clean = units.repeat_interleave(region.stop)
    noisy = units.repeat_interleave(layout.num_response_tokens).repeat(num_copies)
    group = torch.cat([torch.zeros(prompt_length, dtype=torch.int64, device=device), clean, noisy])
    counts = [count for count in group.bincount().tolist() if count]
    return group.argsort(stable=True), counts
