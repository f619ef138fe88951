"""The public speech embedding against the package it comes from, and ears that take it in."""

import ctypes

import numpy as np
import pytest
import torch
from causal_codec import (
    CausalAudioEncoder,
    CausalAudioEncoderConfig,
    SpeechEmbedding,
    SpeechEmbeddingAudioEncoder,
    SpeechEmbeddingAudioEncoderConfig,
    SpeechEmbeddingConfig,
)
from causal_vae import certify
from streamer_pipeline import StreamerPipeline
from transformers import AutoModel

UNIT = 3840


@pytest.fixture(scope="module")
def embedding() -> SpeechEmbedding:
    return SpeechEmbedding.from_pretrained("speech-embedding").eval()


@pytest.fixture(scope="module")
def ears(embedding) -> SpeechEmbeddingAudioEncoder:
    torch.manual_seed(0)
    encoder = CausalAudioEncoder(CausalAudioEncoderConfig(num_mels=16, widths=[8, 8, 8], output_dim=12))
    return SpeechEmbeddingAudioEncoder.from_encoder(encoder.eval(), embedding, head_width=16)


def voice(seconds: float, rate: int = 24_000) -> torch.Tensor:
    """A gliding, interrupted harmonic tone in a little noise: (1, 1, seconds * rate) in [-1, 1]."""
    t = torch.arange(round(seconds * rate)) / rate
    pitch = 2 * torch.pi * (180 * t + 8 * torch.sin(4 * t))
    tone = sum(torch.sin(k * pitch) / k for k in range(1, 12)) * (torch.sin(2 * torch.pi * 1.7 * t) > 0)
    noise = torch.randn(len(t), generator=torch.Generator().manual_seed(0))
    return (0.2 * tone + 0.003 * noise)[None, None]


