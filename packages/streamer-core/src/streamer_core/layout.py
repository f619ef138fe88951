"""The layout of one unit's tokens, stated once: order, slots, positions, visibility.

Tokens of unit k, in order: user_text, user_audio, user_video | state, agent_text | agent_audio, agent_video.
The first two groups are context(k), the last is response(k). The training mask, the cached path and the server all
read this file (DESIGN section 4; report, sections 2.1 and 2.4).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from .config import StreamerConfig

STREAMS = ("user_text", "user_audio", "user_video", "state", "agent_text", "agent_audio", "agent_video")


@dataclass(frozen=True)
class UnitLayout:
    """Where everything is inside a unit; tokens are named by their index 0 .. num_tokens - 1 in it."""

    config: StreamerConfig

    def __post_init__(self) -> None:
        """Compute what is cached now: a graph that is being captured cannot (the cache takes a lock).

        On the CPU, because a model that is being loaded is built on the meta device, where nothing has a value.
        """
        with torch.device("cpu"):
            for name, attribute in vars(type(self)).items():
                if isinstance(attribute, cached_property):
                    getattr(self, name)

    @cached_property
    def counts(self) -> dict[str, int]:
        """Tokens per unit of each stream, in order."""
        c = self.config
        sizes = (
            c.user_text_slots,
            c.user_audio_tokens,
            c.user_video_tokens,
            1,
            c.agent_text_slots,
            c.agent_audio_tokens,
            c.agent_video_tokens,
        )
        return dict(zip(STREAMS, sizes, strict=True))

    def slice_of(self, first: str, last: str | None = None) -> slice:
        """Token indices of the streams from `first` to `last` inclusive (default: `first` alone)."""
        names = list(STREAMS)
        sizes = list(self.counts.values())
        start, stop = names.index(first), names.index(last or first) + 1
        return slice(sum(sizes[:start]), sum(sizes[:stop]))

    @cached_property
    def num_user_tokens(self) -> int:
        return self.slice_of("state").start

    @cached_property
    def num_language_slots(self) -> int:
        """The state slot and the agent's text slots: what is predicted token by token."""
        return 1 + self.config.agent_text_slots

    @cached_property
    def num_context_tokens(self) -> int:
        return self.slice_of("agent_audio").start

    @cached_property
    def num_tokens(self) -> int:
        return sum(self.counts.values())

    @cached_property
    def num_response_tokens(self) -> int:
        return self.num_tokens - self.num_context_tokens

    def indices(self, region: slice, device: torch.device | str | None = None) -> Tensor:
        return torch.arange(region.start, region.stop, device=device)

    @cached_property
    def user(self) -> slice:
        return slice(0, self.num_user_tokens)

    @cached_property
    def user_audio(self) -> slice:
        return self.slice_of("user_audio")

    @cached_property
    def language(self) -> slice:
        return slice(self.num_user_tokens, self.num_context_tokens)

    @cached_property
    def context(self) -> slice:
        return slice(0, self.num_context_tokens)

    @cached_property
    def response(self) -> slice:
        return slice(self.num_context_tokens, self.num_tokens)

    @cached_property
    def position_offsets(self) -> Tensor:
        """(3, num_tokens): steps on the (time, height, width) axes from the unit's start.

        Words and sounds of a unit are spread over its ticks with equal axes, so that text alone has one axis; a
        picture's tokens share the unit's first tick and step in height and width (multimodal rotary embedding).
        """
        c, offsets = self.config, []
        for name, count in self.counts.items():
            if name == "agent_video":
                rows = c.video_latent_height // c.video_patch_height
                columns = c.video_latent_width // c.video_patch_width
                row, column = (
                    axis.flatten() for axis in torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
                )
                offsets.append(torch.stack([torch.zeros_like(row), row, column]))
            else:
                ticks = torch.arange(count) * c.ticks_per_unit // max(count, 1)
                offsets.append(ticks.expand(3, count))
        return torch.cat(offsets, dim=1)

    def positions(self, unit: Tensor, start: Tensor, region: slice) -> Tensor:
        """Rotary positions (B, 3, ...) of `region`'s tokens in units `unit` (B,) or (B, K), flattened over units.

        Args:
            start: (B,) position of unit 0: the prompt's length, plus the session's place on the clock.
        """
        offsets = self.position_offsets[:, region].to(unit.device)
        first = start.view(-1, *[1] * (unit.dim() - 1)) + unit * self.config.ticks_per_unit
        positions = first.unsqueeze(1).unsqueeze(-1) + (offsets if unit.dim() == 1 else offsets[:, None])
        return positions.flatten(2)

    def visible(self, distance: Tensor, query: Tensor, key: Tensor) -> Tensor:
        """The one predicate of visibility: may token `query` see token `key`, `distance` units in the past?

        Args:
            distance: unit of the query minus unit of the key.
            query, key: token indices within the unit. All three broadcast; the result is boolean.

        Response tokens of the query's own unit are its own denoising copy. The prompt is visible to everyone and is
        not this predicate's business.
        """
        c = self.config
        query_in_response, key_in_response = query >= self.num_context_tokens, key >= self.num_context_tokens
        in_context_window = (
            distance >= 0 if c.context_window is None else (distance >= 0) & (distance <= c.context_window)
        )
        in_response_window = (
            distance >= 0 if c.response_window is None else (distance >= 0) & (distance <= c.response_window)
        )
        earlier_in_unit = (key <= query) | (self._modality(query, key) & (query < self.num_user_tokens))
        context_key = in_context_window & ((distance > 0) | earlier_in_unit | query_in_response)
        first_committed = torch.where(query_in_response, 0, 1 + c.commit_delay)
        response_key = in_response_window & (distance >= first_committed)
        return torch.where(key_in_response, response_key, context_key)

    def _modality(self, query: Tensor, key: Tensor) -> Tensor:
        """Whether both are user tokens of one stream, which see each other both ways."""
        same = torch.zeros_like(query == key)
        for name in STREAMS[:3]:
            region = self.slice_of(name)
            same |= (query >= region.start) & (query < region.stop) & (key >= region.start) & (key < region.stop)
        return same
