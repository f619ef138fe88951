"""Users that a fair agent must fail: without picture, without sound, or with the media of another dyad."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from ..data.dyads import StoredDyad


def blank_video(dyads: Iterable[StoredDyad]) -> Iterator[StoredDyad]:
    """The user is heard in the dark."""
    return (replace(dyad, user_video=torch.full_like(dyad.user_video, -1.0)) for dyad in dyads)


def muted(dyads: Iterable[StoredDyad]) -> Iterator[StoredDyad]:
    """The user is seen and not heard."""
    return (replace(dyad, user_audio=torch.zeros_like(dyad.user_audio)) for dyad in dyads)


def other_video(dyads: Iterable[StoredDyad]) -> Iterator[StoredDyad]:
    """The user is seen as in the dyad before of the same scenario. The first of each scenario is left out."""
    for dyad, other in _with_earlier(dyads, same_scenario=True):
        yield replace(dyad, user_video=other.video(dyad.user_video.shape[1]))


def shuffled_user(dyads: Iterable[StoredDyad]) -> Iterator[StoredDyad]:
    """The user is seen and heard as in an earlier dyad of another scenario."""
    for dyad, other in _with_earlier(dyads, same_scenario=False):
        media = {
            "user_audio": other.audio(dyad.user_audio.shape[1]),
            "user_video": other.video(dyad.user_video.shape[1]),
        }
        yield replace(dyad, **media)


@dataclass(frozen=True, eq=False)
class _User:
    """A user's media, small enough to keep one for every scenario: sound (1, N), frames (3, T, H, W) in bytes."""

    samples: Tensor
    frames: Tensor

    @classmethod
    def of(cls, dyad: StoredDyad) -> _User:
        return cls(dyad.user_audio, ((dyad.user_video + 1) * 127.5).round().to(torch.uint8))

    def audio(self, num_samples: int) -> Tensor:
        """Cut, or followed by silence."""
        missing = max(0, num_samples - self.samples.shape[1])
        return torch.nn.functional.pad(self.samples, (0, missing))[:, :num_samples]

    def video(self, num_frames: int) -> Tensor:
        """Cut, or with the last frame held."""
        frames = self.frames[:, torch.arange(num_frames).clamp(max=self.frames.shape[1] - 1)]
        return frames.float() / 127.5 - 1


def _with_earlier(dyads: Iterable[StoredDyad], same_scenario: bool) -> Iterator[tuple[StoredDyad, _User]]:
    latest: dict[str, _User] = {}  # by scenario, the newest last
    for dyad in dyads:
        scenario = dyad.labels["scenario"]
        others = [user for name, user in latest.items() if (name == scenario) == same_scenario]
        if others:
            yield dyad, others[-1]
        latest.pop(scenario, None)
        latest[scenario] = _User.of(dyad)