class Original:
    """pyopen-wakeword's own run of its two models."""

    def __init__(self) -> None:
        module = pytest.importorskip("pyopen_wakeword.openwakeword")
        self.features = module.OpenWakeWordFeatures.from_builtin()

    def run(self, model: str, x: torch.Tensor) -> torch.Tensor:
        f, array = self.features, np.ascontiguousarray(x.numpy())
        tensors = getattr(f, f"{model}_input_tensor"), getattr(f, f"{model}_output_tensor")
        f.lib.TfLiteTensorCopyFromBuffer(tensors[0], array.ctypes.data_as(ctypes.c_void_p), array.nbytes)
        f.lib.TfLiteInterpreterInvoke(getattr(f, f"{model}_interpreter"))
        y = np.empty(f.lib.TfLiteTensorByteSize(tensors[1]) // 4, np.float32)
        f.lib.TfLiteTensorCopyToBuffer(tensors[1], y.ctypes.data_as(ctypes.c_void_p), ctypes.c_size_t(y.nbytes))
        return torch.from_numpy(y)


@torch.no_grad()
def test_its_parts_are_those_of_the_package():
    pytest.importorskip("tflite")
    original, model = Original(), SpeechEmbedding.from_pyopen_wakeword()
    chunk = voice(0.11, rate=16_000)[0]  # 1,760 samples, of which the first window begins after 56
    theirs = original.run("mel", 32_768 * chunk).view(8, 32) / 10 + 2
    shifted = torch.cat([torch.zeros(1, 1280 - 296), chunk], dim=1)[None, :, :2560]
    mel, _ = model.front_end.get_submodule("1")(shifted)
    torch.testing.assert_close(mel[0, 0, 8:], theirs, atol=1e-4, rtol=0)
    window = 2 * torch.randn(1, 1, 76, 32) - 3
    theirs = original.run("emb", window)
    ours = model.layers(torch.cat([torch.full((1, 1, 4, 32), -8.0), window], dim=2))[0][0, :, -1, 0]
    assert (ours - theirs).norm() < 1e-5 * theirs.norm()


@torch.no_grad()
def test_a_stream_at_16_khz_is_the_packages(embedding):
    """Its windows end 4 frames before ours: it is given the sound so much later."""
    pytest.importorskip("tflite")
    original, model = Original().features, SpeechEmbedding.from_pyopen_wakeword()
    for ships, converted in zip(embedding.parameters(), model.parameters(), strict=True):
        assert torch.equal(ships, converted.half().float())
    pcm = (voice(2.4, rate=16_000)[0, 0] * 32_767).short()
    chunks = [part.numpy().tobytes() for part in pcm.split(1280)]
    theirs = torch.tensor(np.stack([e.ravel() for chunk in chunks for e in original.process_streaming(chunk)]))
    sound = torch.cat([torch.zeros(344), pcm.float() / 32_768])[: 30 * 1280]
    for ears, allowed in ((model, 1e-5), (embedding, 2e-2)):  # as converted; as it ships, in float16
        mel, _ = ears.front_end.get_submodule("1")(sound[None, None])
        ours = ears.layers(mel)[0][0, :, :, 0].T[12:28]  # windows without the digital silence in front
        errors = (theirs.unfold(0, 16, 1).transpose(1, 2) - ours).flatten(1).norm(dim=1) / ours.norm()
        assert errors.min() < allowed < 0.1 < errors.median()


@torch.no_grad()
def test_a_stream_starts_after_silence(embedding):
    sound = voice(1.6)
    silent, _ = embedding(torch.cat([torch.zeros(1, 1, 10 * UNIT), sound], dim=2))
    torch.testing.assert_close(embedding(sound)[0], silent[:, 20:], atol=2e-3, rtol=0)  # of about 60
    torch.testing.assert_close(silent[:, 1:20], silent[:, :1].expand(-1, 19, -1), atol=2e-3, rtol=0)


def test_the_certificate(embedding, ears):
    hears_all = SpeechEmbeddingAudioEncoder(ears.config).eval()
    hears_all.load_state_dict(ears.state_dict())
    torch.nn.init.normal_(hears_all.project.weight)
    sound = voice(0.96).repeat(2, 1, 1) * torch.tensor([1.0, 0.1])[:, None, None]
    for part in (embedding, hears_all):
        certificate = certify(part, sound, rate=24_000)
        assert certificate.passed, certificate.table


@torch.no_grad()
def test_new_ears_hear_what_the_old_ones_did(ears):
    torch.manual_seed(0)
    sound = voice(1.6)
    assert torch.equal(ears(sound)[0], ears.encoder(sound)[0])
    assert ears(sound)[0].shape == (1, 20, 12) and ears.stream_spec.user_audio_tokens == 2


def test_the_head_learns_and_the_embedding_stays(ears, tmp_path):
    ears.save_pretrained(tmp_path)
    for part in (ears, AutoModel.from_pretrained(tmp_path)):
        assert type(part) is SpeechEmbeddingAudioEncoder
        with torch.autocast("cpu", torch.bfloat16):
            part(voice(0.16))[0].square().sum().backward()
        learned = {name for name, weight in part.named_parameters() if weight.grad is not None}
        assert learned >= {"project.weight", "encoder.project.weight"}
        assert not any(name.startswith("embedding.") for name in learned)
        part.zero_grad()
    for name, weight in ears.state_dict().items():
        assert torch.equal(part.state_dict()[name], weight), name


@torch.no_grad()
def test_what_the_embedding_hears_is_not_rounded_by_autocast(embedding):
    sound = voice(0.8)
    with torch.autocast("cpu", torch.bfloat16):
        heard, _ = embedding(sound)
    assert torch.equal(heard, embedding(sound)[0])


@torch.no_grad()
def test_a_pipeline_with_new_ears_is_saved_and_says_the_same(tmp_path, embedding):
    old = StreamerPipeline.from_pretrained()
    before = CausalAudioEncoder(CausalAudioEncoderConfig(output_dim=old.streamer.config.perception_dim)).eval()
    ears = SpeechEmbeddingAudioEncoder.from_encoder(before, embedding)
    settings = {"prompt": old.config.prompt, "num_inference_steps": old.config.num_inference_steps}
    StreamerPipeline(**old.components | {"audio_encoder": ears}, **settings).save_pretrained(tmp_path)
    new = StreamerPipeline.from_pretrained(tmp_path)
    assert type(new.audio_encoder) is SpeechEmbeddingAudioEncoder
    unit = voice(0.16)
    torch.testing.assert_close(new.audio_encoder(unit)[0], before(unit)[0], atol=1e-6, rtol=0)
    assert sum(weight.numel() for weight in ears.state_dict().values()) * 2 < 4e6  # bytes in float16


def test_ears_that_have_an_embedding_get_no_second_one():
    with pytest.raises(TypeError, match="takes a CausalAudioEncoder; got SpeechEmbeddingAudioEncoder"):
        SpeechEmbeddingAudioEncoder.from_encoder(StreamerPipeline.from_pretrained().audio_encoder)


def test_the_embedding_alone(embedding):
    config = SpeechEmbeddingAudioEncoderConfig(own_encoder=False, output_dim=12)
    ears = SpeechEmbeddingAudioEncoder(config).eval()
    ears.embedding.load_state_dict(embedding.state_dict())
    assert not any(name.startswith("encoder.") for name in ears.state_dict())
    loud, other = voice(0.8), voice(0.8).flip(2)
    assert ears(loud)[0].shape == (1, 10, 12)
    assert not torch.allclose(ears(loud)[0], ears(other)[0], atol=0.1)


def test_other_shapes_are_refused():
    with pytest.raises(ValueError, match=r"tokens_per_unit must be 2 at 24000 Hz.*got 4 at 24000"):
        SpeechEmbeddingAudioEncoderConfig(tokens_per_unit=4, strides=[2, 2, 1])
    with pytest.raises(ValueError, match=r"widths must have 5 entries.*got \[4\]"):
        SpeechEmbeddingConfig(widths=[4])
    with pytest.raises(ValueError, match="SpeechEmbeddingAudioEncoderConfig: own_encoder must be true or false"):
        SpeechEmbeddingAudioEncoderConfig(own_encoder=1)
