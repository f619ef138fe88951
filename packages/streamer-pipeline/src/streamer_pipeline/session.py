"""One conversation: everything that changes while it lasts, in one state that can be saved, loaded and forked.

Randomness is a function of (seed, unit), so a session's noise needs no generator state and both sides of a split
pipeline can draw it on their own.
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
from streamer_core import KVLayout, StreamerConfig, advance, grow
from torch import Tensor

from .ledger import LatencyLedger
from .units import FRAMES_PER_UNIT, AgentUnit, UserUnit

if TYPE_CHECKING:
    from .pipeline import StreamerPipeline

_FORMAT = "wan-streamer-session-1"


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


def unit_noise(config: StreamerConfig, seed: int, unit: int) -> dict[str, Tensor]:
    """The noise of one unit: "audio" and "video" latents (1, tokens, dim), "gumbel" (1, slots, V). Always the same."""
    generator = torch.Generator().manual_seed((seed * 1_000_003 + unit) % 2**63)
    c = config
    audio = torch.randn(1, c.agent_audio_tokens, c.audio_token_dim, generator=generator)
    video = torch.randn(1, c.agent_video_tokens, c.video_token_dim, generator=generator)
    uniform = torch.rand(1, 1 + c.agent_text_slots, c.vocab_size, generator=generator).clamp(min=1e-20)
    return {"audio": audio, "video": video, "gumbel": -torch.log((-torch.log(uniform)).clamp(min=1e-20))}


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
        return cls(pipeline, options, kv_layout, unflatten_state(leaves), header["pending_text"])

    def take_text(self, text: str | None) -> list[int]:
        """Token ids for this unit's user text slots, padded; what does not fit waits for the next units."""
        c = self.pipeline.streamer.config
        if text:
            self.pending_text += self.pipeline.tokenizer.encode_words(text)
        slots, self.pending_text = self.pending_text[: c.user_text_slots], self.pending_text[c.user_text_slots :]
        return slots + [c.pad_token_id] * (c.user_text_slots - len(slots))

    def make_room(self) -> None:
        """Double the rings of a full history before they would wrap; windows never need it."""
        limit = self.kv_layout.max_units()
        if limit is None or self.num_units < limit:
            return
        thinker = self.state["thinker"]
        doubled = 2 * self.kv_layout.context_units, 2 * self.kv_layout.response_units
        kv, larger = grow(thinker["kv"], self.kv_layout, *doubled)
        performer, _ = grow(self.state["performer"], self.kv_layout, *doubled)
        self.state = {"thinker": {**thinker, "kv": kv}, "performer": performer}
        self.kv_layout = larger


@torch.inference_mode()
def step_sessions(sessions: list[StreamerSession], units: list[UserUnit]) -> list[AgentUnit]:
    """One unit for each of several sessions of one pipeline, computed as one batch; each gets what it would get alone.

    Raises:
        ValueError: the sessions differ in pipeline, solver steps or picture size, or a unit does not fit its session.
    """
    _check_batch(sessions, units)
    pipeline, options = sessions[0].pipeline, sessions[0].options
    for session in sessions:
        session.make_room()
    _align_rings(sessions)
    kv_layout, config = sessions[0].kv_layout, pipeline.streamer.config
    ledger = LatencyLedger()
    with ledger.unit() as spans:
        states = [session.state for session in sessions]
        state = states[0] if len(states) == 1 else stack_states(states)
        noise = [unit_noise(config, s.options.seed, s.num_units) for s in sessions]
        noise = {name: torch.cat([n[name] for n in noise]).to(pipeline.device) for name in noise[0]}
        temperature = torch.tensor([s.options.temperature for s in sessions], device=pipeline.device)
        gumbel = noise.pop("gumbel") * temperature[:, None, None] if bool((temperature > 0).any()) else None
        text_ids = [s.take_text(u.text) for s, u in zip(sessions, units, strict=True)]
        text_ids = torch.tensor(text_ids, device=pipeline.device, dtype=torch.int64).view(len(sessions), -1)
        audio = torch.stack([u.audio for u in units]).to(pipeline.device)
        video = torch.stack([u.video for u in units]).to(pipeline.device)
        thought, media, state = _run_unit(
            pipeline, text_ids, audio, video, {**noise, "gumbel": gumbel}, state, kv_layout, options.num_steps, spans
        )
    return [_deliver(session, thought, media, state, row, len(sessions), spans) for row, session in enumerate(sessions)]


def _run_unit(pipeline, text_ids, audio, video, noise, state, kv_layout, num_steps, spans):
    """Thinker and performer in turn (DESIGN section 6, cycle k), for a batch of sessions."""
    thinker, performer, span = pipeline.thinker, pipeline.performer, LatencyLedger.span
    thinking, performing = state["thinker"], state["performer"]
    with span(spans, "encode"):
        audio_tokens, video_tokens, thinking = thinker.perceive(audio, video, thinking)
    with span(spans, "think"):
        thought = thinker.think(text_ids, audio_tokens, video_tokens, thinking, kv_layout, noise["gumbel"])
    with span(spans, "solve"):
        start = {name: noise[name] for name in ("audio", "video")}
        latents = performer.perform(thought.context_tail, start, performing, kv_layout, num_steps)
    with span(spans, "commit"):
        tail = performer.commit(latents, performing, kv_layout)
        thinker.receive(tail, performing["unit"], thinking, kv_layout)
    with span(spans, "decode"):
        *media, thinking = thinker.render(latents, thinking)
    thinking = {**thinking, "kv": advance(thinking["kv"])}
    return thought, media, {"thinker": thinking, "performer": advance(performing)}


def _deliver(session, thought, media, state, row, num_sessions, spans) -> AgentUnit:
    """Hand one row of a batch's results to its session and wrap it as a unit."""
    index = session.num_units
    session.state = state if num_sessions == 1 else index_state(state, row)
    config, tokenizer = session.pipeline.streamer.config, session.pipeline.tokenizer
    name = config.state_names[config.state_token_ids.index(int(thought.state_ids[row]))]
    text = tokenizer.decode_slots(token for token in thought.text_ids[row].tolist() if token != config.pad_token_id)
    session.ledger.units.append(dict(spans))
    return AgentUnit(media[0][row].cpu(), media[1][row].cpu(), text, name, index, dict(spans))


def _check_batch(sessions: list[StreamerSession], units: list[UserUnit]) -> None:
    first = sessions[0]
    for session, unit in zip(sessions, units, strict=True):
        o = session.options
        expected = (3, FRAMES_PER_UNIT, o.height, o.width)
        if tuple(unit.video.shape) != expected:
            raise ValueError(f"this session was opened for video of shape {expected}; got {tuple(unit.video.shape)}")
        if session.pipeline is not first.pipeline:
            raise ValueError("sessions of different pipelines cannot share a batch")
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
