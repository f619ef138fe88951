"""What a training step reads: both sides of some conversations, unit by unit."""

from __future__ import annotations

from typing import NamedTuple

from streamer_core import Reference, StreamerConfig, pack_audio, pack_video
from torch import Tensor


class DuplexBatch(NamedTuple):
    """Both sides of B conversations over K units; agent's unit k already answers user's unit k (DESIGN section 4).

    prompt_ids (B, P): the system prompt, which names the task; user_audio (B, 1, K * 3840); user_frames
    (B, 3, K * looks, h, w) at the video encoder's own rate and size; user_text (B, K, slots); state (B, K);
    agent_text (B, K, slots); valid (B, K): units that count. audio_latents (B, C, K * n) is None for language alone,
    video_latents (B, C, K, h, w) also while the picture is not trained. reference_audio (B, C, R * n) and
    reference_video (B, C, R, h, w): R units of how the agent sounds and looks, where the prompt holds them.
    video_valid (B, K): units of which the agent's picture was recorded; None is all. user_heard (B, K, slots): the
    user's words in the unit after they ended, where all conversations of the batch have them.
    """

    prompt_ids: Tensor
    user_audio: Tensor
    user_frames: Tensor
    user_text: Tensor
    state: Tensor
    agent_text: Tensor
    valid: Tensor
    audio_latents: Tensor | None = None
    video_latents: Tensor | None = None
    reference_audio: Tensor | None = None
    reference_video: Tensor | None = None
    video_valid: Tensor | None = None
    user_heard: Tensor | None = None

    def reference(self, config: StreamerConfig) -> Reference | None:
        """The rest of the prompt, packed, or None where it is words alone."""
        if self.reference_audio is None or self.reference_video is None:
            return None
        return Reference(pack_audio(self.reference_audio, config), pack_video(self.reference_video, config))
