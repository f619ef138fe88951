"""The outer classes of perception encoders: what training and serving may ask of any of them."""

from __future__ import annotations

from causal_vae import CheckedLoading, State, StreamingModule
from torch import Tensor, nn
from transformers import PreTrainedModel


class PerceptionEncoder(CheckedLoading, PreTrainedModel, StreamingModule):
    """The user's media -> tokens (B, T, output_dim): a transformers model that keeps the streaming contract.

    Its config names `tokens_per_unit` and `output_dim`.
    """

    out_time_axis = 1

    def _init_weights(self, module: nn.Module) -> None:
        """Nothing: layers keep torch's own initialisation, and loading never leaves a weight to be initialised."""


class VideoPerceptionEncoder(PerceptionEncoder):
    """Eyes: the last frame of every `stride`, resized to the configured picture, becomes `upsample` tokens.

    Its config also names `image_height` and `image_width`.
    """

    base_model_prefix = "video_encoder"
    main_input_name = "video"

    def chunk_shape(self, height: int | None = None, width: int | None = None) -> tuple[int, ...]:
        """The state does not depend on the camera's size, so it may be left out."""
        return 3, self.stride, height or self.config.image_height, width or self.config.image_width

    def forward(self, video: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Video (B, 3, T, H, W), T a multiple of `stride`, L looks -> tokens (B, L * upsample, D), next state."""
        self.check_length(video)
        frames = video[:, :, self.stride - 1 :: self.stride]
        size = self.config.image_height, self.config.image_width
        if frames.shape[3:] != size:
            small = self.resize(frames.transpose(1, 2).flatten(0, 1), size)
            frames = small.unflatten(0, (len(video), -1)).transpose(1, 2)
        return self.forward_frames(frames, state)

    def forward_frames(self, frames: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """What `forward` does once the frames are picked and small: L looks (B, 3, L, h, w) -> tokens, next state.

        Raises:
            ValueError: the frames are not of the configured size.
        """
        size = self.config.image_height, self.config.image_width
        if tuple(frames.shape[3:]) != size:
            raise ValueError(f"frames must be {size[0]} x {size[1]}; got {frames.shape[3]} x {frames.shape[4]}")
        return self.see(frames, state)

    def resize(self, pictures: Tensor, size: tuple[int, int]) -> Tensor:
        """Pictures (N, 3, H, W) of any size -> (N, 3, *size)."""
        raise NotImplementedError

    def see(self, frames: Tensor, state: State | None) -> tuple[Tensor, State]:
        """`forward_frames` on frames of the configured size."""
        raise NotImplementedError
