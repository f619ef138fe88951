"""Encoders with public weights against transformers' own models: same folders, same numbers, but in live units."""

import json

import pytest
import torch
from causal_codec import SiglipVideoEncoder, VoxtralAudioEncoder
from transformers import (
    AutoModel,
    Siglip2Config,
    Siglip2ImageProcessor,
    Siglip2Model,
    Siglip2VisionModel,
    VoxtralRealtimeConfig,
    VoxtralRealtimeEncoder,
    VoxtralRealtimeFeatureExtractor,
    VoxtralRealtimeForConditionalGeneration,
)

TINY = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
AUDIO = {
    **TINY,
    "head_dim": 8,
    "num_mel_bins": 16,
    "sliding_window": 6,  # shorter than the recording
    "rope_parameters": {"rope_type": "default", "rope_theta": 500.0},
}
LANGUAGE = {**TINY, "head_dim": 8, "num_key_value_heads": 2, "vocab_size": 40}
VISION = {**TINY, "patch_size": 4, "num_patches": 16}


def stir(model: torch.nn.Module) -> torch.nn.Module:
    """Weights that matter: no norm is all ones, no bias zero."""
    torch.manual_seed(0)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model.eval()


@pytest.fixture(scope="module")
def voxtral(tmp_path_factory) -> tuple[VoxtralRealtimeEncoder, dict]:
    """The original encoder, and folders of the whole model and of it alone."""
    folder = tmp_path_factory.mktemp("voxtral")
    config = VoxtralRealtimeConfig(audio_config=AUDIO, text_config=LANGUAGE)
    whole = stir(VoxtralRealtimeForConditionalGeneration(config))
    whole.save_pretrained(folder / "whole")
    whole.model.audio_tower.save_pretrained(folder / "tower")
    return whole.model.audio_tower, {"whole": folder / "whole", "tower": folder / "tower"}


@pytest.fixture(scope="module")
def siglip(tmp_path_factory) -> tuple[Siglip2VisionModel, dict]:
    folder = tmp_path_factory.mktemp("siglip")
    whole = stir(Siglip2Model(Siglip2Config(vision_config=VISION, text_config={**TINY, "vocab_size": 40})))
    whole.save_pretrained(folder / "whole")
    whole.vision_model.save_pretrained(folder / "tower")
    return whole.vision_model, {"whole": folder / "whole", "tower": folder / "tower"}


@pytest.mark.parametrize("source", ["whole", "tower"])
@torch.no_grad()
def test_hearing_in_units_is_voxtrals_hearing_of_the_whole(voxtral, source):
    """From 16 kHz on: its feature extractor on windows that end with their hop, then its encoder, then the new part."""
    original, folders = voxtral
    encoder = VoxtralAudioEncoder.from_voxtral(folders[source], output_dim=12).eval()
    audio = 0.3 * torch.randn(2, 1, 4 * 3840)
    resample = next(encoder.front_end.children())
    wave = resample(audio)[0][:, 0]
    assert wave.shape == (2, 4 * 2560)
    extractor = VoxtralRealtimeFeatureExtractor(feature_size=16)
    padded = torch.cat([torch.zeros(2, 240), wave, torch.zeros(2, 160)], dim=1)  # the extractor drops its last frame
    mel = extractor(list(padded.numpy()), sampling_rate=16_000, center=False, return_tensors="pt").input_features
    frames = original(mel).last_hidden_state
    torch.testing.assert_close(encoder.tower(mel)[0], frames, atol=1e-5, rtol=0)
    expected = encoder.norm(encoder.project(frames.reshape(2, 8, 4 * 32)))
    for units in ([1, 1, 1, 1], [3, 1], [4]):
        state, tokens = None, []
        for chunk in audio.split([count * 3840 for count in units], dim=2):
            heard, state = encoder(chunk, state)
            tokens.append(heard)
        torch.testing.assert_close(torch.cat(tokens, dim=1), expected, atol=1e-4, rtol=0)


@torch.no_grad()
def test_tones_below_8_khz_come_through_late_and_those_above_do_not(voxtral):
    resample = next(VoxtralAudioEncoder.from_voxtral(voxtral[1]["tower"]).front_end.children()).double()
    seconds = torch.arange(4800, dtype=torch.float64) / 24_000
    late = torch.arange(3200, dtype=torch.float64) / 16_000 - 47 / 48_000
    for frequency, gain in ((200, 1.0), (3000, 1.0), (6000, 1.0), (9000, 0.0), (11_000, 0.0)):
        tone = resample(torch.sin(2 * torch.pi * frequency * seconds)[None, None])[0][0, 0]
        expected = gain * torch.sin(2 * torch.pi * frequency * late)
        torch.testing.assert_close(tone[100:], expected[100:], atol=1e-2, rtol=0)


