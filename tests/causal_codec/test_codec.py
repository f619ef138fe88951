"""Encoders and decoders: the laws, the clock, saving and loading, and distillation."""

import subprocess
import sys

import causal_codec
import pytest
import torch
from causal_codec import (
    CausalAudioDecoder,
    CausalAudioEncoder,
    CausalAudioEncoderConfig,
    CausalVideoDecoder,
    CausalVideoEncoder,
    CausalVideoEncoderConfig,
    LogMelFrontEnd,
)
from causal_vae import CausalAudioVAE, CausalVideoVAE, flatten_state
from causal_vae.losses import AudioReconstructionLoss, VideoReconstructionLoss
from causal_vae.testing import check_causal, check_streaming
from torch.utils.data import DataLoader
from transformers import AutoModel


def tiny_audio_encoder(**fields) -> CausalAudioEncoder:
    torch.manual_seed(0)
    sizes = {"num_mels": 20, "widths": [8, 8, 16], "depths": [1, 1, 1], "kernel_size": 3, "output_dim": 12}
    return CausalAudioEncoder(CausalAudioEncoderConfig(**sizes | fields)).eval()


def tiny_video_encoder(**fields) -> CausalVideoEncoder:
    torch.manual_seed(0)
    sizes = {"image_height": 16, "image_width": 24, "widths": [8, 16], "frame_dim": 16, "output_dim": 12}
    return CausalVideoEncoder(CausalVideoEncoderConfig(**sizes | fields)).eval()


def tiny_audio_decoder() -> CausalAudioDecoder:
    torch.manual_seed(0)
    return CausalAudioDecoder(latent_channels=4, dim=8, depth=1).eval()


def tiny_video_decoder() -> CausalVideoDecoder:
    torch.manual_seed(0)
    decoder = CausalVideoDecoder(
        spatial_strides=(1, 2), latent_channels=4, latent_width=8, cell_channels=8, fine_channels=4, depth=1
    )
    for parameter in decoder.parameters():  # the layers that start at zero must count in the checks
        torch.nn.init.normal_(parameter, std=0.2)
    return decoder.eval()


def sound(*shape: int) -> torch.Tensor:
    return 0.1 * torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def picture(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(1)) * 2 - 1


STREAMING = {
    "log-mel": (lambda: LogMelFrontEnd(24000, 60, 20, 8), lambda: sound(2, 1, 120)),
    "audio encoder": (tiny_audio_encoder, lambda: sound(2, 1, 5 * 1920)),
    "audio encoder, 4 tokens": (
        lambda: tiny_audio_encoder(tokens_per_unit=4, strides=[2, 2], widths=[8, 8], depths=[1, 2]),
        lambda: sound(2, 1, 6 * 960),
    ),
    "video encoder": (tiny_video_encoder, lambda: picture(2, 3, 20, 32, 40)),
    "video encoder, 2 looks": (
        lambda: tiny_video_encoder(frame_rate=12.5, tokens_per_unit=6, kernel_size=4),
        lambda: picture(2, 3, 12, 16, 24),
    ),
    "audio decoder": (tiny_audio_decoder, lambda: sound(2, 4, 5)),
    "video decoder": (tiny_video_decoder, lambda: picture(2, 4, 4, 3, 2)),
}


@pytest.mark.parametrize("name", STREAMING)
def test_laws(name):
    build, media = STREAMING[name]
    module, x = build().eval(), media()
    check_streaming(module, x)
    assert check_causal(module, x) == 0


