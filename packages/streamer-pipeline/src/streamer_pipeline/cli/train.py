"""`wan-streamer train`: a checkpoint of one's own, from dyads and a checkpoint to start from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .options import MAX_THREADS, check_folder, in_a_sentence, needs_extra, say, say_notes


def train(
    config: Annotated[Path | None, typer.Option(help="YAML of settings; options below come before it")] = None,
    data: Annotated[str | None, typer.Option(help="folder or hub id of dyads")] = None,
    start_from: Annotated[str | None, typer.Option(help="checkpoint; default the bundled one")] = None,
    run: Annotated[str | None, typer.Option(help="folder of this run; default runs/train")] = None,
    split: Annotated[str | None, typer.Option(help="to train on; default train")] = None,
    val_split: Annotated[str | None, typer.Option(help="to validate on; default val, and may be missing")] = None,
    words: Annotated[
        str | None, typer.Option(help="written (default) or plain: lower case, no punctuation, as the bundled one")
    ] = None,
    preset: Annotated[str | None, typer.Option(help="new weights of this shape: tiny, small, base")] = None,
    stage: Annotated[int | None, typer.Option(help="1 tasks, 2 duplex (default), 3 distillation")] = None,
    phase: Annotated[str | None, typer.Option(help="of stage 3: trajectory (default) or self-forcing")] = None,
    teacher: Annotated[str | None, typer.Option(help="of stage 3; default is --start-from")] = None,
    tasks: Annotated[str | None, typer.Option(help="instead of the stage's: 'duplex=3 words=1'")] = None,
    method: Annotated[str | None, typer.Option(help="full (default), lora, or heads (no new words)")] = None,
    lora_rank: Annotated[int | None, typer.Option(help="default 16")] = None,
    lora_alpha: Annotated[float | None, typer.Option(help="default 32")] = None,
    lora_targets: Annotated[str | None, typer.Option(help="ends of the names of layers with adapters")] = None,
    max_steps: Annotated[int | None, typer.Option(help="instead of the stage's")] = None,
    batch_size: Annotated[int | None, typer.Option(help="rows of a media batch in each process; default 4")] = None,
    num_units: Annotated[int | None, typer.Option(help="units of a window; default 48")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="instead of the stage's")] = None,
    audio_weight: Annotated[float | None, typer.Option(help="of the sound's loss; default 4")] = None,
    video_weight: Annotated[float | None, typer.Option(help="of the picture's loss; default 1")] = None,
    text_weight: Annotated[float | None, typer.Option(help="of the words' loss; default 1")] = None,
    history_noise: Annotated[float | None, typer.Option(help="largest noise on what was said before")] = None,
    history_dropout: Annotated[float | None, typer.Option(help="share of rows that hide it")] = None,
    vary: Annotated[bool | None, typer.Option(help="other microphones and cameras for the user; default on")] = None,
    hears_words: Annotated[bool | None, typer.Option(help="also learn to write down the user's words")] = None,
    validate_every: Annotated[int | None, typer.Option(help="steps; default 250")] = None,
    samples: Annotated[int | None, typer.Option(help="conversations to film after each validation")] = None,
    precision: Annotated[str | None, typer.Option(help="32-true (default), bf16-mixed, bf16-true, 16-mixed")] = None,
    devices: Annotated[int | None, typer.Option(help="GPUs, or processes on a CPU; default 1")] = None,
    num_nodes: Annotated[int | None, typer.Option(help="machines, started with torchrun")] = None,
    strategy: Annotated[str | None, typer.Option(help="Lightning's, or fsdp2 to split weights over devices")] = None,
    num_workers: Annotated[int | None, typer.Option(help="processes that draw batches; default 0")] = None,
    num_threads: Annotated[int | None, typer.Option(max=MAX_THREADS, help="CPU threads; 0 is torch's default")] = None,
    seed: Annotated[int | None, typer.Option(help="of weights, data and noise")] = None,
    cache: Annotated[str | None, typer.Option(help="folder of encoded dyads")] = None,
) -> None:
    """Train a checkpoint on dyads; the result, RUN/checkpoint, opens like any other. Run again to continue.

    Needs the extra `train`: pip install "wan-streamer-pipeline[train]"; --method lora needs `lora`.
    """
    given = {name: value for name, value in locals().items() if name != "config" and value is not None}
    with in_a_sentence():
        with needs_extra("train"):
            import lightning  # noqa: F401
            import yaml  # noqa: F401
        from ..training.config import TrainConfig, read_settings

        settings = TrainConfig.of((read_settings(config) if config else {}) | given)
        check_folder(Path(settings.run))
        if settings.method == "lora":
            with needs_extra("lora"):
                import peft  # noqa: F401
        from ..training.run import train as work

        if (made := work(settings)) is None:
            return  # another process speaks for all
        checkpoint, notes = made
        say_notes(notes)
        say(f"saved {checkpoint}; talk to it: wan-streamer talk RECORDING --checkpoint {checkpoint}")
