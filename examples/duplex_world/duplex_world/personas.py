"""Who the agent can be: two faces and two voices, in every combination."""

from dataclasses import dataclass, replace

import numpy as np
import torch
import torchaudio.functional

from .clock import SAMPLE_RATE
from .face import AGENT, Identity


@dataclass(frozen=True)
class Persona:
    """A face, and a voice: the agent's one voice, moved by `semitones`; whatever it says keeps its timing."""

    identity: Identity
    semitones: int

    def voice(self, audio: np.ndarray) -> np.ndarray:
        """What the agent says, `(num_samples,)` at 24 kHz, in this voice."""
        if not self.semitones:
            return audio
        return torchaudio.functional.pitch_shift(torch.from_numpy(audio), SAMPLE_RATE, self.semitones).numpy()


PERSONAS = {
    "ada": Persona(AGENT, 0),
    "ben": Persona(
        replace(
            AGENT,
            name="ben",
            hair=(200, 160, 90),
            hair_style="short",
            shirt=(150, 60, 60),
            background=(120, 150, 120),
            lips=(170, 84, 84),
        ),
        -4,
    ),
}