@pytest.mark.parametrize("name", STREAMING)
def test_the_newest_input_counts(name):
    """Causal, but not late: the end of a chunk already changes that chunk's output."""
    build, media = STREAMING[name]
    module, x = build().eval(), media()
    changed, num_newest = x.clone(), max(1, module.stride // 2)
    changed.narrow(module.time_axis, -num_newest, num_newest).neg_()
    difference = module(changed)[0] - module(x)[0]
    assert difference.narrow(module.out_time_axis, -module.upsample, module.upsample).abs().max() > 1e-4


def test_default_sizes_keep_the_clock():
    audio, video = CausalAudioEncoder(CausalAudioEncoderConfig()), CausalVideoEncoder(CausalVideoEncoderConfig())
    assert audio(sound(1, 1, 3840))[0].shape == video(picture(1, 3, 4, 192, 336))[0].shape == (1, 2, 128)
    assert CausalAudioDecoder()(sound(1, 16, 4))[0].shape == (1, 1, 3840)
    assert CausalVideoDecoder()(picture(1, 32, 1, 4, 7))[0].shape == (1, 3, 4, 192, 336)


def test_init_state_is_what_forward_returns():
    encoder, video = tiny_video_encoder(), picture(3, 3, 4, 32, 40)
    returned = flatten_state(encoder(video)[1])
    for state in (encoder.init_state(3), encoder.init_state(3, height=32, width=40)):
        assert {name: leaf.shape for name, leaf in flatten_state(state).items()} == {
            name: leaf.shape for name, leaf in returned.items()
        }


def test_audio_encoder_hears_for_more_than_half_a_second():
    encoder = CausalAudioEncoder(CausalAudioEncoderConfig()).eval()
    audio = sound(1, 1, 10 * 1920).requires_grad_()
    encoder(audio)[0][0, -1, 0].backward()
    heard = audio.grad[0, 0].nonzero()
    assert audio.shape[2] - heard.min().item() >= 0.6 * 24000


def test_loudness_moves_one_channel_only():
    features = tiny_audio_encoder().layers
    front, split = (features.get_submodule(index) for index in "01")
    loud = 5 * torch.randn(1, 1, 24000, generator=torch.Generator().manual_seed(1))
    shapes = [split(front(gain * loud)[0]) for gain in (0.25, 1.0)]
    torch.testing.assert_close(shapes[0][:, :-1], shapes[1][:, :-1], atol=5e-3, rtol=0)
    assert (shapes[1] - shapes[0])[:, -1].min() > 0.5


def test_the_encoder_looks_at_the_last_frame_of_each_group():
    encoder, video = tiny_video_encoder(), picture(2, 3, 12, 16, 24)
    tokens, _ = encoder(video)
    assert torch.equal(tokens, encoder.forward_frames(video[:, :, 3::4])[0])
    assert torch.equal(tokens, encoder(video.repeat_interleave(2, dim=3).repeat_interleave(2, dim=4))[0])
    with pytest.raises(ValueError, match="16 x 24; got 12 x 24"):
        encoder.forward_frames(video[:, :, :, :12])


def test_configurations_that_break_the_clock_are_refused():
    with pytest.raises(ValueError, match="one unit of 3840 samples"):
        CausalAudioEncoderConfig(tokens_per_unit=3)
    with pytest.raises(ValueError, match="same stages"):
        CausalAudioEncoderConfig(widths=[8, 8])
    with pytest.raises(ValueError, match="skip samples"):
        CausalAudioEncoderConfig(window_length=120)
    with pytest.raises(ValueError, match="multiples of 16"):
        CausalVideoEncoderConfig(image_height=60)
    with pytest.raises(ValueError, match="multiple of the looks"):
        CausalVideoEncoderConfig(frame_rate=12.5, tokens_per_unit=3)
    with pytest.raises(ValueError, match="whole number of looks"):
        CausalVideoEncoderConfig(frame_rate=5.0)


def test_importing_the_package_leaves_torchaudio_alone():
    code = "import sys, causal_codec; assert 'torchaudio' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_missing_torchaudio_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchaudio.functional", None)
    with pytest.raises(ImportError, match="needs a torchaudio that matches torch"):
        tiny_audio_encoder()


def test_pipelines_find_the_base_classes():
    assert issubclass(CausalAudioEncoder, causal_codec.PreTrainedModel)
    assert issubclass(CausalVideoDecoder, causal_codec.ModelMixin)


