"""Start from what is public: Qwen3, Wan's video VAE, Mimi, Voxtral Realtime and SigLIP 2 as one `StreamerPipeline`.

    python examples/swap/bootstrap_from_public_weights.py --out runs/bootstrap            # small random stand-ins

    python examples/swap/bootstrap_from_public_weights.py --out runs/bootstrap --height 192 --width 336 \\
        --qwen3 Qwen/Qwen3-0.6B --wan-vae Wan-AI/Wan2.1-T2V-1.3B-Diffusers --mimi kyutai/mimi \\
        --voxtral mistralai/Voxtral-Mini-4B-Realtime-2602 --siglip2 google/siglip2-base-patch16-naflex

A part whose id is not given is a stand-in: a small model of the same public class with random weights, saved in its own
format and loaded the same way. The pipeline speaks Qwen3's language at once and exactly (`streamer.text_forward`); to
hear, see and answer it must be trained, because the layers between the parts are new. The table says which.

Weights are downloaded by their own libraries and never shipped with this project. Their licences, which travel with
what is saved here: Qwen3, Wan 2.1 and 2.2, Voxtral Realtime and SigLIP 2 are Apache-2.0, Mimi is CC BY 4.0.
"""

from pathlib import Path
from typing import Annotated

import typer
from causal_codec import SiglipVideoEncoder, VoxtralAudioEncoder
from causal_vae import MimiAudioVAE, WanVideoVAE
from duplex_world.public_stand_ins import STAND_INS
from rich.console import Console
from rich.table import Table
from streamer_core import FlowMatchScheduler, StreamerModel, StreamerTokenizer
from streamer_pipeline import StreamerPipeline
from streamer_pipeline.checks.fit import streamer_fields
from torch import nn
from transformers import AutoTokenizer, logging

PARTS = {"streamer": "qwen3", "video_vae": "wan_vae", "audio_vae": "mimi"}
PARTS |= {"audio_encoder": "voxtral", "video_encoder": "siglip2"}
NEW_IN_AN_ENCODER = ("project.", "norm.")
KEPT_FROM_QWEN3 = ("model.", "lm_head.")


def smallest_patch(side: int) -> int:
    """Latent cells packed into one token along a side: the smallest number above 1 that divides it."""
    return next(size for size in range(2, side + 1) if side % size == 0)


def assemble(sources: dict[str, str], size: tuple[int, int], width: int, train_senses: bool) -> StreamerPipeline:
    """The pipeline of the parts in `sources`: what is public is frozen, but for the Transformer and `train_senses`."""
    tokenizer = StreamerTokenizer.extend(AutoTokenizer.from_pretrained(sources["qwen3"]))
    # The hub's Wan repositories hold a whole diffusers pipeline, the VAE in a folder of its own.
    is_folder = (Path(sources["wan_vae"]) / "config.json").is_file()
    video_vae = WanVideoVAE.from_pretrained(sources["wan_vae"], **({} if is_folder else {"subfolder": "vae"}))
    audio_vae = MimiAudioVAE.from_pretrained(sources["mimi"])
    ears = VoxtralAudioEncoder.from_voxtral(sources["voxtral"], output_dim=width)
    eyes = SiglipVideoEncoder.from_siglip2(
        sources["siglip2"], output_dim=width, image_height=size[0], image_width=size[1]
    )
    parts = {"audio_encoder": ears, "video_encoder": eyes, "audio_vae": audio_vae, "video_vae": video_vae}
    fields = streamer_fields(parts, *size)
    fields |= {f"video_patch_{side}": smallest_patch(fields[f"video_latent_{side}"]) for side in ("height", "width")}
    slots = {"user_text_slots": 4, "agent_text_slots": 4, "audio_patch_size": 1}
    streamer = StreamerModel.from_qwen3(sources["qwen3"], tokenizer, dtype="float32", **fields, **slots)
    for part in (audio_vae, video_vae):
        part.requires_grad_(False)
    for sense in (ears, eyes):
        sense.tower.requires_grad_(train_senses)
    return StreamerPipeline(streamer=streamer, tokenizer=tokenizer, scheduler=FlowMatchScheduler(), **parts)


def count(part: nn.Module, name: str) -> tuple[int, int, int]:
    """(all, new, trained) parameters of a part."""

    def is_new(weight: str) -> bool:
        if name == "streamer":
            return not weight.startswith(KEPT_FROM_QWEN3)
        return name.endswith("encoder") and weight.startswith(NEW_IN_AN_ENCODER)

    weights = dict(part.named_parameters())
    new = sum(weight.numel() for key, weight in weights.items() if is_new(key))
    trained = sum(weight.numel() for weight in weights.values() if weight.requires_grad)
    return sum(weight.numel() for weight in weights.values()), new, trained


def report(pipeline: StreamerPipeline, given: dict[str, str | None], size: tuple[int, int], console: Console) -> None:
    table = Table("part", "class", "from", "parameters", "new", "trained")
    totals = [0, 0, 0]
    for name, source in PARTS.items():
        part = getattr(pipeline, name)
        numbers = count(part, name)
        totals = [total + number for total, number in zip(totals, numbers, strict=True)]
        table.add_row(name, type(part).__name__, given[source] or "stand-in", *(f"{number:,}" for number in numbers))
    table.add_row("all", "", "", *(f"{total:,}" for total in totals))
    console.print(table)
    layout = pipeline.streamer.layout
    counts = ", ".join(f"{name} {number}" for name, number in layout.counts.items())
    console.print(f"tokens per unit of 160 ms: {layout.num_tokens} ({counts})")
    held, history = pipeline.session_nbytes(height=size[0], width=size[1]), 2 * pipeline.cache_spec().nbytes()
    console.print(f"bytes per session: {held:,} ({history:,} of history; the rest are states of encoders and decoders)")


def main(
    out: Annotated[Path, typer.Option(help="folder of the new pipeline")] = Path("runs/bootstrap"),
    qwen3: Annotated[str | None, typer.Option(help="Qwen3ForCausalLM, any dense size: folder or hub id")] = None,
    wan_vae: Annotated[str | None, typer.Option(help="AutoencoderKLWan: folder, or hub id of a Wan pipeline")] = None,
    mimi: Annotated[str | None, typer.Option(help="MimiModel")] = None,
    voxtral: Annotated[str | None, typer.Option(help="VoxtralRealtimeForConditionalGeneration or its encoder")] = None,
    siglip2: Annotated[str | None, typer.Option(help="Siglip2Model (NaFlex) or its vision tower")] = None,
    height: Annotated[int, typer.Option(help="pixels of the agent's picture; a multiple of 48")] = 48,
    width: Annotated[int, typer.Option(help="pixels of the agent's picture; a multiple of 48")] = 96,
    perception_dim: Annotated[int, typer.Option(help="width of perception tokens")] = 128,
    train_senses: Annotated[bool, typer.Option(help="train the towers of the encoders, too")] = False,
) -> None:
    logging.set_verbosity_error()  # the table says what is new, in place of one report per part
    given = {"qwen3": qwen3, "wan_vae": wan_vae, "mimi": mimi, "voxtral": voxtral, "siglip2": siglip2}
    sources = {name: source or str(STAND_INS[name](out / "stand_ins" / name)) for name, source in given.items()}
    pipeline = assemble(sources, (height, width), perception_dim, train_senses)
    pipeline.save_pretrained(out / "pipeline")
    console = Console()
    report(pipeline, given, (height, width), console)
    console.print(f"saved to {out / 'pipeline'}")


if __name__ == "__main__":
    typer.run(main)
