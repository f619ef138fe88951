"""Train the streaming Transformer and its encoders on dyads that `prepare_dyads.py` stored.

    python examples/train_streamer.py --stage 1 --dyads runs/dyads --run runs/stage1
    python examples/train_streamer.py --stage 2 --dyads runs/dyads --run runs/stage2 --start-from runs/stage1
    python examples/train_streamer.py --stage 3 --dyads runs/dyads --run runs/stage3 --start-from runs/stage2
    python examples/train_streamer.py --stage 3 --phase self-forcing --dyads runs/dyads --run runs/student \\
        --start-from runs/stage3 --teacher runs/stage2

Stage 1 mixes independent tasks, stage 2 is duplex conversation, stage 3 distils the result into a student with few
solver steps. Run a stage again with the same `--run` to continue. Writes `<run>/streamer`, `<run>/audio_encoder`,
`<run>/video_encoder`, `<run>/tokenizer`, and metrics with their plot.
"""

from pathlib import Path
from typing import Annotated

import torch
import typer
from causal_codec import (
    CausalAudioEncoder,
    CausalAudioEncoderConfig,
    CausalVideoEncoder,
    CausalVideoEncoderConfig,
)
from causal_vae.training import build_trainer, fit
from conversations import Conversations, Dyads, Mixture
from sample_conversations import SampleConversations
from streamer_core import StreamerModel, StreamerTokenizer, preset
from streamer_pipeline.training.distillation import SelfForcing, TrajectoryDistillation
from streamer_pipeline.training.modules import DuplexTraining, ShardedDuplexTraining, gather_weights
from torch.utils.data import DataLoader
from transformers import AutoModel, PreTrainedModel

STAGES = {
    1: {
        "mixture": Mixture({"hearing": 0.25, "seeing": 0.3, "words": 0.25, "speaking": 0.2}),
        "max_steps": 4000,
        "learning_rate": 1.5e-3,
    },
    2: {
        "mixture": Mixture({"hearing": 0.06, "seeing": 0.07, "words": 0.32, "speaking": 0.15, "duplex": 0.4}),
        "max_steps": 5000,
        "learning_rate": 1.0e-3,
    },
    3: {
        "mixture": Mixture({"hearing": 0.05, "seeing": 0.05, "words": 0.25, "speaking": 0.15, "duplex": 0.5}),
        "max_steps": 400,
        "learning_rate": 3e-4,
    },
}
PHASES = {"trajectory": TrajectoryDistillation, "self-forcing": SelfForcing}
SIZES = {"smoke": {"batch_size": 2, "num_units": 8}, "tiny": {"batch_size": 4, "num_units": 48}}
VALIDATION_BATCHES = 6
AUDIO_WEIGHT = 4.0  # speech fills a quarter of the units and is the first thing that sounds wrong


def load_parts(folder: Path) -> tuple[StreamerModel, PreTrainedModel, CausalVideoEncoder]:
    """The weights of an earlier run, in float32."""
    return (
        StreamerModel.from_pretrained(folder / "streamer", dtype=torch.float32),
        AutoModel.from_pretrained(folder / "audio_encoder", dtype=torch.float32),
        CausalVideoEncoder.from_pretrained(folder / "video_encoder", dtype=torch.float32),
    )


def new_parts(tokenizer: StreamerTokenizer) -> tuple[StreamerModel, CausalAudioEncoder, CausalVideoEncoder]:
    """The tiny shape with random weights."""
    config = preset(
        "tiny",
        vocab_size=len(tokenizer),
        pad_token_id=tokenizer.pad_token_id,
        state_token_ids=list(tokenizer.state_ids.values()),
        context_window=40,
    )
    audio_encoder = CausalAudioEncoder(CausalAudioEncoderConfig(output_dim=config.perception_dim))
    video_encoder = CausalVideoEncoder(CausalVideoEncoderConfig(output_dim=config.perception_dim))
    return StreamerModel(config), audio_encoder, video_encoder


