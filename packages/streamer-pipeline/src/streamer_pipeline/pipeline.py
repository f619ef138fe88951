"""`StreamerPipeline`: the parts of open Wan-Streamer composed, loaded and saved like any diffusers pipeline.

The pipeline holds weights; conversations are `StreamerSession`s. How it is loaded and saved stands in `loading`, what
its parts must be in `fit`.
"""

from __future__ import annotations

import inspect
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from causal_vae import State, StreamingModule, state_nbytes
from causal_vae.hub.loading import refuse_unknown
from diffusers import ModelMixin, SchedulerMixin
from diffusers.utils import BaseOutput
from PIL import Image
from streamer_core import CacheSpec, StreamerModel, StreamerTokenizer, init_kv_state
from torch import Tensor
from transformers import PreTrainedModel

from .batch import SessionBatch
from .checks.fit import KINDS, check_fit
from .hub.loading import PipelineLoading
from .media.recordings import RecordingReader
from .performer import Performer
from .persona import Persona, PreparedPersona, encode_reference
from .session import SessionOptions, StreamerSession, whole_number
from .thinker import Renderer, Thinker
from .units import HEIGHT, UNIT_MS, WIDTH, AgentUnit, UserUnit, check_text, split_units, to_media

_GRAPHS_PER_STAGE = 64  # sizes of batches and of full histories, which double
OUTPUT_TYPES = ("pt", "np", "pil")
_MODES = threading.Lock()  # held while parts change between training and evaluation


@dataclass
class StreamerPipelineOutput(BaseOutput):
    """A whole conversation: audio (1, T) at 24 kHz, video (3, T', H, W) in [-1, 1], the text, and its units.

    Audio and video are as `output_type` of the call says; the units are always tensors.
    """

    audio: Tensor | np.ndarray
    video: Tensor | np.ndarray | list[Image.Image]
    text: str
    units: list[AgentUnit]

    @classmethod
    def of(cls, units: list[AgentUnit], output_type: str = "pt") -> StreamerPipelineOutput:
        """Units in their order as one conversation."""
        audio = torch.cat([unit.audio for unit in units], dim=1)
        video = torch.cat([unit.video for unit in units], dim=1)
        text = "".join(unit.text for unit in units).strip()
        if output_type == "pt":
            return cls(audio, video, text, units)
        wave, frames = audio[0].numpy(), (0.5 + 0.5 * video.permute(1, 2, 3, 0)).numpy()
        if output_type == "np":
            return cls(wave, frames, text, units)
        images = [Image.fromarray(frame) for frame in (255 * frames).round().astype(np.uint8)]
        return cls(wave, images, text, units)


