"""Sessions side by side: a batch holds the state of N rows at fixed addresses, and a session lives in a place of it.

A session alone is a batch of one. `join` copies a session's state into a free place, `leave` copies it out; a step
copies no history. The Transformer's passes run over all places, so that a row's numbers do not depend on who else is
there; the rows that pause keep their state, and what was written for their current unit is overwritten when they go on.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from causal_vae import State, flatten_state, index_state, map_state
from streamer_core import CacheSpec, grow
from torch import Tensor

from .cycle import Answer, InTurn, PerformerSide, ThinkerSide, UserInput, to_device
from .ledger import StopWatch, UnitTiming
from .units import FRAMES_PER_UNIT, SAMPLES_PER_UNIT, AgentUnit, UserUnit

if TYPE_CHECKING:
    from .pipeline import StreamerPipeline
    from .session import SessionOptions, StreamerSession

_HISTORY = ("keys", "values")  # written in place, at the current unit's slots


class SessionBatch:
    """N places for sessions of one pipeline, stepped together; each session gets what it would get alone.

        batch = pipeline.open_batch(4)
        batch.join(session)  # session.save, fork and step go on working
        answers = batch.step({session: user_unit, other: other_unit})  # who is not named pauses
        batch.leave(session)  # continues by itself

    One thread at a time is let in, the others wait.

    Args:
        state: of `size` rows: {"thinker": ..., "performer": ...}. It belongs to the batch from now on.
        options: whose `num_inference_steps`, `height` and `width` all sessions share.
    """

    def __init__(
        self, pipeline: StreamerPipeline, options: SessionOptions, cache_spec: CacheSpec, state: State
    ) -> None:
        self.pipeline, self.cache_spec, self.state = pipeline, cache_spec, state
        self.num_inference_steps, self.height, self.width = options.num_inference_steps, options.height, options.width
        self.places: list[StreamerSession | None] = [None] * len(state["performer"]["unit"])
        self._lock = threading.RLock()

    @property
    def size(self) -> int:
        """Places, taken or not."""
        return len(self.places)

    @property
    def sessions(self) -> list[StreamerSession]:
        """Who is here, by place."""
        return [session for session in self.places if session is not None]

    def row(self, session: StreamerSession) -> State:
        """The session's state as views of the batch's memory, each (1, ...)."""
        place = self._place(session)
        return map_state(lambda leaf: leaf[place : place + 1], self.state)

    @torch.inference_mode()
    def join(self, session: StreamerSession) -> None:
        """Let a session in: its state is copied into a free place, and its own memory is given up.

        A full history that is longer than the batch's makes all places longer.

        Raises:
            ValueError: every place is taken, the session is here already, or pipeline, solver steps or picture size
                differ; nothing has changed.
        """
        with self._lock:
            if session.batch is self:
                raise ValueError("this session has a place in this batch already")
            if None not in self.places:
                raise ValueError(f"all {self.size} places of this batch are taken; leave one, or open a larger batch")
            self._check_fits(session)
            with session.batch.alone(session) as (old_layout, old):
                self._grow(self.cache_spec.union(old_layout))
                place = self.places.index(None)
                moved = {
                    "thinker": {**old["thinker"], "kv": grow(old["thinker"]["kv"], old_layout, self.cache_spec)},
                    "performer": grow(old["performer"], old_layout, self.cache_spec),
                }
                map_state(lambda ours, theirs: ours[place : place + 1].copy_(theirs), self.state, moved)
                self.places[place] = session
            session.move_to(self)

    @torch.inference_mode()
    def leave(self, session: StreamerSession) -> None:
        """Copy a session out, into memory of its own; its place is free.

        Raises:
            ValueError: the session is not here.
        """
        with self._lock:
            place = self._place(session)
            own = SessionBatch(self.pipeline, session.options, self.cache_spec, index_state(self.state, place))
            own.places[0], self.places[place] = session, None
            session.move_to(own)

    @contextmanager
    def alone(self, session: StreamerSession) -> Iterator[tuple[CacheSpec, State]]:
        """Layout and state of one session, for whoever takes it away; its place is free afterwards."""
        with self._lock:
            place = self._place(session)
            yield self.cache_spec, self.row(session)
            self.places[place] = None

    @torch.inference_mode()
    def step(self, units: Mapping[StreamerSession, UserUnit]) -> dict[StreamerSession, AgentUnit]:
        """One unit for each of the sessions named; the others pause.

        A step that raises has consumed nothing: every session is as it was, typed words included.

        Raises:
            ValueError, TypeError: a session is not here, or a unit does not fit its session.
        """
        with self._lock, self.pipeline.evaluating():
            watch, timing = StopWatch(), UnitTiming(0)
            due = {self._place(session): session for session in units}
            if not due:
                return {}
            for session, unit in units.items():
                session.check(unit)
            taken = {place: session.take_text(units[session].text) for place, session in due.items()}
            self._grow(self.cache_spec.with_room_for(max(session.num_units for session in self.sessions) + 1))
            places = range(self.size)
            user = form_input(
                self.pipeline,
                [units[due[place]] if place in due else None for place in places],
                [taken[place][0] if place in due else None for place in places],
                [due[place].language_noise() if place in due else None for place in places],
                self.height,
                self.width,
            )
            answer, state = self._run(user, sorted(due), watch, timing)
            indices = {place: session.num_units for place, session in due.items()}
            answers, partial = form_units(self.pipeline, answer, indices, due)
            self._settle(state, sorted(due))
            for place, session in due.items():
                session.pending_text = taken[place][1]
                session.partial_text, session.partial_heard = partial[place]
                session.num_units += 1
            watch.lap(timing, "emit")
            for place, session in due.items():
                session.ledger.add(replace(timing, index=answers[place].index))
            return {session: replace(answers[place], latency=timing.durations) for place, session in due.items()}

    # ---- one step ----

    def _run(self, user: UserInput, due: Sequence[int], watch: StopWatch, timing: UnitTiming) -> tuple[Answer, State]:
        """The cycle over all rows: the answer and the next state, of which the rows that are not due mean nothing."""
        pipeline = self.pipeline
        units = [0 if session is None else session.num_units for session in self.places]
        seeds = [0 if session is None else session.options.seed for session in self.places]
        performing = PerformerSide(
            pipeline.performer, self.state["performer"], self.cache_spec, units, seeds, self.num_inference_steps, watch
        )
        thinking = ThinkerSide(
            pipeline.thinker, self.state["thinker"], self.cache_spec, units, InTurn(performing), watch, due
        )
        thinking.submit(user, timing)
        answer = thinking.collect()
        return answer, {"thinker": thinking.state, "performer": performing.state}

    def _settle(self, new: State, due: Sequence[int]) -> None:
        """Make a step's outcome the state of the rows that are due: the only moment at which anything changes."""
        ours, theirs = flatten_state(self.state), flatten_state(new)
        everybody = len(due) == self.size
        for name, leaf in ours.items():
            if leaf is theirs[name] or name.rpartition(".")[2] in _HISTORY:
                continue
            if everybody:
                leaf.copy_(theirs[name])
            else:
                for place in due:
                    leaf[place].copy_(theirs[name][place])

    def _grow(self, wanted: CacheSpec) -> None:
        """Make every place as long as `wanted`: the only time that addresses change."""
        if wanted == self.cache_spec:
            return
        thinker, performer = self.state["thinker"], self.state["performer"]
        self.state = {
            "thinker": {**thinker, "kv": grow(thinker["kv"], self.cache_spec, wanted)},
            "performer": grow(performer, self.cache_spec, wanted),
        }
        self.cache_spec = wanted

    # ---- who is here ----

    def _place(self, session: StreamerSession) -> int:
        for place, other in enumerate(self.places):
            if other is session:
                return place
        raise ValueError("this session has no place in this batch; let it join first")

    def _check_fits(self, session: StreamerSession) -> None:
        if session.pipeline is not self.pipeline:
            raise ValueError("sessions of different pipelines cannot share a batch")
        ours, o = (self.num_inference_steps, self.height, self.width), session.options
        theirs = o.num_inference_steps, o.height, o.width
        if ours != theirs:
            raise ValueError(f"this batch has num_inference_steps, height and width {ours}, the session {theirs}")


