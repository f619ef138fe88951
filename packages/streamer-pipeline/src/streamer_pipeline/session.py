"""One conversation: everything that changes while it lasts, in one state that can be saved, loaded and forked.

Randomness is a function of (seed, unit), so a session's noise needs no generator state.
"""

from __future__ import annotations

import json
import math
import operator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from causal_vae import State, clone_state, flatten_state, state_nbytes, unflatten_state
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from streamer_core import CacheSpec
from torch import Tensor

from .batch import SessionBatch
from .ledger import LatencyLedger
from .noise import SEEDS, language_noise
from .units import FRAMES_PER_UNIT, HEIGHT, WIDTH, AgentUnit, UserUnit, check_text

if TYPE_CHECKING:
    from .pipeline import StreamerPipeline

_FORMAT = "wan-streamer-session-2"
_HEADER = {"options": dict, "kv": dict, "pending_text": list, "parts": list, "streamer": dict}  # of a saved file
_SIZES = "prompt_capacity", "context_units", "response_units"
# Typed tokens that may wait for their slots: what was typed longer ago than some 40 s makes no sense any more.
MAX_PENDING_TEXT = 256


@dataclass(frozen=True)
class SessionOptions:
    """What a session was opened with: every way in goes through this record, which checks each field once.

    prompt: the system text. seed: of all its noise, a whole number of 64 bits. num_inference_steps: solver steps per
    unit, at least 1. temperature: of language sampling, finite and at least 0, which takes the most likely token.
    height, width: of the user's picture in pixels, at least 1. capacity_units: first size of a full history, at least
    1.

    Raises:
        TypeError, ValueError: a field has another type or lies outside its range.
    """

    prompt: str
    seed: int = 0
    num_inference_steps: int = 4
    temperature: float = 0.0
    height: int = HEIGHT
    width: int = WIDTH
    capacity_units: int = 64

    def __post_init__(self) -> None:
        check_text("prompt", self.prompt)
        for name in ("seed", "num_inference_steps", "height", "width", "capacity_units"):
            object.__setattr__(self, name, whole_number(name, getattr(self, name)))
        if self.seed not in SEEDS:
            raise ValueError(f"seed is a whole number from -2**63 to 2**63 - 1; got {self.seed}")
        for name in ("num_inference_steps", "height", "width", "capacity_units"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is at least 1; got {getattr(self, name)}")
        temperature = self.temperature
        if isinstance(temperature, bool) or not isinstance(temperature, int | float):
            raise TypeError(f"temperature is a number; got {temperature!r}")
        if not 0 <= temperature < math.inf:
            raise ValueError(f"temperature is finite and at least 0; got {temperature}")

    @classmethod
    def of(cls, record: dict[str, Any]) -> SessionOptions:
        """From a saved file's record.

        Raises:
            TypeError, ValueError: as the class, or a field is unknown or missing.
        """
        if "num_steps" in record:  # its name in 0.1
            record = {**record, "num_inference_steps": record["num_steps"]}
            del record["num_steps"]
        unknown = sorted(record.keys() - {field.name for field in fields(cls)})
        if unknown or "prompt" not in record:
            raise ValueError(f"options have {'the unknown ' + ', '.join(unknown) if unknown else 'no prompt'}")
        return cls(**record)


def whole_number(name: str, value: Any) -> int:
    if isinstance(value, bool):
        raise TypeError(f"{name} is a whole number; got {value}")
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{name} is a whole number; got {value!r}") from None


class StreamerSession:
    """A live conversation with a pipeline. Sessions share nothing but weights.

    session = pipeline.open_session(seed=0)
    agent_unit = session.step(user_unit)      # 160 ms in, 160 ms out

    Its state has a place in a `SessionBatch`: one of its own, or one that it joined.
    """

    def __init__(
        self,
        pipeline: StreamerPipeline,
        options: SessionOptions,
        cache_spec: CacheSpec,
        state: State,
        pending_text: list[int] | None = None,
        num_units: int = 0,
        partial_text: list[int] | None = None,
        partial_heard: list[int] | None = None,
    ) -> None:
        self.pipeline, self.options, self.num_units = pipeline, options, num_units
        self.pending_text = pending_text or []  # typed tokens that did not fit into the slots so far
        # Tokens whose last character is not whole yet, of what the agent says and of what it hears.
        self.partial_text, self.partial_heard = partial_text or [], partial_heard or []
        self.ledger = LatencyLedger()
        self._batch: SessionBatch | None = SessionBatch(pipeline, options, cache_spec, state)
        self._batch.places[0] = self

    @property
    def batch(self) -> SessionBatch:
        """Where this session has its place.

        Raises:
            RuntimeError: its state was handed over to a `SplitSession`.
        """
        if self._batch is None:
            raise RuntimeError("this session's state was handed over when it was split; use the SplitSession")
        return self._batch

    def move_to(self, batch: SessionBatch | None) -> None:
        """Say where the session has its place from now on; `SessionBatch` does the moving."""
        self._batch = batch

    @property
    def cache_spec(self) -> CacheSpec:
        """Where the history's slots are."""
        return self.batch.cache_spec

    @property
    def state(self) -> State:
        """Everything the conversation remembers, (1, ...) each: views of its place, as they are now."""
        return self.batch.row(self)

    def step(self, unit: UserUnit) -> AgentUnit:
        """Take in u_k and answer with y_k, which plays `config.response_delay` units after u_k on the wall clock.

        A step that raises has consumed nothing: the session is as it was. Two threads that step one session wait for
        each other.

        Raises:
            TypeError: `unit` is no UserUnit.
            ValueError: the unit's picture has another size than this session was opened for, or too many typed words
                wait.
        """
        return self.batch.step({self: unit})[self]

    def nbytes(self) -> int:
        """Bytes that this session holds."""
        return state_nbytes(self.state)

    @torch.inference_mode()
    def fork(self) -> StreamerSession:
        """A second session that continues independently from the same past."""
        texts = list(self.pending_text), self.num_units, list(self.partial_text), list(self.partial_heard)
        return StreamerSession(self.pipeline, self.options, self.cache_spec, clone_state(self.state), *texts)

    def save(self, path: str | Path) -> None:
        """Write the whole session to one safetensors file.

        `load` continues bit for bit, also in another process, with as many threads on the same kind of processor.

        Raises:
            OSError: the file cannot be written; an older one of that name is as it was.
        """
        path = Path(path)
        header = {
            "options": asdict(self.options),
            "kv": dict(zip(_SIZES, self.cache_spec.sizes, strict=True)),
            "pending_text": self.pending_text,
            "partial_text": self.partial_text,
            "partial_heard": self.partial_heard,
            "parts": list(self.state["thinker"]),
            "streamer": self.pipeline.streamer.config.to_diff_dict(),
        }
        if not path.parent.is_dir():
            raise OSError(f"{path.parent} is not a folder: make it before a session is saved there")
        if path.is_dir():
            raise OSError(f"{path} is a folder; a session is saved to a file")
        leaves = {name: leaf.contiguous() for name, leaf in flatten_state(self.state).items()}
        written = path.with_name(f".{path.name}.part")
        try:
            save_file(leaves, written, metadata={"format": _FORMAT, "session": json.dumps(header, default=str)})
            written.replace(path)
        except (SafetensorError, OSError) as error:
            raise OSError(f"the session cannot be written to {path}: {error}") from error
        finally:
            written.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: str | Path, pipeline: StreamerPipeline) -> StreamerSession:
        """Continue a saved session with the same checkpoint.

        Raises:
            ValueError: the file is damaged, is not a session, or was made with another Transformer configuration, or in
                another dtype.
        """
        try:
            with safe_open(path, "pt", device=str(pipeline.streamer.device)) as file:
                metadata = file.metadata() or {}
                if metadata.get("format") != _FORMAT:
                    raise ValueError(f"{path} is not a saved session of this version (format {metadata.get('format')})")
                leaves = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118  (a copy: aligned)
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{path} cannot be read as a saved session: {error}") from error
        try:
            header = _read_header(metadata["session"])
            _check_same_streamer(header["streamer"], pipeline)
            sizes = [whole_number(name, header["kv"].get(name)) for name in _SIZES]
            cache_spec = CacheSpec(pipeline.streamer.layout, *sizes)
            options = SessionOptions.of(header["options"])
            state = unflatten_state(leaves)
            # A part without memory has no leaf in the file.
            state["thinker"] = {str(name): {} for name in header["parts"]} | state["thinker"]
            pending_text = [whole_number("pending_text", token) for token in header["pending_text"]]
            # Files of 0.1 do not have it.
            partial_text, partial_heard = (
                [whole_number(name, token) for token in header.get(name, [])]
                for name in ("partial_text", "partial_heard")
            )
            _check_state(state, pipeline, options, cache_spec)
            _check_tokens("typed words", pending_text, pipeline)
            _check_tokens("unfinished characters", partial_text + partial_heard, pipeline)
            if len(pending_text) > MAX_PENDING_TEXT:
                raise ValueError(f"{len(pending_text)} typed tokens wait in it; at most {MAX_PENDING_TEXT} may")
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
            reason = f"it has no {error}" if isinstance(error, KeyError) else error
            raise ValueError(f"{path} cannot be continued here: {reason}") from error
        num_units = int(state["performer"]["unit"][0])
        return cls(pipeline, options, cache_spec, state, pending_text, num_units, partial_text, partial_heard)

    # ---- what a batch asks of each of its sessions ----

    def check(self, unit: UserUnit) -> None:
        """Raise unless `unit` is one that this session can take."""
        if not isinstance(unit, UserUnit):
            raise TypeError(f"a session is stepped with a UserUnit; got {type(unit).__name__}")
        expected = (3, FRAMES_PER_UNIT, self.options.height, self.options.width)
        if tuple(unit.video.shape) != expected:
            raise ValueError(f"this session was opened for video of shape {expected}; got {tuple(unit.video.shape)}")

    def take_text(self, text: str | None) -> tuple[list[int], list[int]]:
        """Token ids of the next unit's user text slots, padded, and what then still waits. Changes nothing.

        Raises:
            ValueError: too many would wait.
        """
        c = self.pipeline.streamer.config
        tokens = self.pending_text + (self.check_text(text) if text else [])
        slots, rest = tokens[: c.user_text_slots], tokens[c.user_text_slots :]
        return slots + [c.pad_token_id] * (c.user_text_slots - len(slots)), rest

    def check_text(self, text: str, limit: int = MAX_PENDING_TEXT) -> list[int]:
        """Token ids of what a user types.

        Raises:
            ValueError: with those that wait already they are more than `limit`.
        """
        tokens = self.pipeline.tokenizer.encode_words(text)
        if (total := len(self.pending_text) + len(tokens)) > limit:
            slots = self.pipeline.streamer.config.user_text_slots
            raise ValueError(
                f"{total} typed tokens would wait, at {slots} a unit of 160 ms; at most {limit} may: type less, or "
                f"later; nothing of this text was taken"
            )
        return tokens

    def language_noise(self) -> Tensor | None:
        """Scaled Gumbel noise of this unit (1 + S, V); None where the most likely token is taken."""
        o = self.options
        if o.temperature == 0:
            return None
        return o.temperature * language_noise(self.pipeline.streamer.config, o.seed, self.num_units)[0]


