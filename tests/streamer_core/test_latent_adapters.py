"""A streamer for other video latents keeps its tokens and all weights but the two layers that meet a latent."""

import pytest
import torch
from streamer_core import VIDEO_ADAPTERS, with_video_latents
from tiny_parts import tiny_pipeline


def test_only_what_meets_a_latent_is_new():
    old = tiny_pipeline().streamer.eval()  # 4 channels on 2 x 3 cells, a token for each column
    new = with_video_latents(old, 6, 4, 9)
    assert new.layout.counts == old.layout.counts and not new.training
    assert new.stream_spec.video_latent_channels == 6
    assert (new.config.video_patch_height, new.config.video_patch_width) == (4, 3)
    kept, found = old.state_dict(), new.state_dict()
    assert kept.keys() == found.keys()
    changed = {name.split(".")[0] for name in kept if kept[name].shape != found[name].shape}
    assert changed == set(VIDEO_ADAPTERS)
    assert all(torch.equal(kept[name], found[name]) for name in kept if not name.startswith(VIDEO_ADAPTERS))


def test_a_grid_of_other_tokens_is_refused():
    with pytest.raises(ValueError, match=r"1 x 3 tokens of picture.*; got 4 x 7"):
        with_video_latents(tiny_pipeline().streamer, 6, 4, 7)
