"""Teach a finished agent to write down what its user says, and change nothing else of it.

    python examples/train/prepare_dyads.py --natural-phrasings --out runs/heard/dyads --num-dyads 800 \\
        --tokenizer runs/wan-streamer-tiny/tokenizer
    python examples/train/teach_heard_words.py --dyads runs/heard/dyads --out runs/heard

A head on what the context pass computes anyway learns to say which words were heard. Ears, eyes and Transformer stay
as they are, so everything else that the agent does is the same, bit for bit, and they need to compute each batch only
once: the head then learns from what they gave, in many rounds. Writes `<out>/streamer`.
"""

from pathlib import Path
from typing import Annotated, NamedTuple

import torch
import torch.nn.functional as F
import typer
from duplex_world.hearing import EarTraining, Heard, WatchedDyads
from rich.progress import track
from streamer_core import StreamerModel
from streamer_pipeline import StreamerPipeline
from streamer_pipeline.data.tasks import Mixture
from torch import Tensor

ROWS = 2048  # units of a step


class Lessons(NamedTuple):
    """hidden (N, A, D): the user's audio tokens after the context pass. words (N, slots): the user's words by then."""

    hidden: Tensor
    words: Tensor


@torch.no_grad()
def computed(training: EarTraining, batches: Heard, num_batches: int) -> Lessons:
    """All units that count of some batches, as the frozen parts give them to the head."""
    found: list[Lessons] = []
    kept: list[Tensor] = []
    hook = training.streamer.heard_out.register_forward_pre_hook(lambda _, inputs: kept.append(inputs[0]))
    tokens = training.streamer.config.user_audio_tokens
    for step in track(range(num_batches), "listening"):
        batch = batches[step, 0]
        training.losses(batch)
        found.append(Lessons(kept.pop()[batch.valid].unflatten(-1, (tokens, -1)), batch.user_heard[batch.valid]))
    hook.remove()
    return Lessons(*map(torch.cat, zip(*found, strict=True)))


def loss(model: StreamerModel, lessons: Lessons) -> Tensor:
    """Cross-entropy of the user's words. Silence weighs as much as a word: a wrong caption is worse than none."""
    return F.cross_entropy(model.heard_logits(lessons.hidden).flatten(0, 1), lessons.words.flatten())


@torch.no_grad()
def right(model: StreamerModel, lessons: Lessons) -> tuple[float, float]:
    """Shares: of the words those that are written in their slot, of the silent slots those in which a word is."""
    heard, pad = model.heard_logits(lessons.hidden).argmax(-1), model.config.pad_token_id
    spoken = lessons.words != pad
    return float((heard == lessons.words)[spoken].float().mean()), float((heard != pad)[~spoken].float().mean())


def main(
    dyads: Annotated[Path, typer.Option(help="of prepare_dyads.py, with this checkpoint's tokenizer")],
    out: Annotated[Path, typer.Option(help="where the Transformer with its head goes")] = Path("runs/heard"),
    checkpoint: Annotated[str, typer.Option(help="the agent: folder, hub id or bundled name")] = "wan-streamer-tiny",
    val_dyads: Annotated[Path | None, typer.Option(help="of the validation split")] = None,
    num_batches: Annotated[int, typer.Option(help="of 8 windows, each heard by microphones of its own")] = 240,
    max_steps: Annotated[int, typer.Option(help="of the head")] = 2000,
    learning_rate: float = 3e-3,
    num_threads: int = 1,
) -> None:
    torch.set_num_threads(num_threads)
    torch.manual_seed(0)
    pipeline = StreamerPipeline.from_pretrained(checkpoint)
    model, ears, eyes = pipeline.streamer, pipeline.audio_encoder, pipeline.video_encoder
    for part in (model, ears, eyes):
        part.float().requires_grad_(False)
    model.add_heard_words()
    model.heard_out.requires_grad_(True)
    training = EarTraining(model, ears, eyes, learning_rate, max_steps)
    slots = {"response_delay": model.config.response_delay, "user_text_slots": model.config.user_text_slots}
    shape = {"num_units": 48, "batch_size": 4, "mixture": Mixture({"words": 1.0}), **slots}
    lessons = computed(training, Heard(WatchedDyads(dyads, eyes), pipeline.tokenizer, **shape), num_batches)
    unseen = None
    if val_dyads:
        heard = Heard(WatchedDyads(val_dyads, eyes), pipeline.tokenizer, vary=False, **shape)
        unseen = computed(training, heard, 8)
    mean, std = lessons.hidden.mean(0), lessons.hidden.std(0) + 1e-5  # of one size, features are learned equally fast
    lessons, unseen = (part and part._replace(hidden=(part.hidden - mean) / std) for part in (lessons, unseen))
    optimizer = torch.optim.AdamW(model.heard_out.parameters(), learning_rate, weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max_steps)
    for step in range(1, max_steps + 1):
        rows = torch.randint(len(lessons.hidden), (ROWS,))
        optimizer.zero_grad()
        loss(model, Lessons(lessons.hidden[rows], lessons.words[rows])).backward()
        optimizer.step()
        schedule.step()
        if step % (max_steps // 10 or 1) == 0:
            told = {"train": lessons} | ({"unseen": unseen} if unseen else {})
            shares = {name: "{:.1%} right, {:.1%} false".format(*right(model, each)) for name, each in told.items()}
            typer.echo(f"step {step}: " + "; ".join(f"{name} {text}" for name, text in shares.items()))
    with torch.no_grad():
        model.heard_out.weight.div_(std.flatten())
        model.heard_out.bias.sub_(model.heard_out.weight @ mean.flatten())
    model.save_pretrained(out / "streamer")
    typer.echo(f"saved {out / 'streamer'}")


if __name__ == "__main__":
    typer.run(main)
