"""Put trained parts together as a pipeline folder, in half precision.

    python examples/train/assemble_checkpoint.py --out runs/wan-streamer-tiny

With `--out` set to the package's own checkpoint folder, this is how the bundled checkpoint was made.
"""

import shutil
from pathlib import Path
from typing import Annotated

import torch
import typer
from causal_codec import CausalAudioDecoder, CausalVideoDecoder, CausalVideoEncoder
from causal_vae import CausalAudioVAE, CausalVideoVAE
from duplex_world.conversations import PROMPTS
from streamer_core import FlowMatchScheduler, StreamerModel, StreamerTokenizer
from streamer_pipeline import StreamerPipeline
from transformers import AutoModel


def main(
    out: Annotated[Path, typer.Option(help="folder of the new pipeline")] = Path("runs/wan-streamer-tiny"),
    streamer_run: Annotated[Path, typer.Option(help="run of train_streamer.py")] = Path("runs/streamer"),
    audio_vae: Path = Path("runs/audio_vae/audio_vae"),
    video_vae: Path = Path("runs/video_vae/video_vae"),
    audio_decoder: Annotated[Path | None, typer.Option(help="without it the VAE renders")] = None,
    video_decoder: Annotated[Path | None, typer.Option(help="without it the VAE renders")] = None,
    num_inference_steps: Annotated[int, typer.Option(help="solver steps per unit")] = 4,
    card: Annotated[Path | None, typer.Option(help="a model card to put beside the weights")] = None,
) -> None:
    pipeline = StreamerPipeline(
        streamer=StreamerModel.from_pretrained(streamer_run / "streamer"),
        tokenizer=StreamerTokenizer.from_pretrained(streamer_run / "tokenizer"),
        scheduler=FlowMatchScheduler(),
        audio_encoder=AutoModel.from_pretrained(streamer_run / "audio_encoder"),
        video_encoder=CausalVideoEncoder.from_pretrained(streamer_run / "video_encoder"),
        audio_vae=CausalAudioVAE.from_pretrained(audio_vae),
        video_vae=CausalVideoVAE.from_pretrained(video_vae),
        audio_decoder=audio_decoder and CausalAudioDecoder.from_pretrained(audio_decoder),
        video_decoder=video_decoder and CausalVideoDecoder.from_pretrained(video_decoder),
        prompt=PROMPTS["duplex"],
        num_inference_steps=num_inference_steps,
    )
    if out.exists():
        shutil.rmtree(out)
    pipeline.to(torch.float16).save_pretrained(out)
    if card is not None:
        shutil.copy(card, out / "README.md")
    size = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
    typer.echo(f"{out}: {size / 2**20:.1f} MiB")


if __name__ == "__main__":
    typer.run(main)
