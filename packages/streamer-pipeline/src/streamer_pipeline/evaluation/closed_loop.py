"""The agent live: every dyad's user talks to a session of its own, unit by unit, many sessions in one batch.

Nothing is teacher-forced: what the agent said and did in earlier units is its own.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from itertools import cycle
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from causal_vae import State
from streamer_core import Latents, Solver
from streamer_core.scheduler import Velocity
from torch import Tensor

from ..batch import SessionBatch
from ..pipeline import StreamerPipeline
from ..session import StreamerSession
from ..thinker import Renderer
from ..units import FRAMES_PER_UNIT, HEIGHT, SAMPLES_PER_UNIT, WIDTH, AgentUnit, UserUnit, split_units
from .acoustic_loop import AcousticLoop
from .face import FaceMeter, FaceTracks
from .recorded_conversation import RecordedConversation

if TYPE_CHECKING:
    from ..data.dyads import StoredDyad


class CountingSolver:
    """Counts passes of the Transformer per solved unit, and keeps the latents of the newest unit for inspection."""

    def __init__(self, solver: Solver) -> None:
        self.solver, self.num_passes, self.num_units = solver, 0, 0
        self.latest: Latents = {}

    def solve(self, velocity: Velocity, noise: Latents, num_steps: int) -> Latents:
        def counted(latents: Latents, sigma: Tensor) -> Latents:
            self.num_passes += 1
            return velocity(latents, sigma)

        self.num_units += 1
        self.latest = self.solver.solve(counted, noise, num_steps)
        return self.latest


class SeparateSolver:
    """An ablation of joint denoising: sound is solved beside a picture of pure noise, and the other way round.

    The tokens of the other modality stay at their noise while the noise level falls, so neither sees what the other
    becomes. Only the committed history still ties them together.
    """

    def __init__(self, solver: Solver) -> None:
        self.solver = solver

    def solve(self, velocity: Velocity, noise: Latents, num_steps: int) -> Latents:
        def alone(name: str) -> Velocity:
            return lambda latents, sigma: {name: velocity({**noise, **latents}, sigma)[name]}

        return {name: self.solver.solve(alone(name), {name: start}, num_steps)[name] for name, start in noise.items()}


def with_solver(pipeline: StreamerPipeline, solver: Solver) -> StreamerPipeline:
    """The same weights under another solver."""
    return _like(pipeline, type(pipeline), scheduler=solver)


def without_picture(pipeline: StreamerPipeline) -> StreamerPipeline:
    """The same agent, heard but never seen: for controls of which only the words matter, at a fraction of the time."""
    return _like(pipeline, _HeardOnly)


def _like(pipeline: StreamerPipeline, kind: type[StreamerPipeline], **replaced: Any) -> StreamerPipeline:
    config = pipeline.config
    return kind(
        **pipeline.components | replaced,
        prompt=config.prompt,
        num_inference_steps=config.num_inference_steps,
    )


class _HeardOnly(StreamerPipeline):
    """Renders sound, and a picture without pixels."""

    def _renderer(self, name: str) -> Renderer:
        return super()._renderer(name) if name == "audio" else _render_nothing


def _render_nothing(latents: Tensor, state: State | None) -> tuple[Tensor, State]:
    return latents.new_zeros(len(latents), 3, FRAMES_PER_UNIT * latents.shape[2], 0, 0), {}


def converse(
    pipeline: StreamerPipeline,
    dyads: Iterable[StoredDyad],
    meter: FaceMeter | None = None,
    seed: int = 0,
    num_steps: int | None = None,
    batch_size: int = 8,
    hears_itself: bool = False,
    unseen: Tensor | None = None,
) -> Iterator[RecordedConversation]:
    """Let the agent meet the user of every dyad, closed loop; yields conversations as conversations end.

    Args:
        meter: reads the agent's face; None if nobody looks.
        seed: of all noise. The noise of a dyad depends on this and on the dyad, not on what else is run.
        num_steps: solver steps per unit; None takes the checkpoint's own.
        hears_itself: the agent's sound comes back through the user's microphone, by a room that depends on the dyad.
        unseen: what is seen of users whom nobody filmed, as `user_units` takes it; as large as the picture of others.
    """
    waiting = iter(dyads)
    live: list[_Conversation] = []
    batch: SessionBatch | None = None
    while True:
        while len(live) < batch_size and (dyad := next(waiting, None)) is not None:
            live.append(_Conversation(pipeline, dyad, meter, seed, num_steps, hears_itself, unseen))
            session = live[-1].session
            if batch is None:
                batch = pipeline.open_batch(batch_size, num_steps, session.options.height, session.options.width)
            batch.join(session)
        if batch is None or not live:
            return
        units = batch.step({talk.session: talk.next_unit() for talk in live})
        for talk in live:
            talk.take(units[talk.session])
        for talk in live:
            if talk.is_over:
                batch.leave(talk.session)
                yield talk.conversation()
        live = [talk for talk in live if not talk.is_over]


class _Conversation:
    """One dyad's user and one session; keeps what judges need and no picture."""

    def __init__(
        self,
        pipeline: StreamerPipeline,
        dyad: StoredDyad,
        meter: FaceMeter | None,
        seed: int,
        num_steps: int | None,
        hears_itself: bool,
        unseen: Tensor | None,
    ) -> None:
        own_seed = seed_of(dyad)
        self.session = open_session(pipeline, dyad, seed + own_seed, num_steps, unseen)
        self._key, self._labels, self._meter = dyad.key, dyad.labels, meter
        self._loop = AcousticLoop(own_seed) if hears_itself else None
        self._delay = pipeline.streamer.config.response_delay
        self._users = user_units(dyad, unseen)
        self._num_left = dyad.num_units - self._delay  # what would play after the end is not asked for
        self._heard: list[np.ndarray] = [np.zeros(self._delay * SAMPLES_PER_UNIT, np.float32)]
        self._texts: list[str] = [""] * self._delay
        self._user_words: list[str] | None = [] if pipeline.streamer.config.hears_words else None
        self._faces: list[FaceTracks] = []
        self._last_frame: Tensor | None = None

    @property
    def is_over(self) -> bool:
        return self._num_left <= 0

    def next_unit(self) -> UserUnit:
        unit = next(self._users)
        return unit if self._loop is None else self._loop.microphone(unit)

    def take(self, unit: AgentUnit) -> None:
        if not unit.audio.isfinite().all():
            raise ValueError(f"the agent's sound is not finite in unit {len(self._texts)} of dyad {self._key}")
        self._num_left -= 1
        self._heard.append(unit.audio[0].numpy())
        self._texts.append(unit.text)
        if self._user_words is not None:
            self._user_words.append(unit.heard)
        if self._loop is not None:
            self._loop.play(unit.audio)
        if self._meter is not None:
            self._faces.append(self._meter(unit.video, self._last_frame))
            self._last_frame = unit.video[:, -1:].clone()

    def conversation(self) -> RecordedConversation:
        face = None
        if self._faces:
            num_frames = FRAMES_PER_UNIT * (len(self._texts) - self._delay)
            held = FaceTracks.joined(self._faces, num_frames + FRAMES_PER_UNIT * self._delay)
            face = held.delayed(FRAMES_PER_UNIT * self._delay)
        wave = np.concatenate(self._heard)
        return RecordedConversation(self._key, self._labels, wave, self._texts, face, self._user_words)


