"""What a part takes and gives, in the numbers that two parts must agree on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields

UNIT_MS = 160


@dataclass(frozen=True, kw_only=True)
class StreamSpec:
    """What flows in and out of a part, per unit of 160 ms. None: the part does not handle it, or takes any.

    A part declares it as its property `stream_spec`; a pipeline compares those of all its parts when it is built.

    Args:
        sample_rate: of sound, in Hz.
        frames_per_unit: of the user's picture. frames_per_latent: of the agent's.
        user_audio_tokens, user_video_tokens, perception_dim: what encoders give: tokens per unit, and their width.
        audio_latents_per_unit, audio_latent_channels: what the agent's sound is coded in.
        video_latent_channels: what its picture is coded in.
        video_latent_height, video_latent_width: the latent grid, where a part knows one grid only.
        pixels_per_cell: pixels along each side of a latent cell.
        vocab_size: ids that have a meaning.

    Counts per unit are whole where a part fits the clock; a fraction says that it does not.
    """

    sample_rate: int | None = None
    frames_per_unit: float | None = None
    frames_per_latent: int | None = None
    user_audio_tokens: float | None = None
    user_video_tokens: int | None = None
    perception_dim: int | None = None
    audio_latents_per_unit: float | None = None
    audio_latent_channels: int | None = None
    video_latent_channels: int | None = None
    video_latent_height: int | None = None
    video_latent_width: int | None = None
    pixels_per_cell: int | None = None
    vocab_size: int | None = None

    def conflicts(self, other: StreamSpec) -> Iterator[tuple[str, float, float]]:
        """(name, value here, value there) of every number that both declare and that differs."""
        for field in fields(self):
            here, there = getattr(self, field.name), getattr(other, field.name)
            if None not in (here, there) and here != there:
                yield field.name, here, there


def per_unit(rate: float, steps: int = 1) -> float:
    """How many groups of `steps` steps a unit holds, of a stream with `rate` steps per second; whole where it fits."""
    count = rate * UNIT_MS / 1000 / steps
    return int(count) if count == int(count) else count
