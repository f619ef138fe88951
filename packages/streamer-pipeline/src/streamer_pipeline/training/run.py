"""A training run from beginning to end: dyads and a checkpoint in, a checkpoint out. What `wan-streamer train` does."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from causal_vae.training import build_trainer, fit
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch.distributed.fsdp import FSDPModule
from torch.utils.data import DataLoader

from ..checkpoints import BUNDLED, bundled_checkpoint
from ..data.dyads import has_split, read_dyads
from ..data.encoding import DyadEncoder, EncodedDyads, default_cache, drawn_size, encode_split
from ..data.tasks import TASKS, Mixture
from ..data.windows import Conversations
from ..hub.cards import pipeline_card
from ..hub.placement import load_pipeline
from ..pipeline import StreamerPipeline
from ..units import UserUnit
from .config import TrainConfig, claim
from .modules import gather_weights
from .samples import SampleConversations, user_units
from .stages import STAGES, choose_trained, learning_rate, lightning_strategy, new_weights, training_module
from .throughput import Throughput

VALIDATION_BATCHES = 6


def train(config: TrainConfig) -> tuple[Path, list[str]] | None:
    """Train, from the start or from where the run stopped: the folder of the new checkpoint, and notes for people.

    The folder of the run also holds its record, metrics with their plot, samples and what a continued run needs. Of
    several processes the first alone writes them; the others come back with None.

    Raises:
        ValueError: there are no dyads, they do not fit the checkpoint, or the folder holds another run.
        OSError: there is no such checkpoint.
    """
    if config.num_threads:
        torch.set_num_threads(config.num_threads)
    folder = _folder_of(config.start_from)
    pipeline = load_pipeline(str(folder), _own_device())
    torch.manual_seed(config.seed)
    if config.preset is not None:
        new_weights(pipeline, config.preset)
    encoder = DyadEncoder(pipeline, config.words == "plain", shows_itself=config.preset is None)
    cache = Path(config.cache) if config.cache else default_cache()
    share = _own_share()
    dyads = encode_split(config.data, config.split, encoder, cache, *share)
    unseen = encode_split(*_validation(config), encoder, cache, *share) if has_split(*_validation(config)) else None
    notes = [] if unseen else [f"{config.data} has no split {config.val_split}: nothing is validated"]
    if config.hears_words:
        if not len(dyads.with_tensors(("user_heard",))):
            raise ValueError(f"hears_words needs the user's words, and no dyad of {config.data} has them")
        pipeline.streamer.add_heard_words()
    streamer, changed = choose_trained(pipeline, config)
    if not any(bool(dyads[index]["pictured"].any()) for index in range(len(dyads))):
        notes.append("nobody filmed the agent: its picture is not trained")
        pipeline.streamer.video_out.requires_grad_(False)
    trains_words = config.method != "heads" or pipeline.streamer.lm_head.weight.requires_grad
    mixture, sources = _sources(config, dyads, trains_words, notes)
    claim(config)
    run, steps = Path(config.run), config.max_steps or STAGES[config.stage].max_steps
    batches = _batches(config, pipeline, mixture, sources, config.num_devices, config.vary)
    validation = _validations(config, pipeline, mixture, unseen) if unseen else {}
    training = _module(config, pipeline, streamer, tuple(validation))
    trainer = build_trainer(
        run,
        steps,
        config.validate_every if validation else None,
        _callbacks(config, pipeline, training, bool(validation)),
        config.precision,
        config.devices,
        lightning_strategy(config.strategy, config.num_devices),
        config.num_nodes,
        config.seed,
    )
    if validation and config.validate_every > steps:
        notes.append(f"--validate-every {config.validate_every} is more than --max-steps {steps}: nothing is validated")
    fit(trainer, run, training, batches, list(validation.values()) or None, config.num_workers)
    _save(trainer, config, pipeline, training, changed, folder)
    return (run / "checkpoint", notes) if trainer.is_global_zero else None


def _folder_of(checkpoint: str) -> Path:
    """Where a checkpoint's files are, after they were fetched if they are on the Hub."""
    if checkpoint == BUNDLED and not Path(checkpoint).exists():
        return bundled_checkpoint()
    is_here = Path(checkpoint).exists() or checkpoint.startswith((".", "/"))
    return Path(checkpoint if is_here else StreamerPipeline.download(checkpoint))


def _own_device() -> str:
    """Where this process encodes: Lightning trains there, too."""
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if accelerator is None:
        return "cpu"
    return f"{accelerator.type}:{os.environ.get('LOCAL_RANK', '0')}"


def _own_share() -> tuple[int, int]:
    """This process's number and the number of those that torchrun started beside it on this machine.

    Lightning starts the others of a machine later, when the first has encoded everything.
    """
    num_processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return int(os.environ.get("LOCAL_RANK", "0")) % num_processes, num_processes


def _validation(config: TrainConfig) -> tuple[str, str]:
    return config.data, config.val_split


# ---- data ----


