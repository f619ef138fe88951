"""What training minimises: cross-entropy of the words, joint flow matching of sound and picture (report, eq. 3).

Shape legend: B session, K units, N noisy copies.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .config import StreamerConfig
from .model import StreamerOutput, UnitStreams
from .scheduler import FlowMatchScheduler


@dataclass(frozen=True)
class WeightedMean:
    """A mean that is not divided yet, so that it can be taken over several batches or processes.

    total: () the sum of values times weights; weight: () the sum of weights.
    """

    total: Tensor
    weight: Tensor

    @classmethod
    def of(cls, values: Tensor, weights: Tensor) -> WeightedMean:
        """Of `values`, with weights (or booleans: what counts) that expand to their shape."""
        weights = weights.float().expand_as(values)
        return cls((values * weights).sum(), weights.sum())

    def scaled(self, factor: float) -> WeightedMean:
        return WeightedMean(factor * self.total, self.weight)

    def mean(self) -> Tensor:
        """Zero where nothing counts."""
        return self.total / self.weight.clamp(min=1e-6)


def streamer_loss(
    output: StreamerOutput,
    streams: UnitStreams,
    noise_audio: Tensor | None = None,
    noise_video: Tensor | None = None,
    sigma: Tensor | None = None,
    *,
    config: StreamerConfig,
    audio_weight: float = 1.0,
    video_weight: float = 1.0,
    pad_weight: float = 0.5,
    sample_weighting: bool = True,
    valid: Tensor | None = None,
    video_sigma: Tensor | None = None,
    video_valid: Tensor | None = None,
    heard: Tensor | None = None,
    heard_weight: float = 1.0,
) -> dict[str, WeightedMean]:
    """The report's losses: text cross-entropy and joint flow matching (eq. 3), as named terms; sum their means.

    How much counts differs from batch to batch. Processes that train together must divide by the weight of all of
    them, as `streamer_pipeline.training.modules` does.

    Args:
        config: the model's. It says which slots are silent, and the `min_sigma` below which no error weighs less.
        noise_audio, noise_video: (B, N, K, tokens, dim), the eps that made the noisy copies; None for language alone.
        pad_weight: weight of silent text slots relative to words (silence is most of a conversation).
        sample_weighting: weigh the velocity error by sigma^2, which is the error of the predicted sample.
        valid: (B, K) boolean, units that count; default all.
        video_sigma: (B, N, K), the picture's own noise level where it differs from the sound's.
        video_valid: (B, K) boolean, units that have a picture; default all. Of the others it has no error.
        heard: ids (B, K, text slots) of the user's words, for a model that writes them down; None where unknown.

    Raises:
        ValueError: the output has velocities, but `streams`, noise or sigma to compare them with is missing.
    """
    assert config.pad_token_id is not None  # the config refuses None
    valid = torch.ones(streams.state.shape, device=streams.state.device) if valid is None else valid.float()
    written = {"text": (output.logits, torch.cat([streams.state[..., None], streams.agent_text], dim=-1), 1.0)}
    if output.heard_logits is not None and heard is not None:
        written["heard"] = output.heard_logits, heard, heard_weight
    terms: dict[str, WeightedMean] = {}
    for name, (logits, targets, factor) in written.items():
        entropy = F.cross_entropy(logits.flatten(0, 2), targets.flatten(), reduction="none").view_as(targets)
        weight = torch.where(targets == config.pad_token_id, pad_weight, 1.0) * valid[..., None]
        terms[name] = WeightedMean.of(entropy, weight).scaled(factor)
    if output.audio_velocity is None:
        return terms
    video_sigma = sigma if video_sigma is None else video_sigma
    modalities = (
        ("audio", audio_weight, output.audio_velocity, streams.audio, noise_audio, sigma),
        ("video", video_weight, output.video_velocity, streams.video, noise_video, video_sigma),
    )
    for name, factor, velocity, clean, noise, level in modalities:
        if velocity is None or clean is None or noise is None or level is None:
            raise ValueError(f"the loss of {name} takes clean {name}, the noise that was added to it, and sigma")
        error = (velocity - FlowMatchScheduler.velocity_target(clean[:, None], noise)).square().mean(dim=(-2, -1))
        error = error * level.clamp(min=config.min_sigma).square() if sample_weighting else error
        counted = valid * video_valid if name == "video" and video_valid is not None else valid
        terms[name] = WeightedMean.of(error, counted[:, None]).scaled(factor)
    return terms
