"""Train the streaming Transformer and its encoders on dyads that `prepare_dyads.py` stored.

    python examples/train/train_streamer.py --stage 1 --dyads runs/dyads --run runs/stage1
    python examples/train/train_streamer.py --stage 2 --dyads runs/dyads --run runs/stage2 --start-from runs/stage1
    python examples/train/train_streamer.py --stage 3 --dyads runs/dyads --run runs/stage3 --start-from runs/stage2
    python examples/train/train_streamer.py --stage 3 --phase self-forcing --dyads runs/dyads --run runs/student \\
        --start-from runs/stage3 --teacher runs/stage2

Stage 1 mixes independent tasks, stage 2 is duplex conversation, stage 3 distils the result into a student with few
solver steps. Run a stage again with the same `--run` to continue. Writes `<run>/streamer`, `<run>/audio_encoder`,
`<run>/video_encoder`, `<run>/tokenizer`, and metrics with their plot.
"""

from pathlib import Path
from typing import Annotated

import torch
import typer
from causal_codec import CausalVideoEncoder
from causal_vae.training import build_trainer, fit
from duplex_world.conversations import WORLD_TASKS, Dyads, WorldConversations
from duplex_world.stages import (
    AUDIO_WEIGHT,
    SIZES,
    STAGES,
    assemble,
    common_tokenizer,
    load_parts,
    new_parts,
    save_parts,
    validation_loaders,
)
from streamer_pipeline import RecordingReader
from streamer_pipeline.data.tasks import Mixture
from streamer_pipeline.training.samples import SampleConversations
from streamer_pipeline.training.stages import PHASES, lightning_strategy, training_module
from transformers import AutoModel


def main(
    stage: Annotated[int, typer.Option(help="1 tasks, 2 duplex, 3 distillation")] = 2,
    phase: Annotated[str, typer.Option(help="of stage 3: " + " | ".join(PHASES))] = "trajectory",
    teacher: Annotated[Path | None, typer.Option(help="of stage 3: the stage 2 run, if not --start-from")] = None,
    dyads: Annotated[Path, typer.Option(help="folder that prepare_dyads.py wrote, with latents")] = Path("runs/dyads"),
    users: Annotated[Path | None, typer.Option(help="more dyads, without latents, for the language tasks")] = None,
    val_dyads: Annotated[Path | None, typer.Option(help="dyads of the validation split")] = None,
    run: Annotated[Path, typer.Option(help="folder of this run")] = Path("runs/streamer"),
    size: Annotated[str, typer.Option(help=" | ".join(SIZES))] = "tiny",
    tasks: Annotated[str | None, typer.Option(help="instead of the stage's, e.g. 'seeing=3 words=1'")] = None,
    max_steps: Annotated[int | None, typer.Option(help="instead of the stage's")] = None,
    batch_size: Annotated[int | None, typer.Option(help="rows of a media batch, instead of the size's")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="instead of the stage's")] = None,
    history_dropout: Annotated[float, typer.Option(help="share of sequences that hide what was said and shown")] = 0.0,
    validate_every: Annotated[int, typer.Option(help="steps between validations")] = 250,
    start_from: Annotated[Path | None, typer.Option(help="an earlier run whose weights to start from")] = None,
    audio_encoder: Annotated[Path | None, typer.Option(help="ears to start with, of train_senses.py")] = None,
    video_encoder: Annotated[Path | None, typer.Option(help="eyes to start with, of train_senses.py")] = None,
    sample: Annotated[Path | None, typer.Option(help="recording to talk to after each validation")] = None,
    audio_vae: Annotated[Path, typer.Option(help="renders --sample")] = Path("runs/audio_vae/audio_vae"),
    video_vae: Annotated[Path, typer.Option(help="renders --sample")] = Path("runs/video_vae/video_vae"),
    precision: Annotated[str, typer.Option(help="Lightning's: 32-true or bf16-mixed")] = "bf16-mixed",
    devices: Annotated[int, typer.Option(help="processes (on a CPU) or GPUs; each draws its own batches")] = 1,
    num_nodes: Annotated[int, typer.Option(help="machines with so many devices each, started with torchrun")] = 1,
    strategy: Annotated[str, typer.Option(help="Lightning's, or fsdp2 to split weights over devices")] = "auto",
    num_threads: int = 1,
    seed: Annotated[int, typer.Option(min=0, help="of new weights, data and noise")] = 0,
) -> None:
    torch.set_num_threads(num_threads)
    torch.manual_seed(seed)
    settings = STAGES[stage]
    max_steps = max_steps or settings["max_steps"]
    run.mkdir(parents=True, exist_ok=True)
    tokenizer = common_tokenizer([folder for folder in (dyads, users, val_dyads, start_from) if folder])
    parts = load_parts(start_from) if start_from else new_parts(tokenizer)
    if audio_encoder:
        parts = parts[0], AutoModel.from_pretrained(audio_encoder, dtype=torch.float32), parts[2]
    if video_encoder:
        parts = *parts[:2], CausalVideoEncoder.from_pretrained(video_encoder, dtype=torch.float32)
    mixture = Mixture.parse(tasks, WORLD_TASKS) if tasks else settings["mixture"]
    training = training_module(
        parts,
        learning_rate or settings["learning_rate"],
        max_steps,
        load_parts(teacher or start_from) if stage == 3 else None,
        phase,
        strategy,
        audio_weight=AUDIO_WEIGHT,
        history_dropout=history_dropout,
        validation_names=tuple(mixture.weights),
    )
    config = parts[0].config
    data = {
        "tokenizer": tokenizer,
        "num_units": SIZES[size]["num_units"],
        "batch_size": batch_size or SIZES[size]["batch_size"],
        "response_delay": config.response_delay,
        "user_text_slots": config.user_text_slots,
    }
    media_dyads = Dyads([dyads], with_latents=True)
    language_dyads = Dyads([dyads, users] if users else [dyads], with_latents=False)
    batches = WorldConversations(
        language_dyads, media_dyads, mixture=mixture, seed=seed, num_processes=devices * num_nodes, **data
    )
    validation = validation_loaders(data, val_dyads, list(mixture.weights)) if val_dyads else None
    strategy = lightning_strategy(strategy, devices * num_nodes)
    callbacks = []
    if sample:
        pipeline = assemble(parts, tokenizer, audio_vae, video_vae)
        callbacks = [SampleConversations(run / "samples", lambda: [("agent", RecordingReader(sample))], pipeline)]
    trainer = build_trainer(
        run, max_steps, validate_every if validation else None, callbacks, precision, devices, strategy, num_nodes, seed
    )
    fit(trainer, run, training, batches, validation)
    if save_parts(trainer, run, parts):
        tokenizer.save_pretrained(run / "tokenizer")
        typer.echo(f"saved streamer, encoders and tokenizer in {run}")


if __name__ == "__main__":
    typer.run(main)
