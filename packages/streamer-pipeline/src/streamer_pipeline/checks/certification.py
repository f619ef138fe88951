"""The certificate for what a checkpoint holds: every streaming part, and the Transformer's cache against its mask."""

from __future__ import annotations

import importlib
import inspect
import json
from pathlib import Path
from typing import Any

import torch
from causal_vae import Certificate, State, StreamingModule, certify
from causal_vae.certification.certificate import show
from causal_vae.certification.findings import Finding
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError
from rich.markup import escape
from rich.table import Table
from streamer_core import (
    CacheSpec,
    StreamerModel,
    UnitStreams,
    advance,
    commit_response,
    context_pass,
    init_kv_state,
    response_velocity,
)
from torch import Tensor, nn

from ..checkpoints import BUNDLED, bundled_checkpoint
from ..hub.placement import find_place, load_pipeline
from ..pipeline import StreamerPipeline
from ..units import FRAME_RATE, SAMPLE_RATE, UNIT_MS

# Laws do not depend on the picture's size, the time they take does.
PICTURE_SIZE, LATENT_SIZE = (96, 144), (2, 3)
# Folders that name the class of another library whose weights one of our classes reads.
READERS = {"AutoencoderKLWan": "WanVideoVAE"}


class CoreStream(StreamingModule):
    """A `StreamerModel` as a stream of units: (B, K, features) -> (B, K, logits and velocities of the unit).

    A unit's features are everything that a unit is made of: token ids (spread over the vocabulary), perceived tokens,
    clean latents, noisy latents and their noise level. `forward` serves them unit by unit by the passes of
    `streamer_core.generation` (context, denoising, commit); `offline` is the training forward under its mask.
    """

    time_axis = out_time_axis = 1

    def __init__(self, streamer: StreamerModel, capacity_units: int = 128) -> None:
        super().__init__()
        self.streamer = streamer
        self.cache_spec = self.make_cache_spec(capacity_units)
        c = streamer.config
        self.shapes = {
            "user_text": (c.user_text_slots,),
            "language": (1 + c.agent_text_slots,),
            "user_audio": (c.user_audio_tokens, c.perception_dim),
            "user_video": (c.user_video_tokens, c.perception_dim),
            "audio": (c.agent_audio_tokens, c.audio_token_dim),
            "video": (c.agent_video_tokens, c.video_token_dim),
            "noisy_audio": (c.agent_audio_tokens, c.audio_token_dim),
            "noisy_video": (c.agent_video_tokens, c.video_token_dim),
            "sigma": (),
        }
        self.sizes = [torch.Size(shape).numel() for shape in self.shapes.values()]

    def make_cache_spec(self, capacity_units: int) -> CacheSpec:
        return CacheSpec.for_policy(self.streamer.config, prompt_capacity=1, capacity_units=capacity_units)

    def chunk_shape(self) -> tuple[int, ...]:
        return 1, sum(self.sizes)

    def example(self, batch_size: int, num_units: int, seed: int = 0) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(batch_size, num_units, sum(self.sizes), generator=generator)

    def unpack(self, x: Tensor) -> dict[str, Tensor]:
        """Features (B, K, F) -> the streams of K units."""
        parts = zip(self.shapes.items(), x.split(self.sizes, dim=2), strict=True)
        streams = {name: part.reshape(*x.shape[:2], *shape) for (name, shape), part in parts}
        for name in ("user_text", "language"):
            numbers = streams[name].nan_to_num(0.0, 0.0, 0.0).clamp(-1e4, 1e4)
            streams[name] = (numbers * 997).long() % self.streamer.config.vocab_size
        return streams | {"sigma": streams["sigma"].sigmoid().clamp(min=0.1)}

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        self.check_length(x)
        if state is None:
            state = init_kv_state(self.cache_spec, x.shape[0], x.device, x.dtype)
        streams, outputs = self.unpack(x), []
        for k in range(x.shape[1]):
            outputs.append(self._serve({name: stream[:, k] for name, stream in streams.items()}, state))
            state = advance(state)
        return torch.stack(outputs, dim=1), state

    def _serve(self, unit: dict[str, Tensor], state: State) -> Tensor:
        """The passes that serve, their language told; one noisy pass is read, and nothing is solved."""
        model, cache_spec = self.streamer, self.cache_spec
        user = model.embed_user(unit["user_text"], unit["user_audio"], unit["user_video"])
        context = context_pass(model, user, unit["language"], state, cache_spec)
        attention_inputs = model.attention_inputs(state, cache_spec, model.layout.response)
        noisy = {"audio": unit["noisy_audio"], "video": unit["noisy_video"]}
        velocities = response_velocity(model, noisy, unit["sigma"], state, attention_inputs)
        commit_response(model, {"audio": unit["audio"], "video": unit["video"]}, state, attention_inputs)
        logits = model.lm_head(context.before_language)
        return torch.cat([part.flatten(1) for part in (logits, *velocities.values())], dim=1)

    def offline(self, x: Tensor) -> Tensor:
        """The training forward: all units at once under the training mask."""
        s = self.unpack(x)
        streams = UnitStreams(
            user_text=s["user_text"],
            user_audio=s["user_audio"],
            user_video=s["user_video"],
            state=s["language"][..., 0],
            agent_text=s["language"][..., 1:],
            audio=s["audio"],
            video=s["video"],
        )
        copies = [s[name][:, None] for name in ("noisy_audio", "noisy_video", "sigma")]
        output = self.streamer(streams, *copies)
        parts = output.logits, output.audio_velocity[:, 0], output.video_velocity[:, 0]
        return torch.cat([part.flatten(2) for part in parts], dim=2)


