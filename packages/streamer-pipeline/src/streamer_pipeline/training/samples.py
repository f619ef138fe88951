"""A Lightning callback that lets the agent talk to people while it is being trained, to be looked at and heard."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from ..data.dyads import StoredDyad
from ..media.recordings import RecordingWriter, side_by_side
from ..pipeline import StreamerPipeline
from ..units import FRAMES_PER_UNIT, UserUnit, split_units

Users = Callable[[], Iterable[tuple[str, Iterable[UserUnit]]]]


class SampleConversations(Callback):
    """After each validation, writes `<folder>/<step>-<name>.mp4`: a user, and what the agent answers.

    Args:
        users: gives, each time, names and what these users say and show, in the size of the agent's picture.
        pipeline: of the parts that are being trained; it puts their mode back.
    """

    def __init__(self, folder: Path, users: Users, pipeline: StreamerPipeline) -> None:
        self.folder, self.users, self.pipeline = folder, users, pipeline

    def on_validation_end(self, trainer: Trainer, module: LightningModule) -> None:
        if not trainer.is_global_zero or trainer.sanity_checking:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        self.pipeline.to(module.device)  # what is not trained has stayed where it was
        for name, units in self.users():
            self._talk(self.folder / f"{trainer.global_step:06d}-{name}.mp4", iter(units))

    def _talk(self, path: Path, users: Iterator[UserUnit]) -> None:
        first = next(users)
        height, width = first.video.shape[2:]
        with torch.autocast(self.pipeline.streamer.device.type, enabled=False):
            session = self.pipeline.open_session(height=height, width=width)
            with RecordingWriter(path, height, 2 * width, num_channels=2) as writer:
                writer.write(side_by_side(first, session.step(first)))
                for user in users:
                    writer.write(side_by_side(user, session.step(user)))


def user_units(dyad: StoredDyad, height: int, width: int) -> list[UserUnit]:
    """The user's side of a dyad in pictures of this size, black where nobody filmed."""
    if dyad.user_video is None:
        video = torch.full((3, dyad.num_units * FRAMES_PER_UNIT, height, width), -1.0)
    else:
        frames = F.interpolate(dyad.user_video.transpose(0, 1), (height, width), mode="area")
        video = frames.transpose(0, 1).clamp(-1, 1).contiguous()
    return split_units(dyad.user_audio, video)