@pytest.mark.parametrize("source", ["whole", "tower"])
@torch.no_grad()
def test_seeing_is_siglips_seeing_of_each_picture(siglip, source):
    original, folders = siglip
    size = {"image_height": 12, "image_width": 24}
    encoder = SiglipVideoEncoder.from_siglip2(folders[source], output_dim=12, **size).eval()
    video = torch.rand(2, 3, 8, 12, 24)
    processor = Siglip2ImageProcessor(patch_size=4, max_num_patches=20, do_resize=False, do_rescale=False)
    pictures = video[:, :, 3::4].transpose(1, 2).flatten(0, 1)  # the last of every four
    features = original(**processor(list(pictures), return_tensors="pt")).last_hidden_state[:, :18]
    torch.testing.assert_close(encoder.look(pictures * 2 - 1), features, atol=1e-5, rtol=0)
    tokens, _ = encoder(video * 2 - 1)
    assert tokens.shape == (2, 2 * 2, 12) and encoder.config.tokens_per_unit == 2
    left = features.reshape(4, 3, 6, 32)[:, :, :3].flatten(1)  # 3 x 3 patches to a token, row by row
    torch.testing.assert_close(tokens.reshape(4, 2, 12)[:, 0], encoder.norm(encoder.project(left)), atol=1e-5, rtol=0)


@pytest.mark.parametrize("sense", ["hear", "see"])
def test_a_frozen_tower_stays_and_the_new_parts_learn(voxtral, siglip, sense):
    if sense == "hear":
        encoder, media = VoxtralAudioEncoder.from_voxtral(voxtral[1]["tower"]), 0.1 * torch.randn(1, 1, 3840)
    else:
        encoder = SiglipVideoEncoder.from_siglip2(siglip[1]["tower"], image_height=12, image_width=12)
        media = torch.rand(1, 3, 4, 12, 12)
    for frozen in (False, True):
        encoder.tower.requires_grad_(not frozen)
        encoder.zero_grad()
        encoder(media)[0].square().sum().backward()
        assert all(parameter.grad is not None for parameter in encoder.project.parameters())
        assert any(parameter.grad is not None for parameter in encoder.tower.parameters()) != frozen


def test_ours_are_saved_and_found_by_automodel(voxtral, siglip, tmp_path):
    encoders = {
        "ears": VoxtralAudioEncoder.from_voxtral(voxtral[1]["whole"], tokens_per_unit=4, sliding_window=5),
        "eyes": SiglipVideoEncoder.from_siglip2(siglip[1]["whole"], image_height=12, image_width=12),
    }
    for name, encoder in encoders.items():
        encoder.save_pretrained(tmp_path / name)
        again = AutoModel.from_pretrained(tmp_path / name)
        assert type(again) is type(encoder)
        for key, weight in encoder.state_dict().items():
            assert torch.equal(again.state_dict()[key], weight), key
    assert encoders["ears"].stride == 960 and encoders["ears"].config.sliding_window == 5


def test_other_checkpoints_and_shapes_are_refused(voxtral, siglip, tmp_path):
    with pytest.raises(ValueError, match="'siglip2' checkpoint; expected 'voxtral_realtime'"):
        VoxtralAudioEncoder.from_voxtral(siglip[1]["whole"])
    with pytest.raises(ValueError, match="expected 'siglip2' or 'siglip2_vision_model'"):
        SiglipVideoEncoder.from_siglip2(voxtral[1]["tower"])
    with pytest.raises(ValueError, match=r"multiples of 12 .*got 12 x 20"):
        SiglipVideoEncoder.from_siglip2(siglip[1]["tower"], image_height=12, image_width=20)
    with pytest.raises(ValueError, match="must divide the tower's 8 frames per unit; got 3"):
        VoxtralAudioEncoder.from_voxtral(voxtral[1]["tower"], tokens_per_unit=3)
    voxtral[0].save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text()) | {"num_hidden_layers": 3}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"do not fit VoxtralRealtimeEncoder.*layers\.2"):
        VoxtralAudioEncoder.from_voxtral(tmp_path)
