"""Personas in the duplex world: who the agent is stands in the prompt, what it does in parentheses in its text.

Dyads are stored with every face and every voice (`prepare_personas.py`); a training window takes one of each, and has
them in its prompt as a reference picture and a voice sample. Behaviour is a word of the agent's text stream.
"""

from pathlib import Path

import numpy as np
import torch
from causal_vae import CausalAudioVAE
from safetensors.torch import load_file
from streamer_core import StreamerTokenizer
from streamer_pipeline import Persona
from streamer_pipeline.data.tasks import Source
from streamer_pipeline.data.windows import Row
from tokenizers import AddedToken
from torch import Tensor

from .clock import FRAMES_PER_UNIT, SAMPLES_PER_UNIT
from .conversations import PROMPTS, WorldConversations
from .dyad import Dyad
from .linear_video import EigenpictureVAE
from .motion import idle_motion
from .personas import PERSONAS
from .render import render_frames
from .tensors import to_video
from .training_tensors import TEXT_SLOTS, encode_dyad, spread

BEHAVIORS = ("nods", "waves")
REFERENCE_UNITS = 6  # about a second of voice
VAE_OPTIONS = {"latent_channels": 20, "grid": (8, 7)}


def with_behaviors(tokenizer: StreamerTokenizer) -> StreamerTokenizer:
    """The same tokenizer with a word for each behaviour, after all others."""
    tokenizer.add_tokens([AddedToken(f" ({name})", normalized=False) for name in BEHAVIORS])
    return tokenizer


def agent_clip(dyad: Dyad, persona: str, units: slice) -> Tensor:
    """(1, 3, T, H, W): some units of the agent with a persona's face."""
    frames = slice(FRAMES_PER_UNIT * units.start, FRAMES_PER_UNIT * units.stop)
    return to_video(render_frames(dyad.agent_motion, PERSONAS[persona].identity, frames=frames))[None]


@torch.inference_mode()
def encode_all_personas(
    dyad: Dyad, tokenizer: StreamerTokenizer, audio_vae: CausalAudioVAE, video_vae: EigenpictureVAE
) -> dict[str, Tensor]:
    """As `encode_dyad`, with the latents of every face and voice, behaviour among the words, and what was typed."""
    words = [list(spoken) for spoken in dyad.agent_words]
    for behavior in reversed(dyad.agent_behaviors):
        words[behavior.first_unit].insert(0, behavior.text)
    typed: list[list[str]] = [[] for _ in words]
    for directive in dyad.directives:
        typed[directive.first_unit].append(directive.text)
    tensors = encode_dyad(dyad, tokenizer) | {
        "text": spread(words, tokenizer, TEXT_SLOTS),
        "user_typed": spread(typed, tokenizer, 1),
    }
    for name, persona in PERSONAS.items():
        audio = torch.from_numpy(persona.voice(dyad.agent_audio))[None, None]
        tensors[f"{name}_audio_latents"] = audio_vae.encode(audio)[0].mean[0]
        pieces = [slice(first, min(first + 8, dyad.num_units)) for first in range(0, dyad.num_units, 8)]
        latents = [video_vae.encode(agent_clip(dyad, name, piece))[0].mean[0] for piece in pieces]
        tensors[f"{name}_video_latents"] = torch.cat(latents, dim=1)
    return {name: tensor.contiguous() for name, tensor in tensors.items()}


def persona_of(face: str, voice: str, audio: np.ndarray, seed: int) -> Persona:
    """A persona for a session: the face at some moment of idling, and the voice saying `audio` (N,)."""
    rng = np.random.default_rng([seed, 200])
    motion = idle_motion(50, rng)
    frame = int(rng.integers(50))
    picture = to_video(render_frames(motion, PERSONAS[face].identity, frames=slice(frame, frame + 1)))[:, 0]
    sample = np.zeros(REFERENCE_UNITS * SAMPLES_PER_UNIT, np.float32)
    spoken = PERSONAS[voice].voice(audio)[: len(sample)]
    sample[: len(spoken)] = spoken
    return Persona(PROMPTS["duplex"], picture, torch.from_numpy(sample)[None])


class PersonaDyads:
    """Stored dyads with one face and one voice."""

    def __init__(self, dyads: Source, face: str, voice: str) -> None:
        self.dyads, self.face, self.voice = dyads, face, voice

    def __len__(self) -> int:
        return len(self.dyads)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        dyad = self.dyads[index]
        kept = {name: tensor for name, tensor in dyad.items() if not name.endswith("latents")}
        if f"{self.face}_video_latents" in dyad:
            kept["video_latents"] = dyad[f"{self.face}_video_latents"]
            kept["audio_latents"] = dyad[f"{self.voice}_audio_latents"]
        return kept


class PersonaConversations(WorldConversations):
    """`WorldConversations` whose every window has a face and a voice of its own, and a reference of both in its prompt.

    Args:
        references: file of `prepare_personas.py` with "<persona>_audio" (N, C, R * n) and "<persona>_video"
            (N, C, R, h, w).
    """

    def __init__(self, *arguments, references: Path, **options) -> None:
        super().__init__(*arguments, **options)
        self.references = load_file(references)

    def window(self, row: Row, source: Source) -> dict[str, Tensor]:
        face, voice = (list(PERSONAS)[int(torch.randint(len(PERSONAS), ()))] for _ in range(2))
        window = super().window(row, PersonaDyads(source, face, voice))
        samples, pictures = self.references[f"{voice}_audio"], self.references[f"{face}_video"]
        return window | {
            "reference_audio": samples[torch.randint(len(samples), ())],
            "reference_video": pictures[torch.randint(len(pictures), ())],
        }
