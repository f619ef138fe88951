"""WanVideoVAE against diffusers' AutoencoderKLWan: same folder, same numbers, but in live units."""

import json

import pytest
import safetensors.torch
import torch
from causal_vae import (
    CausalVideoVAE,
    WanVideoVAE,
    clone_state,
    flatten_state,
    index_state,
    stack_states,
    unflatten_state,
)
from causal_vae.testing import check_causal, check_streaming
from diffusers import AutoencoderKLWan

WAN21 = {"base_dim": 8}, (32, 48)
WAN22 = (
    {
        "base_dim": 8,
        "decoder_base_dim": 16,
        "z_dim": 12,
        "is_residual": True,
        "in_channels": 12,
        "out_channels": 12,
        "patch_size": 2,
        "scale_factor_spatial": 16,
        "latents_mean": [0.1 * index for index in range(12)],
        "latents_std": [1 + 0.1 * index for index in range(12)],
    },
    (32, 64),
)
VERSIONS = pytest.mark.parametrize(("config", "size"), [WAN21, WAN22], ids=["wan21", "wan22"])
NUM_UNITS = 4
PARTITIONS = [1, 1, 1, 1], [1, 3], [2, 1, 1], [4]  # of a clip's units, as a ragged caller may bring them


def pair(config: dict) -> tuple[AutoencoderKLWan, WanVideoVAE]:
    torch.manual_seed(0)
    theirs = AutoencoderKLWan(**config).eval()
    # Fresh norms scale by one and would hide a lost scale.
    for name, parameter in theirs.named_parameters():
        if name.endswith("gamma"):
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    return theirs, WanVideoVAE.from_diffusers(theirs)


