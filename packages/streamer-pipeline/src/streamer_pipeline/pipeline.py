"""`StreamerPipeline`: the parts of open Wan-Streamer composed, loaded and saved like any diffusers pipeline.

The pipeline holds weights; conversations are `StreamerSession`s. Components live in other packages, so
`model_index.json` says `["causal_vae", "CausalVideoVAE"]` and the stock hub download, which knows only diffusers' own
classes, is replaced.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import causal_codec  # noqa: F401  (loading refuses classes of packages that are not imported yet)
import causal_vae  # noqa: F401
import streamer_core  # noqa: F401
import torch
from causal_vae import Certificate, State, StreamingModule, state_nbytes
from causal_vae.cards import push_folder
from diffusers import DiffusionPipeline, ModelMixin, SchedulerMixin
from diffusers.utils import BaseOutput
from huggingface_hub import ModelCard, hf_hub_download, snapshot_download
from huggingface_hub.errors import GatedRepoError, HFValidationError, LocalEntryNotFoundError, RevisionNotFoundError
from streamer_core import KVLayout, StreamerTokenizer, init_kv_state
from torch import Tensor
from transformers import PreTrainedModel

from .cards import pipeline_card
from .cycle import make_room
from .media import RecordingReader
from .performer import Performer
from .session import SessionOptions, StreamerSession
from .thinker import Renderer, Thinker
from .units import HEIGHT, WIDTH, AgentUnit, UnitBuffer, UserUnit
from .world import PreparedWorld, World, encode_reference

BUNDLED = "wan-streamer-tiny"


@dataclass
class StreamerPipelineOutput(BaseOutput):
    """A whole conversation: audio (1, T) at 24 kHz, video (3, T', H, W) in [-1, 1], the text, and its units."""

    audio: Tensor
    video: Tensor
    text: str
    units: list[AgentUnit]


class StreamerPipeline(DiffusionPipeline):
    """Full-duplex audio-visual conversation in units of 160 ms (report, section 2).

    Args:
        streamer: the Transformer. tokenizer: its words. scheduler: the solver; anything with `solve` will do.
        audio_encoder, video_encoder: the user's media -> tokens.
        audio_vae, video_vae: latent coding; needed to train, and to render where there is no decoder.
        audio_decoder, video_decoder: latents -> media; None renders with the VAE's own decoder.
        prompt: system text of sessions that bring none.
        num_inference_steps: solver steps per unit.
    """

    model_cpu_offload_seq = "audio_encoder->video_encoder->streamer->audio_decoder->video_decoder"
    _optional_components = ["audio_vae", "video_vae", "audio_decoder", "video_decoder"]
    _loaded_from: Path | None = None

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
        self.register_modules(
            streamer=streamer,
            tokenizer=tokenizer,
            scheduler=scheduler,
            audio_encoder=audio_encoder,
            video_encoder=video_encoder,
            audio_vae=audio_vae,
            video_vae=video_vae,
            audio_decoder=audio_decoder,
            video_decoder=video_decoder,
        )
        self.register_to_config(prompt=prompt, num_inference_steps=num_inference_steps)
        self._compiled: tuple[Thinker, Performer] | None = None
        for name, module in self.components.items():
            if isinstance(module, torch.nn.Module):
                module.eval()
            if module is None and name not in self._optional_components:
                raise ValueError(f"StreamerPipeline needs a {name}; pass {name}=... or load a folder that has one")
        self._check_fit()

    def _check_fit(self) -> None:
        """Raise ValueError where two parts meet as tensors of different width."""
        config = self.streamer.config
        for name, wanted in (("audio", config.audio_latent_channels), ("video", config.video_latent_channels)):
            for part in (getattr(self, f"{name}_vae"), getattr(self, f"{name}_decoder")):
                channels = getattr(part.config, "latent_channels", wanted) if part is not None else wanted
                if channels != wanted:
                    raise ValueError(
                        f"{type(part).__name__} has {channels} latent channels, the streamer expects {wanted}: a part "
                        f"with another latent space needs a streamer trained on it"
                    )
            if getattr(self, f"{name}_vae") is None and getattr(self, f"{name}_decoder") is None:
                raise ValueError(f"nothing can render {name}: give {name}_decoder or {name}_vae")
            width = getattr(self, f"{name}_encoder").config.output_dim
            if width != config.perception_dim:
                raise ValueError(
                    f"{name}_encoder gives tokens of width {width}, the streamer takes {config.perception_dim}"
                )

    # ---- the two halves ----

    @property
    def thinker(self) -> Thinker:
        if self._compiled is not None:
            return self._compiled[0]
        return Thinker(
            self.streamer, self.audio_encoder, self.video_encoder, self._renderer("audio"), self._renderer("video")
        )

    @property
    def performer(self) -> Performer:
        if self._compiled is not None:
            return self._compiled[1]
        return Performer(self.streamer, self.scheduler)

    def compile_stages(self, **options: Any) -> None:
        """Compile every stage of the cycle as one graph, for all sessions from now on; the first unit then takes long.

        It pays on GPUs, where mode="reduce-overhead" also captures CUDA graphs (not verified). On CPU our small passes
        gain nothing. Parts that are replaced later are not noticed: call it again.

        Args:
            options: of `torch.compile`, for example mode or backend.
        """
        self._compiled = None
        thinker, performer = self.thinker, self.performer
        for side in (thinker, performer):
            side.compile(**options)
        self._compiled = thinker, performer

    def _renderer(self, name: str) -> Renderer:
        decoder: StreamingModule | None = getattr(self, f"{name}_decoder")
        return decoder if decoder is not None else getattr(self, f"{name}_vae").decode

    # ---- conversations ----

    @torch.inference_mode()
    def open_session(
        self,
        prompt: str | World | PreparedWorld | None = None,
        seed: int = 0,
        num_inference_steps: int | None = None,
        temperature: float = 0.0,
        height: int = HEIGHT,
        width: int = WIDTH,
        capacity_units: int = 64,
    ) -> StreamerSession:
        """Begin a conversation; the prompt is prefilled once.

        Args:
            prompt: system text, or a world with the agent's face and voice; None takes the checkpoint's own text.
            temperature: of language sampling; 0 always takes the most likely token.
            height, width: of the user's picture.
            capacity_units: first size of a full history, which doubles as it fills; windows need no room to grow.
        """
        num_steps = self.config.num_inference_steps if num_inference_steps is None else num_inference_steps
        if num_steps < 1:
            raise ValueError(f"num_inference_steps must be at least 1; got {num_steps}")
        world = prompt if isinstance(prompt, PreparedWorld) else self.prepare_world(prompt)
        kv_layout = self.kv_layout(max(64, world.num_tokens), capacity_units)
        state: State = {
            "thinker": self.thinker.start(world.tail, kv_layout, (height, width)),
            "performer": self.performer.start(world.tail, kv_layout),
        }
        options = SessionOptions(world.text, seed, num_steps, temperature, height, width)
        return StreamerSession(self, options, kv_layout, state)

    @torch.inference_mode()
    def prepare_world(self, world: str | World | None = None) -> PreparedWorld:
        """Prefill a prompt once, for any number of sessions to come; None is the checkpoint's own text.

        Raises:
            ValueError: the world's picture has not the size that the agent is drawn in.
        """
        if not isinstance(world, World):
            world = World(self.config.prompt if world is None else world)
        ids = torch.tensor([self.tokenizer.encode_words(world.text)], dtype=torch.int64, device=self.device)
        reference = None if world.picture is None else encode_reference(self, world.picture, world.voice)
        return PreparedWorld(world.text, self.thinker.prefill(ids, reference))

    def kv_layout(self, prompt_capacity: int = 64, capacity_units: int = 64) -> KVLayout:
        """Geometry of a session's history under the checkpoint's windows; `.nbytes()` says what it will take."""
        return KVLayout.for_policy(self.streamer.config, prompt_capacity, capacity_units)

    @torch.inference_mode()
    def session_nbytes(
        self,
        prompt: str | World | PreparedWorld | None = None,
        height: int = HEIGHT,
        width: int = WIDTH,
        capacity_units: int = 64,
        num_units: int = 0,
    ) -> int:
        """Bytes that a session opened with these arguments holds after `num_units` units, before it is opened.

        Both sides' keys and values and the states of encoders and decoders: what `StreamerSession.nbytes()` measures.
        Under windows it is the same for every `num_units`.
        """
        world = prompt if isinstance(prompt, PreparedWorld) else self.prepare_world(prompt)
        kv_layout = self.kv_layout(max(64, world.num_tokens), capacity_units)
        kv = init_kv_state(kv_layout, 1, "meta", self.streamer.dtype)
        while (limit := kv_layout.max_units()) is not None and num_units > limit:
            kv, kv_layout = make_room(kv, kv_layout, num_units - 1)
        return 2 * state_nbytes(kv) + state_nbytes(self.thinker.init_state(1, (height, width)))

    def __call__(
        self,
        recording: str | os.PathLike | None = None,
        audio: Tensor | None = None,
        video: Tensor | None = None,
        **session_options: Any,
    ) -> StreamerPipelineOutput:
        """Talk to a whole recording, unit by unit, as if it were live.

        Args:
            recording: a file that PyAV opens; or give
            audio, video: (1, T) at 24 kHz and (3, T', H, W) at 25 fps, in [-1, 1]; the last unit is padded.
            session_options: as for `open_session`.

        Raises:
            ValueError: no input, both kinds, or media that cannot be read.
        """
        if (recording is None) == (audio is None or video is None):
            raise ValueError("give either a recording or both audio and video")
        if recording is not None:
            height, width = session_options.get("height", HEIGHT), session_options.get("width", WIDTH)
            source = RecordingReader(recording, height, width)
        else:
            session_options |= {"height": video.shape[2], "width": video.shape[3]}
            source = split_units(audio, video)
        session = self.open_session(**session_options)
        units = [session.step(unit) for unit in self.progress_bar(source)]
        return StreamerPipelineOutput(
            torch.cat([unit.audio for unit in units], dim=1),
            torch.cat([unit.video for unit in units], dim=1),
            "".join(unit.text for unit in units).strip(),
            units,
        )

    # ---- loading and saving ----

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike = BUNDLED, **kwargs: Any
    ) -> StreamerPipeline:
        """Load a folder, a hub id, or (with no argument, or "wan-streamer-tiny") the checkpoint that ships with us.

        Any component is replaced by keyword: `from_pretrained(..., video_vae=mine)`.

        Raises:
            ValueError: a part is missing, damaged, of another class than the index says, or does not fit the others.
            OSError: neither a folder here nor a repository that the Hub gives us.
        """
        if str(pretrained_model_name_or_path) == BUNDLED and not Path(BUNDLED).exists():
            pretrained_model_name_or_path = bundled_checkpoint()
        path = Path(pretrained_model_name_or_path)
        if path.exists() or str(path).startswith((".", "/")):
            cls._check_folder(path, kwargs)
        kwargs.setdefault("dtype", torch.float32)
        return super().from_pretrained(pretrained_model_name_or_path, **kwargs)

    @classmethod
    def download(cls, pretrained_model_name: str, **kwargs: Any) -> str:
        """Fetch a pipeline repository's own parts, without those that are overridden by keyword: the local folder."""
        names = ("cache_dir", "revision", "token", "local_files_only", "force_download")
        hub = {name: kwargs[name] for name in names if kwargs.get(name) is not None}
        try:
            index_file = hf_hub_download(pretrained_model_name, cls.config_name, **hub)
        except GatedRepoError as error:
            raise OSError(
                f"{pretrained_model_name!r} is gated: ask for access on its page on the Hub, log in with "
                f"`hf auth login`, then load it again ({error})"
            ) from error
        except RevisionNotFoundError as error:
            raise OSError(f"{pretrained_model_name!r} has no revision {hub['revision']!r}: {error}") from error
        except LocalEntryNotFoundError as error:
            raise OSError(
                f"{pretrained_model_name!r} is not in the cache, and the Hub cannot be reached or must not be: load it "
                f"once with a connection ({error})"
            ) from error
        except (OSError, HFValidationError) as error:
            raise OSError(
                f"{pretrained_model_name!r} is not a folder here, and the Hub gives no pipeline of that name: {error}"
            ) from error
        variant = f".{kwargs['variant']}" if kwargs.get("variant") else ""
        patterns = ("*.json", "*.txt", "*.model", f"*{variant}.safetensors", f"*{variant}-*.safetensors")
        parts = cls._parts_to_load(Path(index_file).parent, kwargs)
        allow = [cls.config_name, *(f"{part}/{pattern}" for part in parts for pattern in patterns)]
        ignore = [] if variant else ["*.*.safetensors"]
        folder = snapshot_download(pretrained_model_name, allow_patterns=allow, ignore_patterns=ignore, **hub)
        cls._check_folder(Path(folder), kwargs)
        return folder

    def push_to_hub(
        self,
        repo_id: str,
        card: ModelCard | str | None = None,
        score: Path | None = None,
        certificates: dict[str, Certificate] | None = None,
        **upload: Any,
    ) -> str:
        """Upload all parts and a card in one commit; returns its address.

        Args:
            card: the repository's card from now on; None keeps the one that is there, or takes the one beside the
                folder that this was loaded from, or writes that of `pipeline_card`.
            score, certificates: for the latter.
            upload: variant, commit_message, private, token, create_pr, revision.
        """

        def default_card() -> ModelCard | str:
            beside = self._loaded_from and self._loaded_from / "README.md"
            if score is None and certificates is None and beside and beside.is_file():
                return beside.read_text(encoding="utf-8")
            return pipeline_card(self, score, certificates)

        return push_folder(self, repo_id, card, default_card, **upload)

    @classmethod
    def _check_folder(cls, folder: Path, overrides: dict[str, Any]) -> None:
        """Raise ValueError, before any weight is read, unless `folder` is a pipeline with all its parts."""
        for name in cls._parts_to_load(folder, overrides):
            if not (folder / name).is_dir():
                raise ValueError(f"{folder} lacks the folder {name!r} of its index; copy it, or pass {name}=...")

    @classmethod
    def _parts_to_load(cls, folder: Path, overrides: dict[str, Any]) -> list[str]:
        """The components in the folder's index that are not overridden; ValueError if it is not an index for us."""
        index_file = folder / cls.config_name
        if not index_file.is_file():
            reason = f"it has no {cls.config_name}" if folder.is_dir() else "there is no such folder"
            raise ValueError(f"{folder} is not a pipeline folder: {reason}; save one with save_pretrained")
        try:
            index = cls._dict_from_json_file(index_file)
        except ValueError as error:
            raise ValueError(f"{index_file} is damaged or incomplete ({error}); download or copy it again") from error
        if index.get("_class_name") != cls.__name__:
            raise ValueError(f"{folder} holds a {index.get('_class_name')}, not a {cls.__name__}")
        # A part that was None when it was saved is listed as [null, null].
        listed = {name: value for name, value in index.items() if isinstance(value, list) and value[0]}
        needed = set(cls._get_signature_keys(cls)[0]) - set(cls._optional_components)
        for name in sorted(needed - listed.keys() - overrides.keys()):
            raise ValueError(f"{folder} has no {name}, which a {cls.__name__} needs; pass {name}=...")
        parts = [name for name in listed if name not in overrides]
        for name in parts:
            package, class_name = listed[name]
            if package not in sys.modules:
                raise ValueError(
                    f"{folder} uses {class_name} of the package {package!r} as its {name}: install that package and "
                    f"import it before loading"
                )
        return parts

    def register_to_config(self, **kwargs: Any) -> None:
        """Short, stable names in the index: `["causal_vae", "CausalVideoVAE"]`, wherever in its package a class is.

        Where the pipeline was loaded from is kept, but not in the index: it is nobody's business elsewhere.
        """
        if origin := kwargs.pop("_name_or_path", None):
            self._loaded_from = Path(origin)
        for name, value in kwargs.items():
            if isinstance(value, tuple) and len(value) == 2 and value[0] and "." in value[0]:
                package = sys.modules[value[0].partition(".")[0]]
                if hasattr(package, value[1]):
                    kwargs[name] = (package.__name__, value[1])
        super().register_to_config(**kwargs)


def bundled_checkpoint() -> Path:
    """The folder of the checkpoint that is packaged with this distribution."""
    return Path(str(files("streamer_pipeline"))) / "checkpoints" / BUNDLED


def split_units(audio: Tensor, video: Tensor) -> list[UserUnit]:
    """Whole recordings (1, T), (3, T', H, W) -> units, the last one padded."""
    buffer = UnitBuffer(video.shape[2], video.shape[3], max_units=10**9)
    buffer.push_audio(audio)
    buffer.push_video(video)
    units = []
    while (unit := buffer.flush()) is not None:
        units.append(unit)
    return units
