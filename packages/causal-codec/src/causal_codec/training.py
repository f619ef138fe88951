"""Distilling a VAE's decoder into a small renderer with Lightning (extra `[train]`)."""

from __future__ import annotations

from typing import Any

import lightning
import torch
from causal_vae import CausalAudioVAE, CausalVideoVAE
from causal_vae.training import adamw_with_cosine
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn

from .decoders import CausalAudioDecoder, CausalVideoDecoder


class DecoderDistillation(lightning.LightningModule):
    """Teach `student` to render the latents of a frozen VAE, as its decoder does and as the recording was.

    Latents get gaussian noise of a random strength that the targets do not know of: at serving they are generated, a
    little off, and the renderer should bring them back. Batches are media alone: (B, 1, T) or (B, 3, T, H, W).

    Args:
        teacher: encodes the media and decodes what the student imitates; neither trained nor stored in checkpoints.
        reconstruction_loss: (reconstruction, target) -> named terms that are summed.
        max_noise: largest standard deviation of the noise, in units of the standardised latents.
    """

    hparams: Any

    def __init__(
        self,
        teacher: CausalAudioVAE | CausalVideoVAE,
        student: CausalAudioDecoder | CausalVideoDecoder,
        reconstruction_loss: nn.Module,
        learning_rate: float,
        max_steps: int,
        max_noise: float = 0.15,
    ) -> None:
        super().__init__()
        # In a tuple, torch does not take the teacher for a part of this module: no optimizer, no checkpoint.
        self._frozen = (teacher.eval().requires_grad_(False),)
        self.student, self.reconstruction_loss = student, reconstruction_loss
        self.save_hyperparameters(ignore=["teacher", "student", "reconstruction_loss"])

    @property
    def teacher(self) -> CausalAudioVAE | CausalVideoVAE:
        return self._frozen[0]

    def on_fit_start(self) -> None:
        self.teacher.to(self.device)

    def training_step(self, media: Tensor, batch_index: int) -> Tensor:
        with torch.no_grad():
            posterior, _ = self.teacher.encode(media)
            latents = posterior.sample(torch.randn_like(posterior.mean))
            target, _ = self.teacher.decode(latents)
            strength = self.hparams.max_noise * torch.rand(len(media), *[1] * (latents.dim() - 1), device=media.device)
            noisy = latents + strength * torch.randn_like(latents)
        rendered, _ = self.student(noisy)
        terms = self._terms(rendered, target, media)
        loss = torch.stack(list(terms.values())).sum()
        self.log_dict({f"train/{name}": term for name, term in terms.items()})
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def validation_step(self, media: Tensor, batch_index: int) -> Tensor:
        """Logs the terms and both decoders' PSNR from the posterior's mode; returns the student's rendering."""
        latents = self.teacher.encode(media)[0].mode()
        rendered, target = self.student(latents)[0], self.teacher.decode(latents)[0]
        terms = {f"val/{name}": term for name, term in self._terms(rendered, target, media).items()}
        psnr = {"val/psnr": rendered, "val/psnr_teacher": target}
        self.log_dict(terms | {name: 10 * torch.log10(4 / (y - media).square().mean()) for name, y in psnr.items()})
        return rendered

    def _terms(self, rendered: Tensor, target: Tensor, media: Tensor) -> dict[str, Tensor]:
        to_teacher, to_media = (self.reconstruction_loss(rendered, goal) for goal in (target, media))
        return {f"teacher_{name}": term for name, term in to_teacher.items()} | to_media

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        return adamw_with_cosine(self.student.parameters(), self.hparams.learning_rate, self.hparams.max_steps)
