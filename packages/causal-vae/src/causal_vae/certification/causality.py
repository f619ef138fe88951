"""How far a part sees ahead and how long it holds back, measured by poisoning the future.

From a border on, every input becomes not-a-number, and in a second run some other, large number (comparisons and
clamps swallow the first, saturation the second). Whatever output before the border changes has seen the future.
"""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from ..streaming import StreamingModule
from .findings import Finding, Law, Subject


class PoisonedSubject(Subject):
    """A subject that also knows which of its outputs react to inputs from a border on."""

    def first_change(self, border: int) -> int | None:
        """The first output step that changes when the inputs from step `border` on do.

        A not-a-number that reaches outputs before the border may have come with weight zero, through the mask of an
        attention or a layer that starts at zero: numbers and weights that are not zero tell which.
        """
        by_nan = self._change(self.module, border, torch.full_like(self.x, float("nan")))
        by_number = self._change(self.module, border, 100 * self.noise)
        if by_nan is not None and by_nan < border // self.stride * self.module.upsample:
            by_nan = self._change(self.disturbed, border, 100 * self.noise)
        return min((change for change in (by_nan, by_number) if change is not None), default=None)

    @cached_property
    def disturbed(self) -> StreamingModule:
        """The part with other weights, none of them zero: what it depends on, whatever it has learned."""
        module, generator = self.twin(), torch.Generator().manual_seed(self.seed)
        for weight in module.parameters():
            weight.add_(0.05 * torch.randn(weight.shape, generator=generator).to(weight))
        return module

    def _change(self, module: StreamingModule, border: int, poison: Tensor) -> int | None:
        axis = module.time_axis
        poisoned = torch.cat([self.x.narrow(axis, 0, border), poison.narrow(axis, border, self.length - border)], axis)
        clean = self.whole[0] if module is self.module else module(self.x.clone(), None)[0]
        y, _ = module(poisoned, None)
        changed = ((y - clean).abs() > 1e-6 * max(1.0, clean.abs().max().item())) | ~torch.isfinite(y)
        steps = changed.movedim(module.out_time_axis, 0).flatten(1).any(dim=1).nonzero()
        return steps[0].item() if len(steps) else None

    @cached_property
    def first_changes(self) -> list[int | None]:
        """By border: the ends of chunk 0, 1, ..."""
        return [self.first_change(border) for border in range(self.stride, self.length, self.stride)]

    @cached_property
    def lookahead(self) -> int:
        """Input steps past the end of its own chunk that an output depends on, the most over all chunks."""
        largest, upsample = 0, self.module.upsample
        for index, change in enumerate(self.first_changes):
            if change is not None and change < (index + 1) * upsample:
                largest = max(largest, self._steps_seen_after(index + 1))
        return largest

    def _steps_seen_after(self, num_chunks: int) -> int:
        """How many inputs after the first `num_chunks` chunks reach the outputs of those, by bisection."""
        end, num_outputs = num_chunks * self.stride, num_chunks * self.module.upsample
        seen, unseen = 1, self.length - end + 1
        while unseen - seen > 1:
            steps = (seen + unseen) // 2
            change = self.first_change(end + steps - 1)
            seen, unseen = (steps, unseen) if change is not None and change < num_outputs else (seen, steps)
        return seen

    @cached_property
    def delay(self) -> int | None:
        """Whole chunks that pass before an output reacts to a chunk, the most seen; None if none ever reacts."""
        delays = [
            change // self.module.upsample - (index + 1)
            for index, change in enumerate(self.first_changes)
            if change is not None
        ]
        return max(0, *delays) if delays else None


def look_ahead(subject: PoisonedSubject) -> Finding:
    """No output depends on inputs further in the future than declared, and some output does on exactly those."""
    if not torch.isfinite(subject.whole[0]).all():
        return Finding("", False, None, None, "steps", "the clean output is not finite, so poison could not be told")
    declared, measured = subject.module.lookahead, subject.lookahead
    name = type(subject.module).__name__
    note = (
        "" if measured == declared else f"{name} declares a look-ahead of {declared} input steps; measured {measured}"
    )
    return Finding("", measured == declared, measured, declared, "steps", note)


def latency(subject: PoisonedSubject) -> Finding:
    """Algorithmic latency in input steps: filling a chunk, the look-ahead, and what the part holds back unasked."""
    declared = subject.stride + subject.module.lookahead
    if subject.delay is None:
        return Finding("", False, None, declared, "steps", "no output reacts to any input after the first chunk")
    measured = subject.stride * (1 + subject.delay) + subject.lookahead
    note = "" if measured <= declared else f"outputs come {subject.delay} chunks late, or wait for what they see ahead"
    return Finding("", measured <= declared, measured, declared, "steps", note)


CAUSAL_LAWS: dict[str, Law] = {"look-ahead": look_ahead, "latency": latency}