@pytest.mark.parametrize("name", ["audio encoder", "video encoder", "audio decoder", "video decoder"])
def test_save_and_load(name, tmp_path):
    build, media = STREAMING[name]
    module, x = build(), media()
    for parameter in module.parameters():  # so that nothing can come back by its initial value
        torch.nn.init.normal_(parameter, std=0.2)
    module.save_pretrained(tmp_path)
    loaders = [type(module), AutoModel] if "encoder" in name else [type(module)]
    for loader in loaders:
        loaded = loader.from_pretrained(tmp_path).eval()
        assert type(loaded) is type(module)
        assert torch.equal(loaded(x)[0], module(x)[0])


@pytest.mark.parametrize("other", [CausalVideoEncoder, CausalAudioDecoder, CausalVideoDecoder])
def test_the_folder_of_another_class_is_an_error(other, tmp_path):
    tiny_audio_encoder().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=f"holds a CausalAudioEncoder, not a {other.__name__}"):
        other.from_pretrained(tmp_path)


@pytest.mark.parametrize("build", [tiny_audio_encoder, tiny_video_encoder, tiny_audio_decoder, tiny_video_decoder])
def test_a_truncated_file_is_an_error(build, tmp_path):
    module = build()
    module.save_pretrained(tmp_path)
    (weights,) = tmp_path.glob("*.safetensors")
    weights.write_bytes(weights.read_bytes()[:2000])
    with pytest.raises(ValueError, match=r"safetensors.*damaged"):
        type(module).from_pretrained(tmp_path)


@pytest.mark.parametrize("change", [{"output_dim": 20}, {"depths": [1, 1, 2]}])
def test_weights_that_do_not_fit_are_an_error(change, tmp_path):
    tiny_audio_encoder().save_pretrained(tmp_path)
    tiny_audio_encoder(**change).config.save_pretrained(tmp_path / "changed")
    changed = (tmp_path / "changed" / "config.json").read_text()
    (tmp_path / "config.json").write_text(changed.replace("{", '{"architectures": ["CausalAudioEncoder"],', 1))
    with pytest.raises(ValueError, match="do not fit"):
        CausalAudioEncoder.from_pretrained(tmp_path)


NUM_STEPS = 100


def audio_task():
    pitch = torch.tensor([200.0, 400.0, 800.0, 1600.0])
    tones = 0.3 * torch.sin(2 * torch.pi * pitch[:, None, None] * torch.arange(3840) / 24000)
    vae = CausalAudioVAE(latent_channels=4, num_mels=20, encoder_dim=8, encoder_depth=1, decoder_dim=8, decoder_depth=1)
    return vae, tiny_audio_decoder(), AudioReconstructionLoss(fft_sizes=(256, 1024)), tones


def video_task():
    plain = picture(4, 3, 1, 1, 1).repeat(1, 1, 8, 32, 48)
    sizes = {"latent_channels": 4, "latent_width": 8, "cell_channels": 8, "fine_channels": 4}
    vae = CausalVideoVAE(spatial_strides=(1, 2), decoder_depth=1, **sizes)
    student = CausalVideoDecoder(spatial_strides=(1, 2), depth=1, **sizes)
    return vae, student, VideoReconstructionLoss(), plain


@pytest.mark.parametrize("task", [audio_task, video_task])
def test_distillation_teaches_the_student_alone(task, tmp_path):
    pytest.importorskip("lightning")
    from causal_codec.training import DecoderDistillation
    from lightning import Trainer

    torch.manual_seed(0)
    teacher, student, loss, media = task()
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    training = DecoderDistillation(teacher, student, loss, learning_rate=1e-2, max_steps=NUM_STEPS, max_noise=0.1)

    def distance() -> float:
        with torch.no_grad():
            latents = teacher.encode(media)[0].mode()
            return sum(loss(student(latents)[0], media).values()).item()

    untaught = distance()
    trainer = Trainer(max_steps=NUM_STEPS, accelerator="cpu", logger=False, enable_checkpointing=False)
    batches = DataLoader(media.repeat(NUM_STEPS, *[1] * (media.dim() - 1)), 4)
    trainer.fit(training, batches, DataLoader(media, 4))
    assert distance() < 0.9 * untaught  # a teacher that knows nothing yet holds it back
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    stored = torch.load(tmp_path / "last.ckpt", weights_only=False)["state_dict"]
    assert stored and all(name.startswith("student.") for name in stored)
