"""A trained streamer for the latents of another video VAE: all weights but those that take and give latents."""

from __future__ import annotations

from .model import StreamerModel

VIDEO_ADAPTERS = ("video_in", "video_out")
"""The layers of a `StreamerModel` that the size of a video latent touches."""


def with_video_latents(streamer: StreamerModel, channels: int, height: int, width: int) -> StreamerModel:
    """The same weights for video latents (channels, 1, height, width) per unit, with new `VIDEO_ADAPTERS`.

    The new grid is cut into as many patches as the old one: a unit keeps its tokens, and with them its positions and
    slots. What is new has random weights and must be trained.

    Raises:
        ValueError: the grid cannot be cut into as many patches.
    """
    old = streamer.config
    rows = old.video_latent_height // old.video_patch_height
    columns = old.video_latent_width // old.video_patch_width
    if height % rows or width % columns:
        raise ValueError(
            f"a unit of this streamer has {rows} x {columns} tokens of picture, so a grid is a multiple of that; "
            f"got {height} x {width}"
        )
    fields = {
        "video_latent_channels": channels,
        "video_latent_height": height,
        "video_latent_width": width,
        "video_patch_height": height // rows,
        "video_patch_width": width // columns,
    }
    adapted = StreamerModel(type(old).from_dict(old.to_dict() | fields)).to(streamer.device, streamer.dtype)
    kept = {name: value for name, value in streamer.state_dict().items() if not name.startswith(VIDEO_ADAPTERS)}
    adapted.load_state_dict(kept, strict=False)
    return adapted.train(streamer.training)