def certify_checkpoint(
    path_or_id: str,
    picture_size: tuple[int, int] = PICTURE_SIZE,
    package: str | None = None,
    device: str = "cpu",
    dtype: str = "float32",
) -> dict[str, Certificate]:
    """Certificates of a part, or of every streaming part of a pipeline, by name.

    Args:
        path_or_id: folder or hub id of a part or a pipeline, or the bundled checkpoint's name.
        picture_size: height and width that parts which take pictures are examined at.
        package: a stranger's package, imported first, that defines the part's class.
        device, dtype: that parts are examined on and in, as `load_pipeline` takes them.

    Raises:
        ValueError: no such device or dtype is here, or the folder holds no part that keeps the streaming contract.
        OSError: neither a folder here nor a repository that the Hub gives us.
    """
    place, numbers = find_place(device, dtype)
    if package is not None:
        importlib.import_module(package)
    if path_or_id == BUNDLED and not Path(BUNDLED).exists():
        path_or_id = str(bundled_checkpoint())
    folder = Path(path_or_id)
    if not folder.is_dir():
        folder = _download(path_or_id)
    if not (folder / StreamerPipeline.config_name).is_file():
        part = _load_part(folder, package).to(place, numbers)
        return {type(part).__name__: certify_part(part, picture_size)}
    pipeline = load_pipeline(str(folder), device, dtype)
    config = pipeline.streamer.config
    grid = config.video_latent_height, config.video_latent_width
    parts = {
        name: part for name, part in pipeline.components.items() if isinstance(part, StreamingModule | StreamerModel)
    }
    return {name: certify_part(part, picture_size, grid) for name, part in parts.items()}


def certify_part(
    part: nn.Module, picture_size: tuple[int, int] = PICTURE_SIZE, latent_size: tuple[int, int] = LATENT_SIZE
) -> Certificate:
    """Certify one part on noise of the shape that it takes: 2 streams of 4 chunks.

    Raises:
        ValueError: the part is neither a `StreamingModule` nor a `StreamerModel`.
    """
    if isinstance(part, StreamerModel):
        stream = CoreStream(part)
        windows = [w for w in (part.config.context_window, part.config.response_window) if w is not None]
        num_steps = max([16, *windows]) + 8  # past the rings' ends
        example = stream.example(2, 4).to(part.device, part.dtype)
        options = {"num_partitions": 3, "num_steps": num_steps, "tolerance": _tolerance(part.dtype)}
        return certify(stream, example, rate=1000 / UNIT_MS, **options)
    if not isinstance(part, StreamingModule):
        raise ValueError(f"{type(part).__name__} is no StreamingModule: it takes no state, so it has no streaming form")
    renders = part.upsample > part.stride  # latents in, media out
    takes_size = "height" in inspect.signature(part.chunk_shape).parameters
    size = dict(zip(("height", "width"), latent_size if renders else picture_size, strict=True)) if takes_size else {}
    shape = part.chunk_shape(**size)
    rate = (FRAME_RATE if len(shape) == 4 else SAMPLE_RATE) * (part.stride / part.upsample if renders else 1)
    example = 0.5 * torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
    example = torch.cat([example.roll(i, 0) * (1 - 0.4 * i) for i in range(4)], dim=part.time_axis)
    like = next(part.parameters(), example)
    example = example.to(like)
    return certify(part, example, rate=rate, num_partitions=4, num_steps=24, tolerance=_tolerance(like.dtype))


def _tolerance(dtype: torch.dtype) -> float:
    """What partitions may differ by, of the largest magnitude: 1e-5, or four roundings of a coarser dtype."""
    return max(1e-5, 4 * torch.finfo(dtype).eps)


def certificate_table(name: str, certificate: Certificate) -> Table:
    """One row per law, one column per way of using the part."""
    ways = list(dict.fromkeys(row.way for row in certificate.rows))
    laws = list(dict.fromkeys(row.finding.law for row in certificate.rows))
    findings = {(row.finding.law, row.way): row.finding for row in certificate.rows}
    title = f"{name}: {certificate.component}, {certificate.parameters:,} parameters, {certificate.seconds:.0f} s"
    table = Table("law", *ways, "unit", title=title, title_justify="left")
    for law in laws:
        cells = [_cell(findings[law, way]) for way in ways]
        table.add_row(law, *cells, findings[law, ways[0]].unit)
    return table


def _cell(finding: Finding) -> str:
    allowed = "" if finding.allowed is None else f" of {show(finding.allowed)}"
    if finding.passed:
        return f"[green]holds[/green] {show(finding.measured)}{allowed}"
    return f"[red]broken[/red] {show(finding.measured)}{allowed}: {escape(finding.note)}"


def _download(repo_id: str) -> Path:
    try:
        return Path(snapshot_download(repo_id, allow_patterns=["*.json", "*.txt", "*.safetensors"]))
    except (OSError, HFValidationError) as error:
        raise OSError(f"{repo_id!r} is not a folder here, and the Hub gives nothing of that name: {error}") from error


def _load_part(folder: Path, package: str | None) -> nn.Module:
    """The part in a folder, by the class that its config names."""
    config_file = folder / "config.json"
    if not config_file.is_file():
        raise ValueError(f"{folder} has neither a model_index.json nor a config.json: it is no pipeline and no part")
    config = json.loads(config_file.read_text())
    named: Any = config.get("_class_name") or next(iter(config.get("architectures") or []), None)
    name = READERS.get(named, named)
    for module in ("causal_vae", "causal_codec", "streamer_core", package):
        if module and hasattr(importlib.import_module(module), name or ""):
            return getattr(importlib.import_module(module), name).from_pretrained(folder)
    raise ValueError(f"{folder} holds a {named}, which none of our packages defines; name its own with --package")
