"""Users that a fair agent must fail: without sound, or with the media of another dyad."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..clock import FRAMES_PER_UNIT

if TYPE_CHECKING:
    from ..data.dyads import StoredDyad


def muted(dyads: Iterable[StoredDyad]) -> Iterator[StoredDyad]:
    """The user is seen and not heard."""
    return (replace(dyad, user_audio=torch.zeros_like(dyad.user_audio)) for dyad in dyads)


def shuffled_user(dyads: Iterable[StoredDyad]) -> Iterator[StoredDyad]:
    """The user is seen and heard as in the dyad before. The first is left out."""
    before = None
    for dyad in dyads:
        if before is not None:
            yield replace(dyad, **before.media(dyad))
        before = UserMedia.of(dyad)


@dataclass(frozen=True, eq=False)
class UserMedia:
    """A user's media, small enough to keep: sound (1, N), frames (3, T, H, W) in bytes or None."""

    samples: Tensor
    frames: Tensor | None

    @classmethod
    def of(cls, dyad: StoredDyad) -> UserMedia:
        frames = None if dyad.user_video is None else ((dyad.user_video + 1) * 127.5).round().to(torch.uint8)
        return cls(dyad.user_audio, frames)

    def media(self, dyad: StoredDyad) -> dict[str, Any]:
        """Both, as long as those of a dyad."""
        audio, video = self.audio(dyad.user_audio.shape[1]), self.video(FRAMES_PER_UNIT * dyad.num_units)
        return {"user_audio": audio, "user_video": video}

    def audio(self, num_samples: int) -> Tensor:
        """Cut, or followed by silence."""
        missing = max(0, num_samples - self.samples.shape[1])
        return torch.nn.functional.pad(self.samples, (0, missing))[:, :num_samples]

    def video(self, num_frames: int) -> Tensor | None:
        """Cut, or with the last frame held."""
        if self.frames is None:
            return None
        frames = self.frames[:, torch.arange(num_frames).clamp(max=self.frames.shape[1] - 1)]
        return frames.float() / 127.5 - 1