def common_tokenizer(folders: list[Path]) -> StreamerTokenizer:
    """The tokenizer of all these folders of dyads, and runs to start from. Raises ValueError where they differ."""
    tokenizers = [StreamerTokenizer.from_pretrained(folder / "tokenizer") for folder in folders]
    for folder, tokenizer in zip(folders, tokenizers, strict=True):
        if tokenizer.get_vocab() != tokenizers[0].get_vocab():
            raise ValueError(
                f"{folder} and {folders[0]} were stored with different tokenizers, so equal words have different ids; "
                f"prepare the dyads again with examples/prepare_dyads.py --tokenizer {folder / 'tokenizer'}"
            )
    return tokenizers[0]


def validation_loaders(data: dict, val_dyads: Path, tasks: list[str]) -> list[DataLoader]:
    """A few fixed batches per task, of voices and faces that are never trained on."""
    loaders, dyads = [], Dyads([val_dyads], with_latents=True)
    for task in tasks:
        batches = Conversations(dyads, dyads, mixture=Mixture({task: 1.0}), vary=False, **data)
        loaders.append(DataLoader([batches[step, 0] for step in range(VALIDATION_BATCHES)], batch_size=None))
    return loaders


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
    sample: Annotated[
        Path | None, typer.Option(help="a recording to talk to after each validation, with both VAEs")
    ] = None,
    audio_vae: Annotated[Path, typer.Option(help="renders --sample")] = Path("runs/audio_vae/audio_vae"),
    video_vae: Annotated[Path, typer.Option(help="renders --sample")] = Path("runs/video_vae/video_vae"),
    precision: Annotated[str, typer.Option(help="Lightning's: 32-true or bf16-mixed")] = "bf16-mixed",
    devices: Annotated[int, typer.Option(help="processes (on a CPU) or GPUs; each draws its own batches")] = 1,
    num_nodes: Annotated[int, typer.Option(help="machines with so many devices each, started with torchrun")] = 1,
    strategy: Annotated[
        str, typer.Option(help="Lightning's, or fsdp2 to split weights over devices; default: ddp for several")
    ] = "auto",
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
    mixture = Mixture.parse(tasks) if tasks else settings["mixture"]
    is_sharded = strategy == "fsdp2"
    if is_sharded and stage == 3:
        raise typer.BadParameter("stage 3 holds a teacher beside its student; train it with --strategy auto")
    training = (ShardedDuplexTraining if is_sharded else DuplexTraining)(
        *(part.train() for part in parts),
        learning_rate or settings["learning_rate"],
        max_steps,
        audio_weight=AUDIO_WEIGHT,
        history_dropout=history_dropout,
        validation_names=tuple(mixture.tasks),
    )
    if stage == 3:
        training = PHASES[phase](
            parts[0],
            DuplexTraining(*load_parts(teacher or start_from), **training.hparams),
            learning_rate or settings["learning_rate"],
            max_steps,
            validation_names=tuple(mixture.tasks),
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
    batches = Conversations(language_dyads, media_dyads, mixture=mixture, seed=seed, **data)
    validation = validation_loaders(data, val_dyads, list(mixture.tasks)) if val_dyads else None
    if devices * num_nodes > 1 and strategy == "auto":
        strategy = "ddp_find_unused_parameters_true"  # language batches leave what denoises unused
    callbacks = [SampleConversations(run / "samples", sample, parts, tokenizer, audio_vae, video_vae)] if sample else []
    trainer = build_trainer(
        run, max_steps, validate_every if validation else None, callbacks, precision, devices, strategy, num_nodes, seed
    )
    fit(trainer, run, training, batches, validation)
    whole = [gather_weights(part) for part in parts]
    if not trainer.is_global_zero:
        return
    for name, part, weights in zip(("streamer", "audio_encoder", "video_encoder"), parts, whole, strict=True):
        part.save_pretrained(run / name, state_dict=weights)
    tokenizer.save_pretrained(run / "tokenizer")
    typer.echo(f"saved streamer, encoders and tokenizer in {run}")


if __name__ == "__main__":
    typer.run(main)
