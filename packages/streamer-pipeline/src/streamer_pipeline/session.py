"""One conversation: everything that changes while it lasts, in one state that can be saved, loaded and forked.

Randomness is a function of (seed, unit), so a session's noise needs no generator state.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from causal_vae import (
    State,
    clone_state,
    flatten_state,
    index_state,
    stack_states,
    state_nbytes,
    unflatten_state,
)
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from streamer_core import KVLayout, grow

from .cycle import Answer, InTurn, PerformerSide, ThinkerSide, UserInput, language_noise
from .ledger import LatencyLedger, StopWatch, UnitTiming
from .units import FRAMES_PER_UNIT, AgentUnit, UserUnit

if TYPE_CHECKING:
    from .pipeline import StreamerPipeline

_FORMAT = "wan-streamer-session-2"


@dataclass(frozen=True)
class SessionOptions:
    """What a session was opened with.

    seed: of all its noise. num_steps: solver steps per unit. temperature: of language sampling, 0 takes the most
    likely token. height, width: of the user's picture. prompt: the system text.
    """

    prompt: str
    seed: int
    num_steps: int
    temperature: float
    height: int
    width: int


class StreamerSession:
    """A live conversation with a pipeline. Sessions share nothing but weights.

    session = pipeline.open_session(seed=0)
    agent_unit = session.step(user_unit)      # 160 ms in, 160 ms out
    """

    def __init__(
        self,
        pipeline: StreamerPipeline,
        options: SessionOptions,
        kv_layout: KVLayout,
        state: State,
        pending_text: list[int] | None = None,
    ) -> None:
        self.pipeline, self.options, self.kv_layout, self.state = pipeline, options, kv_layout, state
        self.pending_text = pending_text or []  # typed tokens that did not fit into the slots so far
        self.ledger = LatencyLedger()

    @property
    def num_units(self) -> int:
        """Units that this session has lived."""
        return int(self.state["thinker"]["kv"]["unit"][0])

    def step(self, unit: UserUnit) -> AgentUnit:
        """Take in u_k and answer with y_k, which plays `config.response_delay` units after u_k on the wall clock.

        Raises:
            ValueError: the unit's picture has another size than this session was opened for; nothing has changed.
        """
        return step_sessions([self], [unit])[0]

    def nbytes(self) -> int:
        """Bytes that this session holds."""
        return state_nbytes(self.state)

    def fork(self) -> StreamerSession:
        """A second session that continues independently from the same past."""
        return StreamerSession(
            self.pipeline, self.options, self.kv_layout, clone_state(self.state), list(self.pending_text)
        )

    def save(self, path: str | Path) -> None:
        """Write the whole session to one safetensors file.

        `load` continues bit for bit, also in another process, with as many threads on the same kind of processor.
        """
        geometry = {
            name: getattr(self.kv_layout, name) for name in ("prompt_capacity", "context_units", "response_units")
        }
        header = {
            "options": asdict(self.options),
            "kv": geometry,
            "pending_text": self.pending_text,
            "parts": list(self.state["thinker"]),
            "streamer": self.pipeline.streamer.config.to_diff_dict(),
        }
        leaves = {name: leaf.contiguous() for name, leaf in flatten_state(self.state).items()}
        save_file(leaves, path, metadata={"format": _FORMAT, "session": json.dumps(header, default=str)})

    @classmethod
    def load(cls, path: str | Path, pipeline: StreamerPipeline) -> StreamerSession:
        """Continue a saved session with the same checkpoint.

        Raises:
            ValueError: the file is damaged, is not a session, or was made with another Transformer configuration.
        """
        try:
            with safe_open(path, "pt", device=str(pipeline.device)) as file:
                metadata = file.metadata() or {}
                if metadata.get("format") != _FORMAT:
                    raise ValueError(f"{path} is not a saved session of this version (format {metadata.get('format')})")
                leaves = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118  (a copy: aligned)
        except (SafetensorError, FileNotFoundError) as error:
            raise ValueError(f"{path} cannot be read as a saved session: {error}") from error
        header = json.loads(metadata["session"])
        ours = json.loads(json.dumps(pipeline.streamer.config.to_diff_dict(), default=str))
        differing = [name for name in ours | header["streamer"] if ours.get(name) != header["streamer"].get(name)]
        differing = [
            name
            for name in differing
            if name not in ("_name_or_path", "transformers_version", "dtype", "architectures")
        ]
        if differing:
            raise ValueError(
                f"{path} was saved with another checkpoint; its Transformer differs in {', '.join(differing)}"
            )
        kv_layout = KVLayout(pipeline.streamer.layout, **header["kv"])
        options = SessionOptions(**header["options"])
        state = unflatten_state(leaves)
        # A part without memory has no leaf in the file.
        state["thinker"] = {name: {} for name in header["parts"]} | state["thinker"]
        return cls(pipeline, options, kv_layout, state, header["pending_text"])

    def take_text(self, text: str | None) -> list[int]:
        """Token ids for this unit's user text slots, padded; what does not fit waits for the next units."""
        c = self.pipeline.streamer.config
        if text:
            self.pending_text += self.pipeline.tokenizer.encode_words(text)
        slots, self.pending_text = self.pending_text[: c.user_text_slots], self.pending_text[c.user_text_slots :]
        return slots + [c.pad_token_id] * (c.user_text_slots - len(slots))

    def user_input(self, unit: UserUnit) -> UserInput:
        """A unit as the thinker takes it in, a batch of one."""
        config, device, o = self.pipeline.streamer.config, self.pipeline.device, self.options
        text_ids = torch.tensor([self.take_text(unit.text)], device=device, dtype=torch.int64)
        gumbel = None
        if o.temperature > 0:
            gumbel = o.temperature * language_noise(config, o.seed, self.num_units).to(device)
        return UserInput(text_ids, unit.audio[None].to(device), unit.video[None].to(device), gumbel)

    def check(self, unit: UserUnit) -> None:
        """Raise ValueError unless the unit's picture has the size that this session was opened for."""
        expected = (3, FRAMES_PER_UNIT, self.options.height, self.options.width)
        if tuple(unit.video.shape) != expected:
            raise ValueError(f"this session was opened for video of shape {expected}; got {tuple(unit.video.shape)}")

    def agent_unit(self, answer: Answer, row: int = 0) -> AgentUnit:
        """One row of the cycle's answer as a unit. Its latency is complete only when the ledger has it."""
        config, tokenizer = self.pipeline.streamer.config, self.pipeline.tokenizer
        name = config.state_names[config.state_token_ids.index(int(answer.state_ids[row]))]
        words = (token for token in answer.text_ids[row].tolist() if token != config.pad_token_id)
        text, index = tokenizer.decode_slots(words), int(answer.unit[row])
        return AgentUnit(answer.audio[row].float().cpu(), answer.video[row].float().cpu(), text, name, index)


