"""Replace one part of a checkpoint at a time, score every variant on a few dyads, lay the score cards side by side.

    python examples/duplex_world/build_world.py --split test --num-dyads 18 --dyads-per-shard 18 --out runs/world
    python examples/swap/swap_parts.py --dataset runs/world --out runs/swaps

Writes a card per variant, `comparison.md` and `comparison.png`; `wan-streamer compare` does the same with any cards.
The page packages/streamer-pipeline/SWAPPING.md explains the four swaps.
"""

from itertools import islice
from pathlib import Path
from typing import Annotated

import torch
import typer
from causal_vae import CausalVideoVAE
from duplex_world.latent_adapters import train_adapters
from duplex_world.linear_video import EigenpictureVAE, LinearVideoDecoder
from duplex_world.media_batches import agent_clips
from duplex_world.scoring import WorldRows
from rich.console import Console
from streamer_core import FlowMatchScheduler, StreamerModel, UniPCFlowScheduler, with_video_latents
from streamer_core.scheduler import SchedulerMixin
from streamer_pipeline import StreamerPipeline, bundled_checkpoint, read_dataset_info, read_dyads
from streamer_pipeline.evaluation.comparison import comparison_table, read_cards, write_comparison
from streamer_pipeline.evaluation.evaluator import Evaluator, Options
from streamer_pipeline.evaluation.report import write_json
from torch import Tensor

console = Console()


# ---- the four swaps ----


def another_decoder(checkpoint: Path, clips: list[Tensor]) -> StreamerPipeline:
    """(a) The video decoder: a stranger's, fitted to the latents that the streamer speaks already."""
    vae = CausalVideoVAE.from_pretrained(checkpoint / "video_vae")
    with torch.inference_mode():
        examples = [(vae.encode(clip)[0].mean, clip) for clip in clips]
    _, channels, _, *grid = examples[0][0].shape
    decoder = LinearVideoDecoder(channels, tuple(grid), tuple(clips[0].shape[3:])).fit(examples)
    return StreamerPipeline.from_pretrained(checkpoint, video_decoder=decoder)


def another_cache(checkpoint: Path, context_window: int | None, response_window: int | None) -> StreamerPipeline:
    """(b) The cache policy: how many past units stay visible; None is all of them."""
    windows = {"context_window": context_window, "response_window": response_window}
    streamer = StreamerModel.from_pretrained(checkpoint / "streamer", dtype=torch.float32, **windows)
    return StreamerPipeline.from_pretrained(checkpoint, streamer=streamer)


def another_solver(checkpoint: Path, solver: SchedulerMixin, num_steps: int) -> StreamerPipeline:
    """(c) The solver and its steps; anything with `solve(velocity, noise, num_steps)` will do."""
    return StreamerPipeline.from_pretrained(checkpoint, scheduler=solver, num_inference_steps=num_steps)


def another_vae(checkpoint: Path, clips: list[Tensor], num_dyads: int, num_steps: int) -> StreamerPipeline:
    """(d) The whole video VAE, with latents of another size: only the layers that take and give them are trained."""
    vae = EigenpictureVAE(latent_channels=12, grid=(8, 7), picture_size=tuple(clips[0].shape[3:])).fit(clips)
    streamer = StreamerModel.from_pretrained(checkpoint / "streamer", dtype=torch.float32)
    streamer = with_video_latents(streamer, vae.config.latent_channels, *vae.config.grid)
    pipeline = StreamerPipeline.from_pretrained(checkpoint, streamer=streamer, video_vae=vae, video_decoder=None)
    train_adapters(pipeline, num_dyads, num_steps)
    return pipeline


# ---- scoring ----


def score(pipeline: StreamerPipeline, dataset: Path, num_dyads: int, card: Path) -> Path:
    """The card of a pipeline on the first dyads of a data set, and of the recordings through its VAEs."""
    options, info = Options(per_scenario=num_dyads), read_dataset_info(dataset)
    evaluator = Evaluator(lambda: islice(read_dyads(dataset), num_dyads), info, options, console, WorldRows(info))
    evaluator.agent(pipeline)
    evaluator.ceiling(pipeline)
    write_json(evaluator.finish(), card)
    return card


def main(
    checkpoint: Annotated[Path | None, typer.Option(help="folder; default the bundled checkpoint")] = None,
    dataset: Annotated[Path, typer.Option(help="folder of stored dyads")] = Path("runs/world"),
    num_dyads: Annotated[int, typer.Option(help="dyads that every variant is scored on")] = 4,
    num_clips: Annotated[int, typer.Option(help="of the agent, that the linear parts are fitted to")] = 48,
    adapter_dyads: Annotated[int, typer.Option(help="dyads that the adapters of new latents are trained on")] = 24,
    adapter_steps: Annotated[int, typer.Option(help="steps of that training")] = 150,
    only: Annotated[
        list[str] | None, typer.Option(help="variants; default all, besides the checkpoint as it is")
    ] = None,
    out: Annotated[Path, typer.Option(help="folder for cards and comparison")] = Path("runs/swaps"),
    num_threads: int = 1,
) -> None:
    torch.set_num_threads(num_threads)
    torch.manual_seed(0)
    out.mkdir(parents=True, exist_ok=True)
    folder = checkpoint or bundled_checkpoint()
    clips = agent_clips(num_clips, (192, 336))
    variants = {
        "as-it-is": lambda: StreamerPipeline.from_pretrained(folder),
        "linear-decoder": lambda: another_decoder(folder, clips),
        "short-history": lambda: another_cache(folder, context_window=10, response_window=2),
        "full-history": lambda: another_cache(folder, context_window=None, response_window=None),
        "euler-1": lambda: another_solver(folder, FlowMatchScheduler(), num_steps=1),
        "unipc-4": lambda: another_solver(folder, UniPCFlowScheduler(), num_steps=4),
        "eigenpicture-vae": lambda: another_vae(folder, clips, adapter_dyads, adapter_steps),
    }
    if unknown := set(only or []) - set(variants):
        raise typer.BadParameter(f"no variant {', '.join(sorted(unknown))}; there are {', '.join(variants)}")
    chosen = ["as-it-is", *(name for name in variants if name != "as-it-is" and (not only or name in only))]
    cards = [score(variants[name](), dataset, num_dyads, out / f"{name}.json") for name in chosen]
    compared = read_cards(cards)
    console.print(comparison_table(compared))
    console.print("written to", *write_comparison(compared, out))


if __name__ == "__main__":
    typer.run(main)