def open_session(
    pipeline: StreamerPipeline,
    dyad: StoredDyad,
    seed: int,
    num_steps: int | None = None,
    unseen: Tensor | None = None,
) -> StreamerSession:
    """A session for the size of the dyad's user picture, or of what is seen instead."""
    picture = unseen if dyad.user_video is None else dyad.user_video
    height, width = (HEIGHT, WIDTH) if picture is None else picture.shape[2:]
    return pipeline.open_session(seed=seed, num_inference_steps=num_steps, height=height, width=width)


def user_units(dyad: StoredDyad, unseen: Tensor | None = None) -> Iterator[UserUnit]:
    """What the user of a dyad does.

    Args:
        unseen: (3, T, H, W), what is seen where nobody filmed the user, begun again at its end; T is a multiple of 4.
            None is black.
    """
    if dyad.user_video is not None:
        yield from split_units(dyad.user_audio, dyad.user_video)
        return
    pictures = (black(HEIGHT, WIDTH) if unseen is None else unseen).split(FRAMES_PER_UNIT, dim=1)
    sounds = dyad.user_audio.split(SAMPLES_PER_UNIT, dim=1)
    yield from (UserUnit(sound, picture) for sound, picture in zip(sounds, cycle(pictures), strict=False))


def black(height: int, width: int) -> Tensor:
    """A unit of darkness, (3, 4, H, W)."""
    return torch.full((3, FRAMES_PER_UNIT, height, width), -1.0)


def seed_of(dyad: StoredDyad) -> int:
    """A number of its own for every dyad: its label "seed", or one that follows from its key."""
    return dyad.labels.get("seed", zlib.crc32(dyad.key.encode()))


@torch.inference_mode()
def through_vaes(pipeline: StreamerPipeline, dyad: StoredDyad, units_at_once: int = 4) -> tuple[Tensor, Tensor | None]:
    """The recorded agent's audio (1, N) and video (3, T, H, W), encoded and rendered: what no agent can better.

    The video is None where the agent was not filmed.
    """
    thinker = pipeline.thinker
    sides = [(dyad.agent_audio, SAMPLES_PER_UNIT, pipeline.audio_vae, thinker.audio_renderer)]
    if dyad.agent_video is not None:
        sides.append((dyad.agent_video, FRAMES_PER_UNIT, pipeline.video_vae, thinker.video_renderer))
    rendered = []
    for media, per_unit, vae, render in sides:
        encoding, rendering, pieces = None, None, []
        for piece in media[None].split(units_at_once * per_unit, dim=2):
            latents, encoding = vae.encode(piece, encoding)
            shown, rendering = render(latents.mean, rendering)
            pieces.append(shown[0])
        rendered.append(torch.cat(pieces, 1).clamp(-1, 1))
    return rendered[0], rendered[1] if len(rendered) > 1 else None
