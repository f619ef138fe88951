"""MimiAudioVAE against transformers' MimiModel: same folder, same numbers without the quantiser, but in live units."""

import json

import pytest
import torch
from causal_vae import CausalAudioVAE, MimiAudioVAE, SlidingWindowAttention
from transformers import MimiConfig, MimiModel

UNIT = 3840
NUM_UNITS = 5
PARTITIONS = [1, 1, 1, 1, 1], [2, 1, 2], [5]  # of a recording's units


def stacks(mimi: MimiModel) -> list:
    quantizer = mimi.quantizer
    return [quantizer.semantic_residual_vector_quantizer, quantizer.acoustic_residual_vector_quantizer]


def small_mimi(**fields) -> MimiModel:
    torch.manual_seed(0)
    config = {
        "hidden_size": 16,
        "num_filters": 2,
        "num_hidden_layers": 2,
        "intermediate_size": 32,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "codebook_dim": 12,
        "vector_quantization_hidden_dimension": 12,
        "codebook_size": 32,
        "num_quantizers": 3,
        "upsample_groups": 16,
        "sliding_window": 6,  # shorter than the recording, so that keys are forgotten
        "layer_scale_initial_scale": 1.0,  # trained size; at its initial 0.01 attention hardly counts
    }
    mimi = MimiModel(MimiConfig(**config | fields)).eval()
    for stack in stacks(mimi):
        for layer in stack.layers:  # fresh codebooks hold zeros
            layer.codebook.embed_sum.normal_(mean=1)
            layer.codebook.cluster_usage.uniform_(0.5, 2)
    return mimi


def recording() -> torch.Tensor:
    return 0.3 * torch.randn(2, 1, NUM_UNITS * UNIT, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_encoding_in_units_is_mimis_encoding_of_the_whole():
    mimi = small_mimi()
    vae, audio = MimiAudioVAE.from_mimi(mimi), recording()
    expected = mimi.encoder(audio).latents
    assert expected.shape == (2, 16, 2 * NUM_UNITS) and expected.std() > 0.1
    for units in PARTITIONS:
        state, means = None, []
        for chunk in audio.split([count * UNIT for count in units], dim=2):
            posterior, state = vae.encode(chunk, state)
            means.append(vae.latent_norm.restore(posterior.mean))
        torch.testing.assert_close(torch.cat(means, dim=2), expected, atol=1e-4, rtol=0)
        noisy = posterior.sample(torch.ones_like(posterior.mean))
        torch.testing.assert_close(noisy, posterior.mean, atol=1e-5, rtol=0)  # a point


@torch.no_grad()
def test_decoding_in_units_is_mimis_decoding_of_the_whole():
    mimi = small_mimi()
    vae = MimiAudioVAE.from_mimi(mimi)
    latents = torch.randn(2, 16, 2 * NUM_UNITS)
    expected = mimi.decoder(vae.latent_norm.restore(latents)).audio_values
    assert expected.shape == recording().shape and expected.std() > 0.1
    for units in PARTITIONS:
        state, audio = None, []
        for chunk in latents.split([2 * count for count in units], dim=2):
            samples, state = vae.decode(chunk, state)
            audio.append(samples)
        torch.testing.assert_close(torch.cat(audio, dim=2), expected, atol=1e-4, rtol=0)


@torch.no_grad()
def test_latents_that_the_codebooks_hold_are_standardised():
    mimi = small_mimi()
    vae, codes = MimiAudioVAE.from_mimi(mimi), []
    for stack in stacks(mimi):
        codes += [torch.multinomial(layer.codebook.cluster_usage, 20_000, replacement=True) for layer in stack.layers]
    latents = mimi.quantizer.decode(torch.stack(codes)[None])
    standard = (latents - vae.latent_norm.restore(torch.zeros_like(latents))) / vae.latent_norm.std[None, :, None]
    torch.testing.assert_close(standard.mean(dim=2), torch.zeros(1, 16), atol=0.05, rtol=0)
    torch.testing.assert_close(standard.std(dim=2), torch.ones(1, 16), atol=0.05, rtol=0)


def test_mimis_folder_and_ours(tmp_path):
    mimi = small_mimi()
    mimi.save_pretrained(tmp_path / "theirs")
    first = MimiAudioVAE.from_pretrained(tmp_path / "theirs").eval()
    first.save_pretrained(tmp_path / "ours")
    second = MimiAudioVAE.from_pretrained(tmp_path / "ours").eval()
    expected = MimiAudioVAE.from_mimi(mimi).state_dict()
    for vae in (first, second):
        assert vae.state_dict().keys() == expected.keys()
        assert all(torch.equal(weight, expected[name]) for name, weight in vae.state_dict().items())
    copied = sum(p.numel() for half in (mimi.encoder, mimi.decoder) for p in half.parameters())
    assert sum(p.numel() for p in first.parameters()) == copied


def test_other_folders_and_shapes_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"no config\.json"):
        MimiAudioVAE.from_pretrained(tmp_path)
    CausalAudioVAE(latent_channels=4, encoder_dim=8, decoder_dim=8).save_pretrained(tmp_path / "other")
    with pytest.raises(ValueError, match="holds a CausalAudioVAE, not a MimiAudioVAE"):
        MimiAudioVAE.from_pretrained(tmp_path / "other")
    with pytest.raises(ValueError, match="takes a MimiModel; got MimiAudioVAE"):
        MimiAudioVAE.from_mimi(MimiAudioVAE.from_mimi(small_mimi()))
    with pytest.raises(ValueError, match=r"'pad_mode': 'replicate'.* needs .*'constant'"):
        MimiAudioVAE.from_mimi(small_mimi(pad_mode="replicate"))
    small_mimi().save_pretrained(tmp_path / "wider")
    config = json.loads((tmp_path / "wider/config.json").read_text()) | {"intermediate_size": 48}
    (tmp_path / "wider/config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="do not fit"):
        MimiAudioVAE.from_pretrained(tmp_path / "wider")


@torch.no_grad()
def test_attention_is_as_exact_after_hours_as_at_first():
    """What lies outside of the window, and how long ago the stream began, leaves no trace."""
    torch.manual_seed(0)
    attention, window = SlidingWindowAttention(8, 2, 2, 4, window=5, rope_theta=100.0), torch.randn(1, 9, 8)
    _, state = attention(torch.randn(1, 500, 8))
    late, _ = attention(window, state)
    fresh, _ = attention(window)
    torch.testing.assert_close(late[:, 4:], fresh[:, 4:], atol=1e-6, rtol=0)
    assert not torch.allclose(late[:, :4], fresh[:, :4], atol=1e-3)
