"""The laws of the streaming contract on EVERY exported streaming class: a new one without a case here fails."""

import inspect

import causal_codec
import causal_vae
import pytest
import torch
from causal_vae import StreamingModule
from causal_vae.testing import check_causal, check_streaming

SMALL_VIDEO = {
    "latent_channels": 4,
    "spatial_strides": (1, 2),
    "latent_width": 8,
    "cell_channels": 8,
    "fine_channels": 4,
}
SMALL_AUDIO = {"latent_channels": 4, "encoder_dim": 8, "encoder_depth": 1, "decoder_dim": 8, "decoder_depth": 1}


def audio_config():
    return causal_codec.CausalAudioEncoderConfig(num_mels=16)


def video_config():
    return causal_codec.CausalVideoEncoderConfig(
        image_height=16, image_width=32, widths=[4, 8], group_size=4, frame_dim=8, output_dim=8
    )


SMALL_MIMI = {
    "latent_channels": 8,
    "num_filters": 2,
    "upsample_groups": 8,
    "num_hidden_layers": 1,
    "intermediate_size": 16,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 4,
    "sliding_window": 4,
}


def voxtral_config():
    return causal_codec.VoxtralAudioEncoderConfig(
        num_mel_bins=8,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        head_dim=8,
        sliding_window=5,
        output_dim=8,
    )


def siglip_config():
    return causal_codec.SiglipVideoEncoderConfig(
        image_height=24,
        image_width=12,
        patch_size=4,
        num_patches=9,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        output_dim=8,
    )


def speech_embedding_encoder():
    config = causal_codec.SpeechEmbeddingAudioEncoderConfig(
        num_mels=16, widths=[8, 8, 8], output_dim=8, embedding_widths=[4] * 5, embedding_dim=8, head_width=8
    )
    encoder = causal_codec.SpeechEmbeddingAudioEncoder(config)
    torch.nn.init.normal_(encoder.project.weight)  # a new one says nothing
    return encoder


# class name -> (module, shape of three or more chunks of two streams)
CASES = {
    "AudioDecoder": (lambda: causal_vae.AudioDecoder(4, 8, 1, 4, 240), (2, 4, 5)),
    "CausalAudioVAE": (lambda: causal_vae.CausalAudioVAE(**SMALL_AUDIO), (2, 1, 3840)),
    "CausalConv1d": (lambda: causal_vae.CausalConv1d(3, 4, 5, stride=2), (2, 3, 10)),
    "CausalConv3d": (lambda: causal_vae.CausalConv3d(3, 4, (3, 3, 3)), (2, 3, 5, 6, 4)),
    "CausalConvNeXt": (lambda: causal_vae.CausalConvNeXt(4, 8), (2, 4, 9)),
    "CausalConvTranspose1d": (lambda: causal_vae.CausalConvTranspose1d(3, 4, 5, 2), (2, 3, 6)),
    "CausalVideoVAE": (lambda: causal_vae.CausalVideoVAE(**SMALL_VIDEO), (2, 3, 16, 32, 48)),
    "InverseSTFT": (lambda: causal_vae.InverseSTFT(20), (2, 42, 6)),
    "LogMel": (lambda: causal_vae.LogMel(8000, 8, 60, 64, 20), (2, 1, 100)),
    "MimiAudioVAE": (lambda: causal_vae.MimiAudioVAE(**SMALL_MIMI), (2, 1, 1920 * 4)),
    "SlidingWindowAttention": (lambda: causal_vae.SlidingWindowAttention(8, 4, 2, 6, 4, 100.0, bias=True), (2, 9, 8)),
    "StreamingSequential": (
        lambda: causal_vae.StreamingSequential(
            causal_vae.CausalConv1d(2, 4, 4, 2), causal_vae.CausalConvTranspose1d(4, 2, 3, 3)
        ),
        (2, 2, 12),
    ),
    "VideoDecoder": (lambda: causal_vae.VideoDecoder(4, 4, (1, 2), 8, 8, 4, 1, (32, 48)), (2, 4, 4, 2, 3)),
    "WanVideoVAE": (lambda: causal_vae.WanVideoVAE(base_dim=4, dim_mult=(1, 1, 1, 1)), (2, 3, 12, 16, 8)),
    "CausalAudioDecoder": (lambda: causal_codec.CausalAudioDecoder(latent_channels=4, dim=8, depth=1), (2, 4, 5)),
    "CausalAudioEncoder": (lambda: causal_codec.CausalAudioEncoder(audio_config()), (2, 1, 1920 * 5)),
    "CausalVideoDecoder": (lambda: causal_codec.CausalVideoDecoder(**SMALL_VIDEO, depth=1), (2, 4, 4, 2, 3)),
    "CausalVideoEncoder": (lambda: causal_codec.CausalVideoEncoder(video_config()), (2, 3, 16, 32, 64)),
    "SiglipVideoEncoder": (lambda: causal_codec.SiglipVideoEncoder(siglip_config()), (2, 3, 16, 20, 30)),
    "SpeechEmbedding": (lambda: causal_codec.SpeechEmbedding.from_pretrained("speech-embedding"), (2, 1, 1920 * 12)),
    "SpeechEmbeddingAudioEncoder": (speech_embedding_encoder, (2, 1, 1920 * 5)),
    "VoxtralAudioEncoder": (lambda: causal_codec.VoxtralAudioEncoder(voxtral_config()), (2, 1, 1920 * 4)),
    "LogMelFrontEnd": (lambda: causal_codec.LogMelFrontEnd(8000, 60, 20, 8), (2, 1, 100)),
}
EXPORTED = sorted(
    name
    for package in (causal_vae, causal_codec)
    for name in package.__all__
    if inspect.isclass(value := getattr(package, name))
    and issubclass(value, StreamingModule)
    and value is not StreamingModule
)


def test_every_exported_streaming_class_has_a_case():
    assert set(EXPORTED) == set(CASES)


# 1.06e-5 on a processor without AVX-512, whose kernels for one frame and for several sum in other orders.
TOLERANCES = {"WanVideoVAE": 2e-5}


@pytest.mark.parametrize("name", CASES)
def test_streaming_contract(name):
    build, shape = CASES[name]
    torch.manual_seed(0)
    module = build().eval()
    x = torch.randn(shape) * (0.1 if shape[1] == 1 else 1.0)
    check_streaming(module, x, tolerance=TOLERANCES.get(name, 1e-5))
    assert check_causal(module, x) == 0


@pytest.mark.parametrize("name", CASES)
def test_one_step_is_one_graph(name):
    """No data-dependent control flow: a step traces into one graph (the eager backend compiles nothing)."""
    build, shape = CASES[name]
    torch.manual_seed(0)
    module = build().eval()
    x = torch.randn(shape)
    with torch.no_grad():
        _, state = module(x)
        expected, _ = module(x, causal_vae.clone_state(state))
        found, _ = torch.compile(module, fullgraph=True, backend="eager")(x, causal_vae.clone_state(state))
    torch.testing.assert_close(found, expected)