class StreamerPipeline(PipelineLoading):
    """Full-duplex audio-visual conversation in units of 160 ms (report, section 2).

    Args:
        streamer: the Transformer. tokenizer: its words. scheduler: the solver; anything with `solve` will do.
        audio_encoder, video_encoder: the user's media -> tokens.
        audio_vae, video_vae: latent coding; needed to train, and to render where there is no decoder.
        audio_decoder, video_decoder: latents -> media; None renders with the VAE's own decoder.
        prompt: system text of sessions that bring none.
        num_inference_steps: solver steps per unit.

    As in diffusers, `pipeline.components` are the parts alone; `from_pipe(pipeline)` takes prompt and steps as well.
    The parts stay as they are: one in training mode is in evaluation mode only while the pipeline computes.

    Raises:
        TypeError, ValueError: a part is missing or does not keep the contract, two do not fit each other, or `prompt`
            or `num_inference_steps` is not what it should be.
    """

    streamer: StreamerModel
    tokenizer: StreamerTokenizer
    _optional_components = ["audio_vae", "video_vae", "audio_decoder", "video_decoder"]

    def __init__(
        self,
        streamer: PreTrainedModel,
        tokenizer: StreamerTokenizer,
        scheduler: SchedulerMixin,
        audio_encoder: PreTrainedModel,
        video_encoder: PreTrainedModel,
        audio_vae: ModelMixin | None = None,
        video_vae: ModelMixin | None = None,
        audio_decoder: ModelMixin | None = None,
        video_decoder: ModelMixin | None = None,
        prompt: str = "",
        num_inference_steps: int = 4,
    ) -> None:
        super().__init__()
        parts = {
            "streamer": streamer,
            "tokenizer": tokenizer,
            "scheduler": scheduler,
            "audio_encoder": audio_encoder,
            "video_encoder": video_encoder,
            "audio_vae": audio_vae,
            "video_vae": video_vae,
            "audio_decoder": audio_decoder,
            "video_decoder": video_decoder,
        }
        for name, part in parts.items():
            if part is None and name not in self._optional_components:
                raise ValueError(f"StreamerPipeline needs a {name}; pass {name}=... or load a folder that has one")
        check_fit(parts)
        SessionOptions(prompt, num_inference_steps=num_inference_steps)
        self.register_modules(**parts)
        self.register_to_config(prompt=prompt, num_inference_steps=num_inference_steps)
        self._part_names = tuple(self.components)
        self._made_of: tuple[Any, ...] | None = None  # the parts that `_sides` were made of
        self._compiling: dict[str, Any] | None = None
        self._evaluators = 0  # who is inside `evaluating`
        self._in_training: list[Any] = []  # what they must put back
        self.interrupt = False

    # ---- the two halves ----

    @property
    def thinker(self) -> Thinker:
        """The half that perceives, speaks and renders; the same object until a part is replaced."""
        return self._halves()[0]

    @property
    def performer(self) -> Performer:
        """The half that solves; the same object until a part is replaced."""
        return self._halves()[1]

    def _parts(self) -> tuple[Any, ...]:
        """The components as they are now; `components` itself takes longer than a step may spend on it."""
        return tuple(getattr(self, name) for name in self._part_names)

    def _halves(self) -> tuple[Thinker, Performer]:
        parts = self._parts()
        if self._made_of is None or any(ours is not theirs for ours, theirs in zip(self._made_of, parts, strict=True)):
            thinker = Thinker(
                self.streamer, self.audio_encoder, self.video_encoder, self._renderer("audio"), self._renderer("video")
            )
            self._made_of, self._sides = parts, (thinker, Performer(self.streamer, self.scheduler))
            if self._compiling is not None:
                for side in self._sides:
                    side.compile(**self._compiling)
        return self._sides

    def compile_stages(self, **options: Any) -> None:
        """Compile every stage of the cycle as one graph, for all sessions from now on; the first unit then takes long.

        It pays on GPUs, where mode="reduce-overhead" also captures CUDA graphs (not verified). On CPU our small passes
        gain nothing. Each size of a batch, and of a full history, has graphs of its own.

        Args:
            options: of `torch.compile`, for example mode or backend.
        """
        limits = torch._dynamo.config
        limits.recompile_limit = max(limits.recompile_limit, _GRAPHS_PER_STAGE)
        self._compiling, self._made_of = options, None

    @property
    def model_cpu_offload_seq(self) -> str:
        """The parts that a unit goes through, in turn: of `enable_model_cpu_offload` each sends the one before away."""
        renderers = (f"{kind}_vae" if getattr(self, f"{kind}_decoder") is None else f"{kind}_decoder" for kind in KINDS)
        return "->".join(("audio_encoder", "video_encoder", "streamer", *renderers))

    def _renderer(self, name: str) -> Renderer:
        decoder: StreamingModule | None = getattr(self, f"{name}_decoder")
        return decoder if decoder is not None else getattr(self, f"{name}_vae").decode

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """While this lasts, parts compute as in evaluation; afterwards each module is in the mode that it was in.

        Several threads may be inside at once; the last one to leave restores. Every module is looked at (0.2 ms for
        the bundled checkpoint's 340): an adapter that was added to a part in evaluation mode is in training mode alone.
        """
        with _MODES:
            self._evaluators += 1
            parts = [part for part in self._parts() if isinstance(part, torch.nn.Module)]
            training = [module for part in parts for module in part.modules() if module.training]
            for module in training:
                module.training = False
            self._in_training += training
        try:
            yield
        finally:
            with _MODES:
                self._evaluators -= 1
                if not self._evaluators and self._in_training:
                    for module in self._in_training:
                        module.training = True
                    self._in_training = []

    # ---- conversations ----

    def open_session(
        self,
        prompt: str | Persona | PreparedPersona | None = None,
        seed: int = 0,
        num_inference_steps: int | None = None,
        temperature: float = 0.0,
        height: int = HEIGHT,
        width: int = WIDTH,
        capacity_units: int = 64,
    ) -> StreamerSession:
        """Begin a conversation; the prompt is prefilled once.

        Args:
            prompt: system text, or a persona with the agent's face and voice; None takes the checkpoint's own text.
            num_inference_steps, others: see `SessionOptions`; None takes the checkpoint's own number.

        Raises:
            TypeError, ValueError: an option has another type or lies outside its range.
        """
        text = self._prompt_text(prompt)
        options = self._options(text, seed, num_inference_steps, temperature, height, width, capacity_units)
        persona = prompt if isinstance(prompt, PreparedPersona) else self.prepare_persona(prompt)
        cache_spec = self.cache_spec(max(64, persona.num_tokens), options.capacity_units)
        with torch.inference_mode(), self.evaluating():
            state: State = {
                "thinker": self.thinker.start(persona.kv, cache_spec, (options.height, options.width)),
                "performer": self.performer.start(persona.kv, cache_spec),
            }
        return StreamerSession(self, options, cache_spec, state)

    def open_batch(
        self,
        size: int,
        num_inference_steps: int | None = None,
        height: int = HEIGHT,
        width: int = WIDTH,
        capacity_units: int = 64,
        prompt_capacity: int = 64,
    ) -> SessionBatch:
        """`size` places for sessions that are stepped together, allocated once.

        Args:
            num_inference_steps, height, width: which all its sessions share.
            capacity_units: first size of a full history. prompt_capacity: tokens of the longest prompt. Both grow, for
                all places, when a session joins that has more.

        Raises:
            TypeError, ValueError: an option has another type or lies outside its range.
        """
        options = self._options("", 0, num_inference_steps, 0.0, height, width, capacity_units)
        for name, value in (("size", size), ("prompt_capacity", prompt_capacity)):
            if whole_number(name, value) < 1:
                raise ValueError(f"{name} is at least 1; got {value}")
        cache_spec = self.cache_spec(prompt_capacity, options.capacity_units)
        return SessionBatch(self, options, cache_spec, self.new_state(options, cache_spec, batch_size=size))

    def _options(
        self,
        prompt: str,
        seed: int,
        steps: int | None,
        temperature: float,
        height: int,
        width: int,
        capacity_units: int,
    ) -> SessionOptions:
        steps = self.config.num_inference_steps if steps is None else steps
        return SessionOptions(prompt, seed, steps, temperature, height, width, capacity_units)

    def _prompt_text(self, prompt: str | Persona | PreparedPersona | None) -> str:
        if prompt is None:
            return self.config.prompt
        return prompt.text if isinstance(prompt, Persona | PreparedPersona) else prompt

    @torch.inference_mode()
    def prepare_persona(self, persona: str | Persona | None = None) -> PreparedPersona:
        """Prefill a prompt once, for any number of sessions to come; None is the checkpoint's own text.

        Raises:
            TypeError, ValueError: the text is no valid string, or the persona's picture has not the size that the agent
                is drawn in.
        """
        text = self._prompt_text(persona)
        check_text("prompt", text)
        ids = torch.tensor([self.tokenizer.encode_words(text)], dtype=torch.int64, device=self.streamer.device)
        reference = None
        with self.evaluating():
            if isinstance(persona, Persona) and persona.picture is not None and persona.voice is not None:
                reference = encode_reference(self, persona.picture, persona.voice)
            return PreparedPersona(text, self.thinker.prefill(ids, reference))

    def cache_spec(self, prompt_capacity: int = 64, capacity_units: int = 64) -> CacheSpec:
        """Sizes of a session's history under the checkpoint's windows; `.nbytes()` says what it will take."""
        return CacheSpec.for_policy(self.streamer.config, prompt_capacity, capacity_units)

    @torch.inference_mode()
    def new_state(
        self, options: SessionOptions, cache_spec: CacheSpec, history_device: str | None = None, batch_size: int = 1
    ) -> State:
        """State of `batch_size` conversations without a prompt: {"thinker": ..., "performer": ...}.

        Args:
            history_device: of keys and values; "meta" where only shapes are asked for. None is the pipeline's.
        """
        streamer = self.streamer
        device = streamer.device if history_device is None else history_device
        kv, performer = (init_kv_state(cache_spec, batch_size, device, streamer.dtype) for _ in range(2))
        with self.evaluating():
            thinker = self.thinker.init_state(batch_size, (options.height, options.width))
        return {"thinker": {"kv": kv, **thinker}, "performer": performer}

    def session_nbytes(
        self,
        prompt: str | Persona | PreparedPersona | None = None,
        height: int = HEIGHT,
        width: int = WIDTH,
        capacity_units: int = 64,
        num_units: int = 0,
    ) -> int:
        """Bytes that a session opened with these arguments holds after `num_units` units, before it is opened.

        Both sides' keys and values and the states of encoders and decoders: what `StreamerSession.nbytes()` measures.
        Under windows it is the same for every `num_units`.
        """
        options = self._options(self._prompt_text(prompt), 0, None, 0.0, height, width, capacity_units)
        persona = prompt if isinstance(prompt, PreparedPersona) else self.prepare_persona(prompt)
        cache_spec = self.cache_spec(max(64, persona.num_tokens), options.capacity_units).with_room_for(num_units)
        return state_nbytes(self.new_state(options, cache_spec, "meta"))

    def __call__(
        self,
        recording: str | os.PathLike[str] | None = None,
        audio: Tensor | None = None,
        video: Tensor | None = None,
        *,
        generator: torch.Generator | None = None,
        output_type: str = "pt",
        return_dict: bool = True,
        callback_on_step_end: Callable[..., dict[str, Any] | None] | None = None,
        **session_options: Any,
    ) -> StreamerPipelineOutput | tuple[Any, ...]:
        """Talk to a whole recording, unit by unit, as if it were live.

        Args:
            recording: a file that PyAV opens; or give
            audio, video: (1, T) at 24 kHz and (3, T', H, W) at 25 fps, in [-1, 1], torch or numpy; the last unit is
                padded.
            generator: draws the seed, where none is given.
            output_type: "pt", tensors in [-1, 1]; "np", audio (T,) in [-1, 1] and video (T', H, W, 3) in [0, 1]; "pil",
                the same audio and a list of images.
            return_dict: False gives the output's fields as a tuple.
            callback_on_step_end: called after every unit as `(pipeline, index, milliseconds of the clock, {"unit":
                AgentUnit})`; it may return a record with another "unit". Setting `pipeline.interrupt = True` in it ends
                the conversation there.
            session_options: as for `open_session`.

        Raises:
            TypeError, ValueError: no input, both kinds, media that cannot be read, or an option that does not fit.
        """
        if (recording is None) == (audio is None or video is None):
            raise ValueError("give either a recording or both audio and video")
        _check_call(recording, generator, output_type, callback_on_step_end)
        options = dict(session_options)
        refuse_unknown(options, inspect.signature(self.open_session).parameters, "open_session")
        if generator is not None:
            if "seed" in options:
                raise ValueError("give either a seed or a generator that draws one")
            options["seed"] = int(torch.randint(2**62, (), generator=generator, device=generator.device))
        source: Iterable[UserUnit]
        if audio is not None and video is not None:
            audio = to_media("audio", audio, (1, None))
            video = to_media("video", video, (3, None, None, None))
            source = split_units(audio, video)
            for name, size in zip(("height", "width"), video.shape[2:], strict=True):
                if options.setdefault(name, size) != size:
                    raise ValueError(f"the video's {name} is {size}; got {name}={options[name]}: leave it out")
        session = self.open_session(**options)
        if recording is not None:
            source = RecordingReader(recording, session.options.height, session.options.width)
        self.interrupt, units = False, []
        for unit in self.progress_bar(source):
            agent = session.step(unit)
            if callback_on_step_end is not None:
                told = callback_on_step_end(self, agent.index, UNIT_MS * (agent.index + 1), {"unit": agent})
                if not isinstance(told, dict | None):
                    raise TypeError(f"callback_on_step_end returns a dict or None; got {type(told).__name__}")
                agent = (told or {}).get("unit", agent)
            units.append(agent)
            if self.interrupt:
                break
        self.maybe_free_model_hooks()
        output = StreamerPipelineOutput.of(units, output_type)
        return output if return_dict else output.to_tuple()


def _check_call(recording: Any, generator: Any, output_type: Any, callback: Any) -> None:
    """Raise TypeError or ValueError unless these arguments of a call are what they should be, or None."""
    kinds: dict[str, tuple[Any, Any, str]] = {"recording": (recording, str | os.PathLike, "the path of a file")}
    kinds["generator"] = generator, torch.Generator, "one torch.Generator"
    kinds["callback_on_step_end"] = callback, Callable, "called after every unit"
    for name, (value, kind, what) in kinds.items():
        if value is not None and not isinstance(value, kind):
            raise TypeError(f"{name} is {what}; got {type(value).__name__}")
    if output_type not in OUTPUT_TYPES:
        raise ValueError(f"output_type is one of {', '.join(OUTPUT_TYPES)}; got {output_type!r}")