def clip(size: tuple[int, int], num_sessions: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(num_sessions, 3, 1 + 4 * NUM_UNITS, *size, generator=generator) * 2 - 1


def raw(vae: WanVideoVAE, latents: torch.Tensor) -> torch.Tensor:
    """Latents as diffusers speaks of them: not standardised."""
    return vae.latent_norm.restore(latents)


@VERSIONS
@torch.no_grad()
def test_encoding_in_units_is_diffusers_encoding_of_the_clip(config, size):
    theirs, ours = pair(config)
    video = clip(size)
    expected = theirs.encode(video).latent_dist
    for units in PARTITIONS:
        posterior, state = ours.prefill_encode(video[:, :, :1])
        posteriors = [posterior]
        for chunk in video[:, :, 1:].split([4 * count for count in units], dim=2):
            posterior, state = ours.encode(chunk, state)
            posteriors.append(posterior)
        mean = raw(ours, torch.cat([posterior.mean for posterior in posteriors], dim=2))
        torch.testing.assert_close(mean, expected.mean, atol=1e-4, rtol=0)
        noise = torch.zeros_like(expected.mean)
        log_variance = torch.cat([posterior.log_variance for posterior in posteriors], dim=2)
        std = raw(ours, noise + (0.5 * log_variance).exp()) - raw(ours, noise)
        torch.testing.assert_close(std, expected.std, atol=1e-4, rtol=0)


@VERSIONS
@torch.no_grad()
def test_decoding_in_units_is_diffusers_decoding_of_the_clip(config, size):
    theirs, ours = pair(config)
    height, width = (side // ours.spatial_stride for side in size)
    latents = torch.randn(2, ours.config.z_dim, 1 + NUM_UNITS, height, width)
    expected = theirs.decode(raw(ours, latents)).sample
    assert expected.abs().mean() > 0.05 and (expected.abs() < 1).any()  # neither black nor clamped away
    for units in PARTITIONS:
        frame, state = ours.prefill_decode(latents[:, :, :1])
        video = [frame]
        for chunk in latents[:, :, 1:].split(units, dim=2):
            frames, state = ours.decode(chunk, state)
            video.append(frames)
        torch.testing.assert_close(torch.cat(video, dim=2), expected, atol=1e-4, rtol=0)


@VERSIONS
def test_laws(config, size):
    _, vae = pair(config)
    video = clip((2 * vae.spatial_stride, vae.spatial_stride))[:, :, 1:13]
    check_streaming(vae, video, num_partitions=2)
    assert check_causal(vae, video) == 0


@VERSIONS
@torch.no_grad()
def test_the_prefilled_state_is_a_state_like_any_other(config, size, tmp_path):
    """Sessions that were prefilled apart run as a batch, and one moves to another process through a file."""
    _, vae = pair(config)
    video = clip(size)
    _, prefilled = vae.prefill(video[:, :, :1])
    empty = flatten_state(vae.init_state(2, height=size[0], width=size[1]))
    assert {name: leaf.shape for name, leaf in flatten_state(prefilled).items()} == {
        name: leaf.shape for name, leaf in empty.items()
    }
    assert all(leaf.is_contiguous() for leaf in flatten_state(prefilled).values())

    whole, _ = vae(video[:, :, 1:], clone_state(prefilled))
    apart = [vae.prefill(video[row : row + 1, :, :1])[1] for row in range(2)]
    head, middle = vae(video[:, :, 1:5], stack_states(apart))
    torch.testing.assert_close(head, whole[:, :, :4], atol=1e-5, rtol=0)

    safetensors.torch.save_file(flatten_state(index_state(middle, 1)), tmp_path / "session.safetensors")
    moved = unflatten_state(safetensors.torch.load_file(tmp_path / "session.safetensors"))
    rest, _ = vae(video[1:, :, 5:], moved)
    torch.testing.assert_close(rest, whole[1:, :, 4:], atol=1e-5, rtol=0)


@VERSIONS
@torch.no_grad()
def test_folders_go_both_ways(config, size, tmp_path):
    theirs, _ = pair(config)
    theirs.save_pretrained(tmp_path / "theirs")
    ours = WanVideoVAE.from_pretrained(tmp_path / "theirs")
    ours.save_pretrained(tmp_path / "ours")
    again = AutoencoderKLWan.from_pretrained(tmp_path / "ours")
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    for name, weight in theirs.state_dict().items():
        assert torch.equal(weight, again.state_dict()[name]), name
    assert json.loads(again.to_json_string()) == json.loads(theirs.to_json_string()) | {
        "_name_or_path": str(tmp_path / "ours")
    }
    frame = clip(size)[:, :, :1]
    expected = theirs.encode(frame).latent_dist.mean
    torch.testing.assert_close(raw(ours, ours.prefill_encode(frame)[0].mean), expected, atol=1e-4, rtol=0)


@torch.no_grad()
def test_a_unit_in_half_precision_stays_there(tmp_path):
    pair(WAN21[0])[0].save_pretrained(tmp_path)
    vae = WanVideoVAE.from_pretrained(tmp_path, dtype=torch.bfloat16)
    video = clip((32, 48))[:, :, 1:5].bfloat16()
    out, state = vae(video)
    assert {out.dtype} | {leaf.dtype for leaf in flatten_state(state).values()} == {torch.bfloat16}


def test_gradients_are_diffusers_gradients():
    theirs, ours = pair(WAN21[0])
    latents = torch.randn(1, 16, 1, 2, 3, requires_grad=True)
    names = ["decoder.norm_out.gamma", "decoder.conv_in.weight", "decoder.up_blocks.0.resnets.0.conv1.weight"]
    gradients = []
    for vae, frame in (
        (theirs, theirs.decode(raw(ours, latents)).sample),
        (ours, ours.prefill_decode(latents)[0]),
    ):
        weights = dict(vae.named_parameters())
        gradients.append(torch.autograd.grad(frame.square().mean(), [latents, *(weights[name] for name in names)]))
    torch.testing.assert_close(gradients[1], gradients[0], atol=1e-5, rtol=1e-3)


def test_one_step_is_one_graph():
    _, vae = pair(WAN21[0])
    video = clip((32, 48))
    with torch.no_grad():
        _, state = vae.prefill(video[:, :, :1])
        expected, _ = vae(video[:, :, 1:5], clone_state(state))
        found, _ = torch.compile(vae, fullgraph=True, backend="eager")(video[:, :, 1:5], state)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_bad_input_is_named(tmp_path):
    _, vae = pair(WAN21[0])
    with pytest.raises(ValueError, match="multiples of 8; got 30 x 48"):
        vae.encode(torch.zeros(1, 3, 4, 30, 48))
    with pytest.raises(ValueError, match="exactly one frame; got 4"):
        vae.prefill(torch.zeros(1, 3, 4, 32, 48))
    with pytest.raises(ValueError, match="multiple of 4"):
        vae.encode(torch.zeros(1, 3, 5, 32, 48))
    with pytest.raises(ValueError, match="two of them true"):
        WanVideoVAE(temperal_downsample=[True, True, True])
    with pytest.raises(ValueError, match="z_dim = 8 entries; got 16 and 16"):
        WanVideoVAE(z_dim=8)
    CausalVideoVAE(latent_width=8, cell_channels=8, fine_channels=4).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="holds a CausalVideoVAE, not a AutoencoderKLWan"):
        WanVideoVAE.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="takes an AutoencoderKLWan; got WanVideoVAE"):
        WanVideoVAE.from_diffusers(vae)


def test_weights_that_do_not_fit_are_an_error(tmp_path):
    pair(WAN21[0])[0].save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text()) | {"base_dim": 16}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="do not fit"):
        WanVideoVAE.from_pretrained(tmp_path)