@torch.inference_mode()
def step_sessions(sessions: list[StreamerSession], units: list[UserUnit]) -> list[AgentUnit]:
    """One unit for each of several sessions of one pipeline, computed as one batch; each gets what it would get alone.

    Raises:
        ValueError: the sessions differ in pipeline, solver steps or picture size, or a unit does not fit its session.
    """
    watch, timing = StopWatch(), UnitTiming(sessions[0].num_units)
    _check_batch(sessions, units)
    _align_rings(sessions)
    first = sessions[0]
    states = [session.state for session in sessions]
    state = states[0] if len(states) == 1 else stack_states(states)
    user = _stack_inputs([session.user_input(unit) for session, unit in zip(sessions, units, strict=True)])
    seeds = [session.options.seed for session in sessions]
    performing = PerformerSide(
        first.pipeline.performer, state["performer"], first.kv_layout, seeds, first.options.num_steps, watch
    )
    thinking = ThinkerSide(first.pipeline.thinker, state["thinker"], first.kv_layout, InTurn(performing), watch)
    thinking.submit(user, timing)
    answer = thinking.collect()
    state = {"thinker": thinking.state, "performer": performing.state}
    answers = []
    for row, session in enumerate(sessions):
        answers.append(session.agent_unit(answer, row))
        session.state, session.kv_layout = (
            (state if len(sessions) == 1 else index_state(state, row)),
            thinking.kv_layout,
        )
    watch.lap(timing, "emit")
    for session, unit in zip(sessions, answers, strict=True):
        session.ledger.add(replace(timing, index=unit.index))
    return [replace(unit, latency=timing.durations) for unit in answers]


def _stack_inputs(inputs: list[UserInput]) -> UserInput:
    """Batches of one as one batch. Who does not sample adds nothing to the logits."""
    text_ids, audio, video, gumbels = zip(*inputs, strict=True)
    drawn = next((gumbel for gumbel in gumbels if gumbel is not None), None)
    if drawn is not None:
        drawn = torch.cat([torch.zeros_like(drawn) if gumbel is None else gumbel for gumbel in gumbels])
    return UserInput(torch.cat(text_ids), torch.cat(audio), torch.cat(video), drawn)


def _check_batch(sessions: list[StreamerSession], units: list[UserUnit]) -> None:
    first = sessions[0]
    for session, unit in zip(sessions, units, strict=True):
        session.check(unit)
        if session.pipeline is not first.pipeline:
            raise ValueError("sessions of different pipelines cannot share a batch")
        o = session.options
        if (o.num_steps, o.height, o.width) != (first.options.num_steps, first.options.height, first.options.width):
            raise ValueError("sessions of one batch need the same num_steps and the same picture size")
    if len({id(session) for session in sessions}) != len(sessions):
        raise ValueError("a session can take one unit at a time; it appears twice in this batch")


def _align_rings(sessions: list[StreamerSession]) -> None:
    """Bring full histories of different ages to one size, so that they stack; windowed ones have it already."""
    largest = max((session.kv_layout for session in sessions), key=lambda kv_layout: kv_layout.num_slots)
    for session in sessions:
        if session.kv_layout == largest:
            continue
        thinker = session.state["thinker"]
        rings = largest.context_units, largest.response_units
        kv, _ = grow(thinker["kv"], session.kv_layout, *rings)
        performer, _ = grow(session.state["performer"], session.kv_layout, *rings)
        session.state = {"thinker": {**thinker, "kv": kv}, "performer": performer}
        session.kv_layout = replace(largest)
