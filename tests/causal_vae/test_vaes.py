"""Both VAEs: the laws, the latent statistics, saving and loading."""

import pytest
import torch
from causal_vae import CausalAudioVAE, CausalVideoVAE
from causal_vae.testing import check_causal, check_streaming
from causal_vae.video_vae import join_units


def tiny_audio_vae() -> CausalAudioVAE:
    torch.manual_seed(0)
    return CausalAudioVAE(
        latent_channels=4, num_mels=20, encoder_dim=8, encoder_depth=1, decoder_dim=8, decoder_depth=1
    ).eval()


def tiny_video_vae() -> CausalVideoVAE:
    torch.manual_seed(0)
    return CausalVideoVAE(
        spatial_strides=(1, 2), latent_channels=4, latent_width=8, cell_channels=8, fine_channels=4, decoder_depth=1
    ).eval()


def test_audio_laws():
    vae, audio = tiny_audio_vae(), 0.1 * torch.randn(2, 1, 4 * 960)
    check_streaming(vae, audio)
    assert check_causal(vae, audio) == 0
    for half, x in ((vae.encoder, audio), (vae.decoder, torch.randn(2, 4, 5))):
        check_streaming(half, x)
        check_causal(half, x)


def test_video_laws():
    vae, video = tiny_video_vae(), torch.rand(2, 3, 12, 32, 48) * 2 - 1
    check_streaming(vae, video)
    assert check_causal(vae, video) == 0


@pytest.mark.parametrize("size", [(192, 336), (48, 96)])
def test_four_frames_are_one_latent_frame_always(size):
    vae = CausalVideoVAE(latent_width=8, cell_channels=8, fine_channels=4)
    posterior, _ = vae.encode(torch.zeros(1, 3, 4, *size))
    assert posterior.mean.shape == (1, 32, 1, size[0] // 48, size[1] // 48)
    with pytest.raises(ValueError, match="multiples of 48"):
        vae.encode(torch.zeros(1, 3, 4, size[0] + 8, size[1]))


def test_training_starts_from_the_datas_own_statistics():
    vae, still = tiny_video_vae(), torch.rand(1, 3, 1, 32, 48) * 2 - 1
    video = (still + 0.1 * torch.randn(8, 3, 4, 32, 48)).clamp(-1, 1)
    vae = CausalVideoVAE(**{**vae.config, "picture_size": (32, 48)})
    vae.init_from_data(video)
    assert (vae(video)[0] - video).square().mean() < 0.2 * video.square().mean()
    before, first, *_ = vae.decoder.to_pixels.weight.unflatten(0, (5, -1))
    assert torch.equal(before, first)


@pytest.mark.parametrize("openness", [0.0, 1.0])
def test_an_open_gate_lets_no_error_of_a_unit_show_as_a_jump(openness):
    """Every unit draws the film, and its own view of the frame before, with an error that is its own."""
    film = torch.rand(1, 3, 13, 8, 8)
    views = [film[:, :, 4 * unit : 4 * unit + 5] + torch.randn(1) for unit in range(3)]
    video, _ = join_units(torch.stack(views, 2), torch.full((1, 1, 3, 8, 8), openness), None)
    jumps = (video.diff(dim=2) - film[:, :, 1:].diff(dim=2)).abs().amax(dim=(0, 1, 3, 4))
    is_seam = torch.arange(1, 12) % 4 == 0
    assert jumps[~is_seam].max() < 1e-5
    assert (jumps[is_seam].max() < 1e-5) == (openness == 1.0)


def test_a_unit_is_four_audio_latents():
    posterior, _ = CausalAudioVAE().encode(torch.zeros(1, 1, 3840))
    assert posterior.mean.shape == (1, 16, 4)


def test_latent_statistics_live_with_the_weights(tmp_path):
    vae, audio = tiny_audio_vae(), torch.randn(8, 1, 9600)
    before = vae(audio)[0]
    vae.latent_norm.fit(vae.encode(audio)[0].mean)
    latents = vae.encode(audio)[0].mean
    torch.testing.assert_close(latents.mean(dim=(0, 2)), torch.zeros(4), atol=1e-4, rtol=0)
    torch.testing.assert_close(latents.std(dim=(0, 2)), torch.ones(4), atol=1e-2, rtol=0)
    torch.testing.assert_close(vae(audio)[0], before, atol=1e-5, rtol=1e-4)  # the reconstruction does not change
    vae.save_pretrained(tmp_path)
    loaded = CausalAudioVAE.from_pretrained(tmp_path).eval()
    assert torch.equal(loaded.encode(audio)[0].mean, latents)


def test_the_folder_of_another_class_is_an_error(tmp_path):
    tiny_audio_vae().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="holds a CausalAudioVAE, not a CausalVideoVAE"):
        CausalVideoVAE.from_pretrained(tmp_path)


def test_a_truncated_file_is_an_error(tmp_path):
    tiny_audio_vae().save_pretrained(tmp_path)
    weights = tmp_path / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:2000])
    with pytest.raises(ValueError, match=r"diffusion_pytorch_model\.safetensors.*damaged"):
        CausalAudioVAE.from_pretrained(tmp_path)


def test_weights_that_do_not_fit_are_an_error(tmp_path):
    vae = tiny_audio_vae()
    vae.save_pretrained(tmp_path)
    config = (tmp_path / "config.json").read_text().replace('"latent_channels": 4', '"latent_channels": 6')
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(ValueError):
        CausalAudioVAE.from_pretrained(tmp_path)
