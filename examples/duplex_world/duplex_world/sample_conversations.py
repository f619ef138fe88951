"""A Lightning callback that lets the agent talk to a recording while it is being trained, to be looked at and heard."""

from pathlib import Path

import torch
from causal_vae import CausalAudioVAE, CausalVideoVAE
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from streamer_core import FlowMatchScheduler, StreamerTokenizer
from streamer_pipeline import RecordingReader, RecordingWriter, StreamerPipeline, side_by_side
from torch import nn

from .conversations import PROMPTS


class SampleConversations(Callback):
    """After each validation, writes `<folder>/<step>.mp4`: the user of `recording`, and what the agent answers.

    Args:
        parts: streamer, audio encoder and video encoder, as they are being trained.
        recording: a file that PyAV opens, such as `make_demo_recording.py` writes.
    """

    def __init__(
        self,
        folder: Path,
        recording: Path,
        parts: tuple[nn.Module, nn.Module, nn.Module],
        tokenizer: StreamerTokenizer,
        audio_vae: Path,
        video_vae: Path,
    ) -> None:
        self.folder, self.recording, self.parts, self.tokenizer = folder, recording, parts, tokenizer
        self.audio_vae = CausalAudioVAE.from_pretrained(audio_vae)
        self.video_vae = CausalVideoVAE.from_pretrained(video_vae)
        folder.mkdir(parents=True, exist_ok=True)

    def on_validation_end(self, trainer: Trainer, module: LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        training = [part.training for part in self.parts]
        self._talk(self.folder / f"{trainer.global_step:06d}.mp4")
        for part, mode in zip(self.parts, training, strict=True):
            part.train(mode)

    def _talk(self, path: Path) -> None:
        streamer, audio_encoder, video_encoder = self.parts
        pipeline = StreamerPipeline(
            streamer=streamer,
            tokenizer=self.tokenizer,
            scheduler=FlowMatchScheduler(),
            audio_encoder=audio_encoder,
            video_encoder=video_encoder,
            audio_vae=self.audio_vae.to(streamer.device),
            video_vae=self.video_vae.to(streamer.device),
            prompt=PROMPTS["duplex"],
        )
        session, users = pipeline.open_session(), RecordingReader(self.recording)
        with torch.autocast(streamer.device.type, enabled=False):
            shots = (side_by_side(user, session.step(user)) for user in users)
            first = next(shots)
            with RecordingWriter(path, *first.video.shape[2:], num_channels=len(first.audio)) as writer:
                for shot in (first, *shots):
                    writer.write(shot)
