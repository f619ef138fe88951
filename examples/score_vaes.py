"""How much of the duplex world survives a checkpoint's VAEs: the ceiling of everything generated through them.

    python examples/score_vaes.py --checkpoint wan-streamer-tiny

Sound: phrases that an independent recogniser still understands. Picture: PSNR, and the share of what differs from the
mean picture that is kept (PSNR alone flatters a still scene), for the whole frame and for the mouth.
"""

from typing import Annotated

import numpy as np
import torch
import typer
from duplex_world.agent_voice import AgentVoice
from duplex_world.clock import UNIT_SAMPLES, units_for
from duplex_world.dyad import build_dyad
from duplex_world.face import mouth_box
from duplex_world.grammar import agent_jsgf
from duplex_world.render import render_frames
from duplex_world.speech_judge import SpeechJudge
from duplex_world.tensors import to_video
from streamer_pipeline import StreamerPipeline

TEST_SEEDS = 2_000_000


@torch.inference_mode()
def phrases_understood(pipeline: StreamerPipeline, voice: AgentVoice) -> tuple[int, int]:
    """(understood after coding, all) of the agent's phrases; the recogniser understands all of the originals."""
    judge, right = SpeechJudge(agent_jsgf()), 0
    for phrase in voice.phrases:
        wave = voice(phrase).wave
        padded = np.pad(wave, (0, (units_for(len(wave)) + 1) * UNIT_SAMPLES - len(wave)))
        coded, _ = pipeline.audio_vae(torch.from_numpy(padded)[None, None])
        right += judge(coded[0, 0].numpy()).text == phrase
    return right, len(voice.phrases)


@torch.inference_mode()
def picture_quality(pipeline: StreamerPipeline, voice: AgentVoice, scenarios: list[str]) -> dict[str, float]:
    """PSNR in dB and the kept share of the agent's motion, over 96 frames of a test dyad of each scenario."""
    vae = pipeline.video_vae
    top, left, bottom, right = mouth_box()
    errors: dict[str, list[float]] = {"all": [], "mouth": []}
    motions: dict[str, list[float]] = {"all": [], "mouth": []}
    for i, name in enumerate(scenarios):
        dyad = build_dyad(TEST_SEEDS + i, name, voice)
        frames = render_frames(dyad.agent_motion, dyad.agent_identity, frames=slice(0, 96))
        video = to_video(frames)[None]
        error = vae(video)[0] - video
        motion = video - vae.encoder.picture.mean
        for part, rows, columns in (
            ("all", slice(None), slice(None)),
            ("mouth", slice(top, bottom), slice(left, right)),
        ):
            errors[part].append(error[..., rows, columns].square().mean().item())
            motions[part].append(motion[..., rows, columns].square().mean().item())
    kept = {part: 1 - np.mean(errors[part]) / np.mean(motions[part]) for part in errors}
    return {"psnr": 10 * np.log10(4 / np.mean(errors["all"])), "kept": kept["all"], "kept_mouth": kept["mouth"]}


def main(
    checkpoint: Annotated[str, typer.Option(help="folder, hub id or bundled name")] = "wan-streamer-tiny",
    scenarios: Annotated[str, typer.Option(help="scenarios to draw")] = "greet color wave name count silence",
) -> None:
    pipeline, voice = StreamerPipeline.from_pretrained(checkpoint), AgentVoice()
    right, total = phrases_understood(pipeline, voice)
    typer.echo(f"sound: {right} of {total} phrases understood after the audio VAE")
    quality = picture_quality(pipeline, voice, scenarios.split())
    typer.echo(
        f"picture: PSNR {quality['psnr']:.1f} dB; {100 * quality['kept']:.0f} % of what moves is kept, "
        f"{100 * quality['kept_mouth']:.0f} % around the mouth"
    )


if __name__ == "__main__":
    typer.run(main)