_OF_NO_MATTER = ("_name_or_path", "transformers_version", "dtype", "architectures", "hears_words")


def _check_same_streamer(saved: dict[str, Any], pipeline: StreamerPipeline) -> None:
    ours = json.loads(json.dumps(pipeline.streamer.config.to_diff_dict(), default=str))
    differing = [name for name in ours | saved if ours.get(name) != saved.get(name) and name not in _OF_NO_MATTER]
    if differing:
        raise ValueError(f"it was saved with another checkpoint; its Transformer differs in {', '.join(differing)}")


def _read_header(text: str) -> dict[str, Any]:
    """What a saved file says beside its tensors.

    Raises:
        ValueError: it is no JSON object, or a field is missing or of another kind.
    """
    header = json.loads(text)
    for name, kind in _HEADER.items():
        if not isinstance(header, dict) or not isinstance(header.get(name), kind):
            raise ValueError(f"it has no {name!r} that is a {kind.__name__}")
    return header


def _check_state(state: State, pipeline: StreamerPipeline, options: SessionOptions, cache_spec: CacheSpec) -> None:
    """Raise ValueError unless a loaded state is one that a session opened with these options could have.

    Leaves have the shapes and the dtypes of a fresh one, numbers are finite, clocks agree, words are in the vocabulary.
    """
    fresh = CacheSpec.for_policy(pipeline.streamer.config, cache_spec.prompt_capacity, options.capacity_units)
    if cache_spec.union(fresh).max_units() is None and cache_spec != fresh:
        raise ValueError(f"its history has the sizes {cache_spec.sizes}; this checkpoint's windows give {fresh.sizes}")
    if min(cache_spec.sizes) < 0:
        raise ValueError(f"its history has the sizes {cache_spec.sizes}; none can be below 0")
    begun = pipeline.new_state(options, cache_spec, "meta")
    if state.keys() != begun.keys() or state["thinker"].keys() != begun["thinker"].keys():
        raise ValueError(f"it holds {', '.join(state['thinker'])}; a session here holds {', '.join(begun['thinker'])}")
    wanted, found = flatten_state(begun), flatten_state(state)
    for name in wanted | found:
        told = [_describe(leaves.get(name)) for leaves in (wanted, found)]
        if told[0] != told[1]:
            raise ValueError(f"its {name} is {told[1]}; this checkpoint and its options give {told[0]}")
        if found[name].is_floating_point() and not found[name].isfinite().all():
            raise ValueError(f"its {name} holds NaN or infinity")
    kv, performer = state["thinker"]["kv"], state["performer"]
    clocks, lengths = ([int(side[name]) for side in (kv, performer)] for name in ("unit", "prompt_length"))
    if clocks[0] != clocks[1] or clocks[0] < 0:
        raise ValueError(f"its two sides are in units {clocks[0]} and {clocks[1]}")
    if lengths[0] != lengths[1] or not 0 <= lengths[0] <= cache_spec.prompt_capacity:
        raise ValueError(f"its prompts have {lengths} tokens, of the {cache_spec.prompt_capacity} that it has room for")
    _check_tokens("drafted words", found["thinker.draft"].flatten().tolist(), pipeline)


def _describe(leaf: Tensor | None) -> str:
    return "missing" if leaf is None else f"of shape {tuple(leaf.shape)} in {leaf.dtype}"


def _check_tokens(name: str, ids: list[int], pipeline: StreamerPipeline) -> None:
    vocab_size = pipeline.streamer.config.vocab_size
    if unknown := [token for token in ids if not 0 <= token < vocab_size]:
        raise ValueError(f"its {name} have the token {unknown[0]}; the vocabulary has {vocab_size}")