def _sources(
    config: TrainConfig, dyads: EncodedDyads, trains_words: bool, notes: list[str]
) -> tuple[Mixture, dict[str, EncodedDyads]]:
    """The tasks for which there is something to learn from, and what."""
    weights = dict(Mixture.parse(config.tasks or STAGES[config.stage].tasks).weights)
    sources = {name: dyads.with_tensors(TASKS[name].needs) for name in weights}
    for name, found in sources.items():
        if not len(found):
            reason = "no dyad has the user's words"
        elif not trains_words and not TASKS[name].renders:
            reason = "heads of tied words are not trained"
        else:
            continue
        if config.tasks:
            raise ValueError(f"there is nothing to learn from the task {name}: {reason}")
        notes.append(f"the task {name} is left out: {reason}")
        del weights[name]
    return Mixture(weights), {name: sources[name] for name in weights}


def _batches(
    config: TrainConfig,
    pipeline: StreamerPipeline,
    mixture: Mixture,
    sources: dict[str, EncodedDyads],
    num_processes: int = 1,
    vary: bool = False,
) -> Conversations:
    shape = pipeline.streamer.config
    return Conversations(
        sources,
        pipeline.tokenizer,
        mixture,
        config.num_units,
        config.batch_size,
        shape.response_delay,
        shape.user_text_slots,
        pipeline.config.prompt,
        vary=vary,
        seed=config.seed,
        num_processes=num_processes,
    )


def _validations(
    config: TrainConfig, pipeline: StreamerPipeline, mixture: Mixture, unseen: EncodedDyads
) -> dict[str, DataLoader[Any]]:
    """A few fixed batches of each task that `unseen` can show, as they were recorded."""
    loaders: dict[str, DataLoader[Any]] = {}
    for name in mixture.weights:
        found = unseen.with_tensors(TASKS[name].needs)
        if len(found):
            batches = _batches(config, pipeline, Mixture({name: 1.0}), {name: found})
            fixed: Any = [batches[step, 0] for step in range(VALIDATION_BATCHES)]  # a list serves as a data set
            loaders[name] = DataLoader(fixed, batch_size=None)
    return loaders


# ---- the module and its trainer ----


def _module(config: TrainConfig, pipeline: StreamerPipeline, streamer: Any, tasks: tuple[str, ...]) -> LightningModule:
    teacher = None
    if config.stage == 3:
        loaded = load_pipeline(config.teacher or config.start_from)
        teacher = loaded.streamer, loaded.audio_encoder, loaded.video_encoder
    options: dict[str, Any] = {
        "text_weight": config.text_weight,
        "audio_weight": config.audio_weight,
        "video_weight": config.video_weight,
        "history_noise": config.history_noise,
        "history_dropout": config.history_dropout,
        "validation_names": tasks,
    }
    return training_module(
        (streamer, pipeline.audio_encoder, pipeline.video_encoder),
        learning_rate(config),
        config.max_steps or STAGES[config.stage].max_steps,
        teacher,
        config.phase,
        config.strategy,
        pipeline.scheduler.config.get("shift", 1.0),
        **options,
    )


def _callbacks(config: TrainConfig, pipeline: StreamerPipeline, training: Any, validates: bool) -> list[Callback]:
    callbacks: list[Callback] = []
    if config.stage < 3:
        callbacks.append(Throughput(training.losses))
    if config.samples and validates and config.strategy != "fsdp2":
        callbacks.append(SampleConversations(Path(config.run) / "samples", lambda: _users(config, pipeline), pipeline))
    return callbacks


def _users(config: TrainConfig, pipeline: StreamerPipeline) -> Iterator[tuple[str, list[UserUnit]]]:
    size = drawn_size(pipeline)
    for dyad in islice(read_dyads(*_validation(config)), config.samples):
        yield dyad.key, user_units(dyad, *size)


# ---- what comes out ----


def _save(
    trainer: Trainer,
    config: TrainConfig,
    pipeline: StreamerPipeline,
    training: Any,
    changed: tuple[str, ...],
    source: Path,
) -> None:
    """Write the checkpoint: the parts that were trained, and beside them copies of all others."""
    if config.method == "lora":
        pipeline.register_modules(streamer=training.streamer.merge_and_unload())
    if config.stage == 3:
        changed = ("streamer",)
    whole = {name: gather_weights(getattr(pipeline, name)) for name in changed}
    if not trainer.is_global_zero:
        return
    out = Path(config.run) / "checkpoint"
    partial = out.with_name("checkpoint.partial")
    shutil.rmtree(partial, ignore_errors=True)
    index = json.loads((source / StreamerPipeline.config_name).read_text(encoding="utf-8"))
    for name, value in index.items():
        if isinstance(value, list) and value[0] is not None and name not in changed:
            shutil.copytree(source / name, partial / name)
    partial.mkdir(exist_ok=True)
    if config.stage == 3:
        index["num_inference_steps"] = training.hparams.num_steps
    for name, weights in whole.items():
        part = getattr(pipeline, name)
        part.save_pretrained(partial / name, state_dict=weights)
        kind = next(kind for kind in type(part).__mro__ if not issubclass(kind, FSDPModule))
        index[name] = [kind.__module__.partition(".")[0], kind.__name__]
    (partial / StreamerPipeline.config_name).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    (partial / "README.md").write_text(str(pipeline_card(StreamerPipeline.from_pretrained(partial))), encoding="utf-8")
    shutil.rmtree(out, ignore_errors=True)
    partial.rename(out)
