"""`wan-streamer certify`: sound parts and pipelines pass, a faulty part fails by name, and all is written down."""

import json
import sys

import pytest
from causal_vae import Certificate
from streamer_pipeline import StreamerPipeline
from streamer_pipeline.cli import app
from tiny_parts import tiny_pipeline
from typer.testing import CliRunner

FAULTY_LAB = '''
import torch
from causal_vae import StreamingModule
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config


class LastStep(ModelMixin, StreamingModule, ConfigMixin):
    """Adds the step before, which it keeps on itself instead of in its state."""

    @register_to_config
    def __init__(self, channels=3):
        super().__init__()
        self.gain = torch.nn.Parameter(torch.ones(channels, 1))
        self.last = None

    def chunk_shape(self):
        return self.config.channels, 2

    def forward(self, x, state=None):
        last = torch.zeros_like(x[:, :, :1]) if self.last is None or len(self.last) != len(x) else self.last
        self.last = x[:, :, -1:].clone()
        return self.gain * x + torch.cat([last, x[:, :, :-1]], dim=2), {"nothing": torch.zeros(len(x), 1)}
'''


def certify(path, out, *options: object):
    arguments = ["certify", path, "--out", out, *options]
    return CliRunner(env={"COLUMNS": "240"}).invoke(app, list(map(str, arguments)))


def read(path) -> dict[str, Certificate]:
    return {name: Certificate.from_json(json.dumps(found)) for name, found in json.loads(path.read_text()).items()}


def test_a_sound_part_passes(tmp_path):
    tiny_pipeline().audio_decoder.save_pretrained(tmp_path / "part")
    result = certify(tmp_path / "part", tmp_path / "certificate.json")
    assert result.exit_code == 0, result.output
    certificates = read(tmp_path / "certificate.json")
    assert list(certificates) == ["CausalAudioDecoder"] and certificates["CausalAudioDecoder"].passed
    assert "holds" in result.output and "broken" not in result.output


@pytest.mark.parametrize("part", ["streamer", "video_encoder", "audio_decoder"])
def test_a_sound_part_passes_in_bfloat16(tmp_path, part):
    pipeline = tiny_pipeline(num_hidden_layers=1, context_window=3, response_window=2)
    getattr(pipeline, part).save_pretrained(tmp_path / "part")
    result = certify(tmp_path / "part", tmp_path / "certificate.json", "--dtype", "bfloat16")
    assert result.exit_code == 0, result.output
    (certificate,) = read(tmp_path / "certificate.json").values()
    assert certificate.passed


def test_every_streaming_part_of_a_sound_pipeline_passes(tmp_path):
    parts = tiny_pipeline(num_hidden_layers=1, context_window=3, response_window=2).components
    StreamerPipeline(**parts | {"audio_vae": None, "video_vae": None}).save_pretrained(tmp_path / "pipeline")
    result = certify(tmp_path / "pipeline", tmp_path / "certificate.json", "--height", 48, "--width", 72)
    assert result.exit_code == 0, result.output
    certificates = read(tmp_path / "certificate.json")
    assert certificates.keys() == {"streamer", "audio_encoder", "video_encoder", "audio_decoder", "video_decoder"}
    assert all(certificate.passed for certificate in certificates.values())
    assert all(f"{name}: {certificates[name].component}" in result.output for name in certificates)


@pytest.fixture
def faulty_part(tmp_path, monkeypatch):
    """A saved part of a package that can be imported, but is not yet."""
    (tmp_path / "faulty_lab.py").write_text(FAULTY_LAB)
    monkeypatch.syspath_prepend(tmp_path)
    import faulty_lab

    faulty_lab.LastStep().save_pretrained(tmp_path / "part")
    monkeypatch.delitem(sys.modules, "faulty_lab")
    return tmp_path / "part"


def test_a_faulty_part_fails_and_its_law_is_named(tmp_path, faulty_part):
    result = certify(faulty_part, tmp_path / "certificate.json", "--package", "faulty_lab")
    assert result.exit_code == 1
    broken = read(tmp_path / "certificate.json")["LastStep"].broken
    assert "start of stream" in broken
    lines = [line for line in result.stdout.splitlines() if "broken" in line]
    assert {law for law in broken if any(law in line for line in lines)} == broken
    assert f"the contract is broken. LastStep: {', '.join(sorted(broken))}" in " ".join(result.stderr.split())


def test_a_stranger_needs_its_package_named(tmp_path, faulty_part):
    for options, message in {(): "name its own with --package", ("--package", "absent_lab"): "absent_lab"}.items():
        result = certify(faulty_part, tmp_path / "certificate.json", *options)
        assert result.exit_code == 1 and message in " ".join(result.stderr.split())
    assert not (tmp_path / "certificate.json").exists()
