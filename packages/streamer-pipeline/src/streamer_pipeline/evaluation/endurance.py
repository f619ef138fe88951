"""One long conversation: does the voice keep its level, do the latents keep their distribution, the face its face?"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from ..pipeline import StreamerPipeline
from ..units import UNIT_MS, UserUnit, split_units
from .closed_loop import CountingSolver, open_session, user_units, with_solver
from .face import FaceMeter, is_there
from .sound import active_pieces, decibels, levels
from .statistics import Score

if TYPE_CHECKING:
    from ..data.dyads import StoredDyad

UNITS_PER_MINUTE = 60_000 / UNIT_MS
_UNITS_PER_LOOK = 25  # four seconds: so often it is asked whose face that is


@dataclass(frozen=True)
class Minute:
    """One minute of a session. level_db: RMS of what sounds, None if nothing did. latent_mean, latent_std: by modality.
    face_distance: RMS distance (0..1) of the silent face to the mean silent face of the recordings. identity_distance:
    mean distance of its identity to the mean of the first minute, None where nobody finds a face."""

    level_db: float | None
    latent_mean: dict[str, float]
    latent_std: dict[str, float]
    face_distance: float | None
    identity_distance: float | None = None


@dataclass
class _Tally:
    """What is gathered within one minute."""

    loud: list[float] = field(default_factory=list)
    latents: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    distances: list[float] = field(default_factory=list)
    identities: list[np.ndarray] = field(default_factory=list)

    def mean_identity(self) -> np.ndarray | None:
        """(D,), None where nobody finds a face."""
        if not self.identities or not is_there(np.stack(self.identities)):
            return None
        return np.asarray(np.nanmean(self.identities, axis=0))

    def minute(self, first_identity: np.ndarray | None) -> Minute:
        is_seen = first_identity is not None and self.mean_identity() is not None
        off = np.linalg.norm(np.stack(self.identities) - first_identity, axis=1) if is_seen else None
        moments = {name: np.mean(values, axis=0) for name, values in self.latents.items()}
        return Minute(
            level_db=decibels(float(np.sqrt(np.mean(np.square(self.loud))))) if self.loud else None,
            latent_mean={name: float(first) for name, (first, _) in moments.items()},
            latent_std={name: float(np.sqrt(second - first**2)) for name, (first, second) in moments.items()},
            face_distance=float(np.mean(self.distances)) if self.distances else None,
            identity_distance=None if off is None else float(np.nanmean(off)),
        )


def mean_silent_face(dyads: Iterable[StoredDyad], meter: FaceMeter) -> np.ndarray | None:
    """The average (3, h, w) of the recorded agent's face in units without sound, over some dyads; None where it is
    never filmed in silence."""
    total: Any = 0.0
    count = 0
    for dyad in dyads:
        if dyad.agent_video is None:
            continue
        for unit in split_units(dyad.agent_audio, dyad.agent_video):
            if not active_pieces(unit.audio[0].numpy()).any():
                total = total + meter.face(unit.video).sum(axis=1)
                count += unit.video.shape[1]
    return total / count if count else None


def live_on(
    pipeline: StreamerPipeline,
    dyads: Callable[[], Iterable[StoredDyad]],
    num_minutes: float,
    meter: FaceMeter,
    silent_face: np.ndarray | None,
    seed: int = 0,
    num_steps: int | None = None,
    unseen: Tensor | None = None,
) -> Iterator[Minute]:
    """One session over concatenated dyads, begun again when they are used up; yields every minute as it ends."""
    solver = CountingSolver(pipeline.scheduler)
    watched = with_solver(pipeline, solver)
    session, tally, first_identity = None, _Tally(), None
    per_minute = round(UNITS_PER_MINUTE)
    for index, (dyad, user) in enumerate(_endless(dyads, unseen)):
        if index >= round(num_minutes * UNITS_PER_MINUTE):
            return
        session = session or open_session(watched, dyad, seed, num_steps, unseen)
        unit = session.step(user)
        _note(tally, unit.audio, unit.video, solver, meter, silent_face)
        if index % _UNITS_PER_LOOK == 0 and (identity := meter(unit.video).identity) is not None:
            tally.identities.append(identity[0])
        if (index + 1) % per_minute == 0:
            first_identity = tally.mean_identity() if first_identity is None else first_identity
            yield tally.minute(first_identity)
            tally = _Tally()


def _endless(dyads: Callable[[], Iterable[StoredDyad]], unseen: Tensor | None) -> Iterator[tuple[StoredDyad, UserUnit]]:
    while True:
        for dyad in dyads():
            yield from ((dyad, unit) for unit in user_units(dyad, unseen))


def _note(
    tally: _Tally,
    audio: Tensor,
    video: Tensor,
    solver: CountingSolver,
    meter: FaceMeter,
    silent_face: np.ndarray | None,
) -> None:
    wave = audio[0].numpy()
    active = active_pieces(wave)
    tally.loud += list(levels(wave)[active])
    for name, latents in solver.latest.items():
        moments = latents.mean().item(), latents.square().mean().item()
        tally.latents.setdefault(name, []).append(moments)
    if silent_face is not None and not active.any():
        off = meter.face(video) - silent_face[:, None]
        tally.distances.append(float(np.sqrt(np.square(off).mean())))


def endurance_scores(minutes: list[Minute]) -> dict[str, Score]:
    """The largest departure from the first minute: of level (dB), of latents' mean and std, of the face's distance, of
    its identity.

    Means are compared in units of the first minute's std, stds and distances as ratios, so 0.1 is 10 %; identities by
    the difference of their distances.
    """
    if len(minutes) < 2:
        return {}
    first, rest = minutes[0], minutes[1:]
    spoken = [m.level_db - first.level_db for m in rest if m.level_db is not None and first.level_db is not None]
    seen = [m.identity_distance for m in minutes if m.identity_distance is not None]
    faces = [m.face_distance / first.face_distance - 1 for m in rest if m.face_distance and first.face_distance]
    means = [
        (m.latent_mean[name] - first.latent_mean[name]) / std for m in rest for name, std in first.latent_std.items()
    ]
    stds = [m.latent_std[name] / std - 1 for m in rest for name, std in first.latent_std.items()]
    drifts = {"level": spoken, "latent_mean": means, "latent_std": stds, "face": faces}
    drifts["identity"] = [distance - seen[0] for distance in seen[1:]]
    return {f"endurance.{name}": _largest(values, len(minutes)) for name, values in drifts.items()}


def _largest(values: list[float], n: int) -> Score:
    return Score(max(map(abs, values)), n=n) if values else Score(None)


def as_records(minutes: list[Minute]) -> list[dict[str, Any]]:
    """Ready for JSON."""
    return [asdict(minute) for minute in minutes]
