"""Dyads as the tensors that training reads, by a checkpoint's tokenizer, eyes and VAEs; kept on disk by their content.

What one dyad becomes lies in one file, whose name is a hash of the dyad as it is stored and of all that encodes it: the
same dyad is encoded once, whatever run asks for it, and a changed one again.
"""

from __future__ import annotations

import hashlib
import json
import os
import string
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from causal_vae import State
from rich.progress import track
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from streamer_core import StreamerTokenizer, unpack_video
from torch import Tensor, nn

from ..cache_folder import cache_folder
from ..clock import FRAMES_PER_UNIT, SAMPLES_PER_UNIT
from ..pipeline import StreamerPipeline
from ..units import UserUnit
from .dyads import MEDIA, StoredDyad, StoredRow, decode_dyad, read_rows
from .words import fill_slots, unit_at

_VERSION = "1"  # of what is written; another one encodes again
_PIECE_UNITS = 8  # of picture at once: a whole clip's activations are large
_STILL_UNITS = 32
_POLL_SECONDS = 0.1
_PLAIN = str.maketrans("", "", string.punctuation.replace("'", ""))


def default_cache() -> Path:
    """Where encoded dyads lie unless a run says otherwise."""
    return cache_folder() / "encoded"


class DyadEncoder:
    """What turns a dyad into training tensors (`tasks` says which); the parts are a pipeline's, in evaluation mode.

    Args:
        plain_words: write words in lower case and without punctuation, as `wan-streamer-tiny` does.
        shows_itself: in place of a picture that nobody filmed the agent's history shows the face that this checkpoint
            has while it keeps silent, else zeros. It is history alone: nothing is learned from it.

    Raises:
        ValueError: the pipeline has no VAE of a kind.
    """

    def __init__(self, pipeline: StreamerPipeline, plain_words: bool = False, shows_itself: bool = True) -> None:
        for name in ("audio_vae", "video_vae"):
            if getattr(pipeline, name) is None:
                raise ValueError(f"the checkpoint has no {name}, without which recordings cannot be encoded")
        self.pipeline, self.plain_words, self.shows_itself = pipeline, plain_words, shows_itself
        self._still: Tensor | None = None
        self._base = hashlib.sha256(f"{_VERSION} {plain_words}".encode())
        config, eyes = pipeline.streamer.config, pipeline.video_encoder
        looks = eyes.stride, eyes.config.image_height, eyes.config.image_width
        self._base.update(json.dumps([config.agent_text_slots, looks]).encode())
        self._base.update(pipeline.tokenizer.backend_tokenizer.to_str().encode())
        for part in (pipeline.audio_vae, pipeline.video_vae):
            _update(self._base, part)
        self._face = hashlib.sha256()
        if shows_itself:
            _update(self._face, pipeline.streamer)

    def name_of(self, row: StoredRow) -> str:
        """The hash of a stored dyad and of this encoder."""
        digest = self._base.copy()
        if row["agent.mp4"] is None:
            digest.update(self._face.digest())
        digest.update(json.dumps(row["json"], sort_keys=True).encode())
        for name in MEDIA:
            media = row[name] or b""
            digest.update(f"{name} {len(media)} ".encode() + media)
        return digest.hexdigest()[:32]

    @torch.inference_mode()
    def __call__(self, dyad: StoredDyad) -> dict[str, Tensor]:
        """The tensors of one dyad.

        Raises:
            ValueError: nobody wrote down the agent's words, or the tokenizer cannot spell one.
        """
        with self.pipeline.evaluating():
            tensors = self._language(dyad) | {
                "user_audio": (dyad.user_audio[0] * 32767).round().to(torch.int16),
                "user_frames": self._looks(dyad),
                "audio_latents": self._sound(dyad.agent_audio),
                "pictured": torch.full((dyad.num_units,), dyad.agent_video is not None),
            }
            if dyad.agent_video is not None:
                tensors["video_latents"] = self._picture(dyad.agent_video)
            else:
                tensors["video_latents"] = self._unfilmed(dyad.num_units)
        return {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}

    # ---- words ----

    def _language(self, dyad: StoredDyad) -> dict[str, Tensor]:
        agent, states = dyad.labels.get("agent") or {}, self.pipeline.tokenizer.state_ids
        if agent.get("words") is None or agent.get("speaking") is None:
            raise ValueError(
                f"dyad {dyad.key} does not say what the agent's words are: prepare the recordings with "
                "`wan-streamer prepare`, and let --transcribe MODEL write words that nobody wrote down"
            )
        tensors = {
            "state": torch.tensor([states["speak" if speaks else "listen"] for speaks in agent["speaking"]]),
            "text": self._slots(agent["words"], dyad.key),
        }
        transcript = (dyad.labels.get("user") or {}).get("transcript")
        if transcript is not None:
            heard: list[list[str]] = [[] for _ in range(dyad.num_units)]
            for text, _, end in transcript:  # by the unit after its end a word can be known
                heard[min(unit_at(end) + 1, dyad.num_units - 1)].append(text)
            tensors["user_heard"] = self._slots(heard, dyad.key)
        return tensors

    def _slots(self, words: Sequence[Sequence[str]], key: str) -> Tensor:
        tokenizer = self.pipeline.tokenizer
        if self.plain_words:
            words = [list(filter(None, (word.translate(_PLAIN).lower() for word in said))) for said in words]
        for word in {word for said in words for word in said}:
            if not can_spell(tokenizer, word):
                raise ValueError(
                    f"the checkpoint's tokenizer cannot spell {word!r} of dyad {key}: it was trained on other letters; "
                    "start from another checkpoint, or write the words in its letters"
                )
        num_slots = self.pipeline.streamer.config.agent_text_slots
        return torch.tensor(fill_slots(words, tokenizer.encode_words, num_slots, tokenizer.pad_token_id))

    # ---- sound and picture ----

    def _looks(self, dyad: StoredDyad) -> Tensor:
        """The frames that the eyes look at, in their size, as bytes; black where nobody filmed."""
        eyes = self.pipeline.video_encoder
        size = eyes.config.image_height, eyes.config.image_width
        if dyad.user_video is None:
            looks = dyad.num_units * FRAMES_PER_UNIT // eyes.stride
            return torch.zeros(looks, 3, *size, dtype=torch.uint8)
        frames = dyad.user_video[:, eyes.stride - 1 :: eyes.stride].transpose(0, 1)
        small = eyes.resize(frames, size) if tuple(frames.shape[2:]) != size else frames
        return ((small.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)

    def _sound(self, audio: Tensor) -> Tensor:
        vae = self.pipeline.audio_vae
        return vae.encode(audio[None].to(vae.device, vae.dtype))[0].mean[0].float()

    def _picture(self, video: Tensor) -> Tensor:
        vae, past, latents = self.pipeline.video_vae, None, []
        drawn = drawn_size(self.pipeline)
        if tuple(video.shape[2:]) != drawn:
            raise ValueError(
                f"the agent's pictures are {video.shape[2]} x {video.shape[3]}, the checkpoint draws "
                f"{drawn[0]} x {drawn[1]}: prepare the recordings with --size {drawn[0]}x{drawn[1]}"
            )
        for piece in video.split(_PIECE_UNITS * FRAMES_PER_UNIT, dim=1):
            posterior, past = _encoded(vae, piece[None].to(vae.device, vae.dtype), past)
            latents.append(posterior.float())
        return torch.cat(latents, dim=1)

    def _unfilmed(self, num_units: int) -> Tensor:
        """(C, U, h, w): the checkpoint's own silent face, there and back again, or zeros."""
        config = self.pipeline.streamer.config
        if not self.shows_itself:
            grid = config.video_latent_height, config.video_latent_width
            return torch.zeros(config.video_latent_channels, num_units, *grid)
        if self._still is None:
            self._still = self._silent_face()
        there_and_back = torch.cat([self._still, self._still.flip(1)[:, 1:-1]], dim=1)
        return there_and_back[:, torch.arange(num_units) % there_and_back.shape[1]]

    def _silent_face(self) -> Tensor:
        session, shown = self.pipeline.open_session(), []
        unit = UserUnit(
            torch.zeros(1, SAMPLES_PER_UNIT),
            torch.full((3, FRAMES_PER_UNIT, session.options.height, session.options.width), -1.0),
        )
        for _ in range(_STILL_UNITS):
            shown.append(session.step(unit).latents["video"])
        return unpack_video(torch.stack(shown)[None].float(), self.pipeline.streamer.config)[0].cpu()


def drawn_size(pipeline: StreamerPipeline) -> tuple[int, int]:
    """Height and width of the pictures that a pipeline with a video VAE draws."""
    config, pixels = pipeline.streamer.config, pipeline.video_vae.stream_spec.pixels_per_cell
    return config.video_latent_height * pixels, config.video_latent_width * pixels


def can_spell(tokenizer: StreamerTokenizer, word: str) -> bool:
    """Whether a word's ids say that word again, none of them a control token."""
    ids = tokenizer.encode_words(word)
    return tokenizer.decode_slots(ids).strip() == word.strip()


def _encoded(vae: Any, video: Tensor, past: State | None) -> tuple[Tensor, State]:
    posterior, past = vae.encode(video, past)
    return posterior.mean[0], past


def _update(digest: hashlib._Hash, part: nn.Module) -> None:
    """A part's class, config and weights."""
    digest.update(type(part).__name__.encode())
    for name, tensor in sorted(part.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype} ".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())


class EncodedDyads:
    """Encoded dyads on disk, each tensor read when it is asked for."""

    def __init__(self, files: Sequence[Path]) -> None:
        self.files = list(files)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Mapping[str, Tensor]:
        return _FileTensors(self.files[index])

    def with_tensors(self, names: Sequence[str]) -> EncodedDyads:
        """Those that have all of these."""
        kept = [path for index, path in enumerate(self.files) if set(names) <= set(self[index])]
        return self if len(kept) == len(self) else EncodedDyads(kept)


class _FileTensors(Mapping[str, Tensor]):
    def __init__(self, path: Path) -> None:
        self._file = safe_open(path, "pt")
        self._names = set(self._file.keys())

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._names:
            raise KeyError(name)
        return self._file.get_tensor(name)

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def encode_split(
    source: str | Path, split: str, encoder: DyadEncoder, cache: Path, process: int = 0, num_processes: int = 1
) -> EncodedDyads:
    """The dyads of a split, encoded; what lies in the cache already is not encoded again.

    Args:
        process, num_processes: of those that share the cache. Each encodes its share and waits for the others'.

    Raises:
        ValueError: there is no such source or split, it is empty, or a dyad cannot be encoded.
        OSError: the cache cannot be written.
    """
    cache.mkdir(parents=True, exist_ok=True)
    files = []
    for index, row in enumerate(track(read_rows(source, split), f"encoding {split}", disable=process > 0)):
        path = cache / f"{encoder.name_of(row)}.safetensors"
        if index % num_processes == process and not _is_whole(path):
            partial = path.with_suffix(f".{os.getpid()}.partial")
            save_file(encoder(decode_dyad(row, source)), partial)
            partial.rename(path)
        files.append(path)
    if not files:
        raise ValueError(f"the split {split} of {source} holds no dyads")
    for path in files:
        while not _is_whole(path):
            time.sleep(_POLL_SECONDS)
    return EncodedDyads(files)


def _is_whole(path: Path) -> bool:
    try:
        return bool(safe_open(path, "pt").keys())
    except (FileNotFoundError, SafetensorError):
        return False