def form_input(
    pipeline: StreamerPipeline,
    units: Sequence[UserUnit | None],
    text_ids: Sequence[list[int] | None],
    gumbels: Sequence[Tensor | None],
    height: int,
    width: int,
) -> UserInput:
    """Rows as the thinker takes them in; one that is None is silent, in the dark, and samples nothing."""
    config, device = pipeline.streamer.config, pipeline.streamer.device
    silence, darkness = torch.zeros(1, SAMPLES_PER_UNIT), torch.zeros(3, FRAMES_PER_UNIT, height, width)
    nothing = [config.pad_token_id] * config.user_text_slots
    ids = torch.tensor([nothing if row is None else row for row in text_ids], dtype=torch.int64)
    audio = _stack([silence if unit is None else unit.audio for unit in units])
    video = _stack([darkness if unit is None else unit.video for unit in units])
    ids, audio, video = (to_device(x, device, x.dtype) for x in (ids, audio, video))
    sampled = next((noise for noise in gumbels if noise is not None), None)
    if sampled is None:
        return UserInput(ids, audio, video, None)
    gumbel = _stack([torch.zeros_like(sampled) if noise is None else noise for noise in gumbels])
    return UserInput(ids, audio, video, to_device(gumbel, device, gumbel.dtype))


def form_units(
    pipeline: StreamerPipeline, answer: Answer, indices: Mapping[int, int], sessions: Mapping[int, StreamerSession]
) -> tuple[dict[int, AgentUnit], dict[int, tuple[list[int], list[int]]]]:
    """The answer's rows as units by row, and what is then each session's `partial_text` and `partial_heard`.

    `indices` gives each unit its number. Their latency is told later.
    """
    config, tokenizer = pipeline.streamer.config, pipeline.tokenizer
    language, heard, audio = answer.language.tolist(), answer.heard.tolist(), answer.audio.float().cpu()
    latents = {name: z.float().cpu() for name, z in answer.latents.items()}
    units, partial = {}, {}
    for row, index in indices.items():
        state, *words = language[row]
        picture = answer.video[row]
        assert picture is not None  # what is asked for was rendered
        text, partial_text = tokenizer.decode_stream(words, sessions[row].partial_text)
        user_text, partial_heard = tokenizer.decode_stream(heard[row], sessions[row].partial_heard)
        partial[row] = partial_text, partial_heard
        units[row] = AgentUnit(
            audio=audio[row].clone(),
            video=picture.float().cpu(),
            text=text,
            state=config.state_names[config.state_token_ids.index(state)],
            index=index,
            language=tuple(language[row]),
            latents={name: z[row].clone() for name, z in latents.items()},
            heard=user_text,
        )
    return units, partial


def _stack(rows: list[Tensor]) -> Tensor:
    """Rows as a batch; one alone is not copied."""
    return rows[0][None] if len(rows) == 1 else torch.stack(rows)
