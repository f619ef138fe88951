"""Teach a trained streamer personas: who it is, from its prompt, and behaviour in its own text (third report).

    python examples/train/train_personas.py --start-from runs/stage2 --personas runs/personas \\
        --val-personas runs/personas_val

Takes the Transformer and its senses from a run of `train_streamer.py`, the video latents and two more words from
`prepare_personas.py`. Run it again with the same `--run` to continue. Writes a pipeline folder, `<run>/pipeline`, which
`score_personas.py` scores.
"""

from pathlib import Path
from typing import Annotated

import torch
import typer
from causal_codec import CausalAudioDecoder
from causal_vae import CausalAudioVAE
from causal_vae.training import build_trainer, fit
from duplex_world.conversations import PROMPTS, Dyads
from duplex_world.linear_video import EigenpictureVAE
from duplex_world.persona_dyads import PersonaConversations
from duplex_world.stages import AUDIO_WEIGHT, SIZES, VALIDATION_BATCHES, load_parts
from streamer_core import FlowMatchScheduler, StreamerTokenizer, with_video_latents
from streamer_pipeline import StreamerPipeline
from streamer_pipeline.data.tasks import Mixture
from streamer_pipeline.training.modules import DuplexTraining
from torch.utils.data import DataLoader

VIDEO_WEIGHT = 4.0  # a hand that comes up is a small part of few pictures
HISTORY_DROPOUT = 0.3  # else a voice is learned from what was said before it and a gesture from its own beginning
MIXTURE = Mixture({"words": 0.2, "duplex": 0.8})


def main(
    start_from: Annotated[Path, typer.Option(help="run of train_streamer.py, stage 2")] = Path("runs/stage2"),
    personas: Annotated[Path, typer.Option(help="folder of prepare_personas.py")] = Path("runs/personas"),
    val_personas: Annotated[Path | None, typer.Option(help="the same, of the validation split")] = None,
    run: Annotated[Path, typer.Option(help="folder of this run")] = Path("runs/personas_run"),
    audio_vae: Path = Path("runs/audio_vae/audio_vae"),
    audio_decoder: Annotated[Path | None, typer.Option(help="without it the VAE renders")] = None,
    size: Annotated[str, typer.Option(help=" | ".join(SIZES))] = "tiny",
    max_steps: int = 1500,
    learning_rate: float = 1e-3,
    validate_every: int = 250,
    num_inference_steps: Annotated[int, typer.Option(help="solver steps per unit of the pipeline")] = 8,
    precision: Annotated[str, typer.Option(help="Lightning's: 32-true or bf16-mixed")] = "bf16-mixed",
    num_threads: int = 1,
) -> None:
    torch.set_num_threads(num_threads)
    tokenizer = StreamerTokenizer.from_pretrained(personas / "tokenizer")
    video_vae = EigenpictureVAE.from_pretrained(personas / "video_vae")
    streamer, audio_encoder, video_encoder = load_parts(start_from)
    streamer = with_video_latents(streamer, video_vae.config.latent_channels, *video_vae.config.grid)
    streamer.resize_token_embeddings(len(tokenizer))
    training = DuplexTraining(
        *(part.train() for part in (streamer, audio_encoder, video_encoder)),
        learning_rate,
        max_steps,
        audio_weight=AUDIO_WEIGHT,
        video_weight=VIDEO_WEIGHT,
        history_dropout=HISTORY_DROPOUT,
        validation_names=tuple(MIXTURE.weights),
    )
    data = {
        "tokenizer": tokenizer,
        "num_units": SIZES[size]["num_units"],
        "batch_size": SIZES[size]["batch_size"],
        "response_delay": streamer.config.response_delay,
        "user_text_slots": streamer.config.user_text_slots,
        "references": personas / "references.safetensors",
    }
    dyads = Dyads([personas], with_latents=True)
    conversations = PersonaConversations(dyads, dyads, mixture=MIXTURE, **data)
    validation = None
    if val_personas:
        unseen = Dyads([val_personas], with_latents=True)
        validation = []
        for task in MIXTURE.weights:
            batches = PersonaConversations(unseen, unseen, mixture=Mixture({task: 1.0}), vary=False, **data)
            validation.append(DataLoader([batches[step, 0] for step in range(VALIDATION_BATCHES)], batch_size=None))
    trainer = build_trainer(run, max_steps, validate_every if validation else None, precision=precision)
    fit(trainer, run, training, conversations, validation)
    pipeline = StreamerPipeline(
        streamer=streamer,
        tokenizer=tokenizer,
        scheduler=FlowMatchScheduler(),
        audio_encoder=audio_encoder,
        video_encoder=video_encoder,
        audio_vae=CausalAudioVAE.from_pretrained(audio_vae),
        video_vae=video_vae,
        audio_decoder=audio_decoder and CausalAudioDecoder.from_pretrained(audio_decoder),
        prompt=PROMPTS["duplex"],
        num_inference_steps=num_inference_steps,
    )
    pipeline.save_pretrained(run / "pipeline")
    typer.echo(f"saved {run / 'pipeline'}")


if __name__ == "__main__":
    typer.run(main)
