"""Lightning callbacks that show what a VAE or a decoder makes of held-out media, to be looked at."""

from pathlib import Path

import matplotlib.pyplot as plt
import torch
from lightning.pytorch.callbacks import Callback
from PIL import Image


class Spectrograms(Callback):
    """Draws input over reconstruction after each validation."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_validation_batch_end(self, trainer, module, reconstruction, media, batch_index, dataloader_index=0) -> None:
        figure, axes = plt.subplots(2, 1, figsize=(12, 6), sharex=True)
        for axis, wave, title in zip(axes, (media, reconstruction), ("recording", "through the VAE"), strict=True):
            axis.specgram(wave[:, 0].flatten().float().numpy() + 1e-6, NFFT=720, Fs=24000, noverlap=480, vmin=-160)
            axis.set_title(title)
        figure.savefig(self.folder / f"spectrogram-{trainer.global_step:06d}.png")
        plt.close(figure)


class Pictures(Callback):
    """Writes frames over their reconstructions after each validation."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_validation_batch_end(self, trainer, module, reconstruction, media, batch_index, dataloader_index=0) -> None:
        rows = [torch.cat(list(video[:4, :, -2]), dim=2) for video in (media, reconstruction)]
        pixels = (torch.cat(rows, dim=1).clamp(-1, 1) + 1) * 127.5
        picture = pixels.byte().permute(1, 2, 0).numpy()
        Image.fromarray(picture).save(self.folder / f"reconstruction-{trainer.global_step:06d}.png")
