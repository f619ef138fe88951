"""Which face, which voice and which behaviour, judged from pixels and sound alone."""

import numpy as np
import torch
import torchaudio
from torch import Tensor

from .clock import SAMPLE_RATE
from .face import NEUTRAL, face_box
from .personas import PERSONAS
from .render import render_frames
from .tensors import to_video

HAND_BOX = slice(60, 192), slice(230, 330)  # rows and columns of 192x336 that the agent's hand comes up in
NOD_ROWS = 2.5  # rows that eyes and mouth go down in a nod; idle life moves them more slowly
NOD_SHIFTS = range(-8, 9)
NOD_FRAMES = 12
VOICED = 0.01  # of the loudest piece's power: what is below is not the voice
AUDIBLE = 0.02  # amplitude


class PersonaJudge:
    """Which face, which voice, which behaviour: from pixels and sound."""

    def __init__(self) -> None:
        still = {name: np.full(1, value) for name, value in NEUTRAL.items()}
        self.faces = {name: to_video(render_frames(still, p.identity))[:, 0] for name, p in PERSONAS.items()}
        raised = still | {"hand": np.ones(1)}
        hands = {name: to_video(render_frames(raised, p.identity))[:, 0] for name, p in PERSONAS.items()}
        self.hand_level = {name: 0.5 * self._hand(hands[name], name) for name in PERSONAS}

    def face(self, frames: Tensor) -> str:
        """The persona whose resting picture is nearest to the mean of frames (3, T, H, W)."""
        return min(self.faces, key=lambda name: float((frames.mean(1) - self.faces[name]).abs().mean()))

    def voice(self, audio: np.ndarray, spoken: np.ndarray) -> str | None:
        """The persona in whose voice `spoken` has the spectrum nearest to `audio`'s; None where nothing is said."""
        found = spectrum(audio)
        if found is None:
            return None
        return min(PERSONAS, key=lambda name: float((found - spectrum(PERSONAS[name].voice(spoken))).abs().mean()))

    def waves(self, frames: Tensor, face: str) -> np.ndarray:
        """(T,) whether the hand is up, with at least half of what a drawn hand changes."""
        levels = [self._hand(frames[:, index], face) for index in range(frames.shape[1])]
        return np.array(levels) > self.hand_level[face]

    def nods(self, frames: Tensor, face: str) -> np.ndarray:
        """(T,) whether eyes and mouth have gone down since half a second ago by the rows of a nod."""
        top, left, bottom, right = face_box()
        crop = frames.mean(0)[:, top:bottom, left:right]
        down = np.zeros(len(crop))
        for index in range(len(crop)):
            before = crop[max(0, index - NOD_FRAMES // 2)]
            down[index] = best_shift(before, crop[index])
        return down >= NOD_ROWS

    def _hand(self, frame: Tensor, face: str) -> float:
        return float((frame - self.faces[face])[:, *HAND_BOX].abs().mean())


def best_shift(before: Tensor, after: Tensor) -> float:
    """Rows by which `before` (h, w) is best moved down to give `after`."""
    inner = slice(NOD_SHIFTS.stop, -NOD_SHIFTS.stop)
    errors = {shift: float((before.roll(shift, 0) - after)[inner].square().mean()) for shift in NOD_SHIFTS}
    return min(errors, key=errors.get)


def spectrum(audio: np.ndarray) -> Tensor | None:
    """Long-term average spectrum in dB over (64,) mel bands of what is said in (N,), its level removed, or None."""
    if np.abs(audio).max(initial=0.0) < AUDIBLE:
        return None
    mel = torchaudio.transforms.MelSpectrogram(SAMPLE_RATE, n_fft=1024, hop_length=480, n_mels=64)
    power = mel(torch.from_numpy(audio))
    voiced = power[:, power.sum(0) > VOICED * power.sum(0).max()]
    level = 10 * torch.log10(voiced.mean(1) + 1e-9)
    return level - level.mean()
