"""The certificate: sound parts pass, every planted fault is named, and the Transformer's cache keeps its mask."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from causal_vae import CausalAudioVAE, CausalConv1d, Certificate, certify, compare_certificates, compare_parts
from causal_vae.testing import check_causal, check_streaming
from streamer_core import CacheSpec
from streamer_pipeline.checks.certification import CoreStream, certify_checkpoint
from tiny_parts import tiny_pipeline

sys.path.insert(0, str(Path(__file__).parent))
from mutants import MUTANTS, SOUND, Case


def examine(case: Case) -> Certificate:
    torch.manual_seed(0)
    part = case.build()
    return certify(part, torch.randn(case.shape), num_partitions=6, num_steps=24)


@pytest.mark.parametrize("name", SOUND)
def test_sound_parts_pass(name):
    certificate = examine(SOUND[name])
    assert certificate.passed, certificate.table


@pytest.mark.parametrize("name", MUTANTS)
def test_planted_faults_are_named(name):
    certificate = examine(MUTANTS[name])
    assert MUTANTS[name].law in certificate.broken, certificate.table


def test_assertions_and_certificate_agree():
    """`check_streaming` and `check_causal` raise for a fault that the certificate lists, in the certificate's words."""
    case = MUTANTS["StateIsAView"]
    notes = [row.finding.note for row in examine(case).rows if row.finding.law == "state layout"]
    torch.manual_seed(0)
    with pytest.raises(AssertionError, match="state layout") as raised:
        check_streaming(case.build(), torch.randn(case.shape))
    assert notes[0] in str(raised.value)
    with pytest.raises(AssertionError, match="look-ahead"):
        check_causal(MUTANTS["Centred"].build(), torch.randn(3, 3, 12))


def test_a_vae_is_examined_both_ways_and_keeps_its_clock():
    torch.manual_seed(0)
    vae = CausalAudioVAE(latent_channels=4, encoder_dim=8, encoder_depth=1, decoder_dim=8, decoder_depth=1)
    certificate = certify(vae, 0.1 * torch.randn(2, 1, 3840), rate=24_000, num_steps=8)
    assert certificate.passed, certificate.table
    latency = {row.way: row.finding.measured for row in certificate.rows if row.finding.law == "latency"}
    assert latency == {"encode": 40, "decode": 40, "encode and decode": 40}  # one latent of 960 samples


def test_a_certificate_survives_json_and_says_what_broke():
    certificate = examine(MUTANTS["StateGrows"])
    assert Certificate.from_json(certificate.to_json()) == certificate
    assert not certificate.passed and "| forward | state layout |" in certificate.table
    with pytest.raises(ValueError, match="not a certificate"):
        Certificate.from_json("{}")


def test_certificates_lie_side_by_side():
    """A row per law, a column per part; only the law that a part breaks is marked, and only in its column."""
    columns = {"sound": examine(next(iter(SOUND.values()))), "grows": examine(MUTANTS["StateGrows"])}
    columns["grows"] = replace(
        columns["grows"], rows=columns["sound"].rows + columns["grows"].rows
    )  # in one way of two
    header, _, *lines = compare_certificates(columns).splitlines()
    assert header == "| law | sound | grows |"
    cells = {line.split("|")[1].strip(): [cell.strip() for cell in line.split("|")[2:4]] for line in lines}
    assert cells.keys() == {row.finding.law for row in columns["sound"].rows}
    assert not any("**no**" in sound for sound, _ in cells.values())
    assert {law for law, (_, grown) in cells.items() if grown.startswith("**no**")} == columns["grows"].broken
    assert len(columns["grows"].broken) < len(cells)


def test_parts_are_certified_side_by_side_and_each_certificate_is_kept(tmp_path):
    parts = {name: (CausalConv1d(3, 4, width), torch.randn(2, 3, 12), 100.0) for name, width in (("A b", 3), ("C", 5))}
    table = compare_parts(parts, tmp_path / "kept", num_partitions=2, num_steps=8)
    kept = {path.stem: Certificate.from_json(path.read_text()) for path in (tmp_path / "kept").iterdir()}
    assert kept.keys() == {"a-b", "c"}
    assert compare_certificates({"A b": kept["a-b"], "C": kept["c"]}) == table


def test_an_example_that_is_too_small_is_refused():
    with pytest.raises(ValueError, match="at least 2 streams of 3 chunks"):
        certify(CausalConv1d(3, 4, 5), torch.randn(1, 3, 12))


# ---- the Transformer: what is served against what is trained ----


class ContextRingOneShort(CoreStream):
    def make_cache_spec(self, capacity_units):
        c = self.streamer.config
        return CacheSpec(self.streamer.layout, 1, c.context_window, c.response_window + 1)


class NeverCommits(CoreStream):
    """The history keeps the noisy response in place of the clean one."""

    def _serve(self, unit, state):
        return super()._serve({**unit, "audio": unit["noisy_audio"], "video": unit["noisy_video"]}, state)


class TextNotSeen(CoreStream):
    """Served without what the user typed."""

    def _serve(self, unit, state):
        return super()._serve({**unit, "user_text": torch.zeros_like(unit["user_text"])}, state)


def certify_core(stream: CoreStream) -> Certificate:
    return certify(stream, stream.example(2, 4), num_partitions=1, num_steps=12)


def test_the_cached_path_of_the_core_keeps_the_training_mask():
    certificate = certify_core(CoreStream(tiny_pipeline().streamer))
    assert certificate.passed, certificate.table


@pytest.mark.parametrize("mutant", [ContextRingOneShort, NeverCommits, TextNotSeen])
def test_faults_of_the_cached_path_are_named(mutant):
    assert "offline form" in certify_core(mutant(tiny_pipeline().streamer)).broken


# ---- checkpoints ----


def test_a_saved_part_is_certified_by_its_class(tmp_path):
    tiny_pipeline().audio_decoder.save_pretrained(tmp_path)
    certificates = certify_checkpoint(str(tmp_path))
    assert list(certificates) == ["CausalAudioDecoder"] and certificates["CausalAudioDecoder"].passed


def test_a_folder_without_a_part_says_so(tmp_path):
    with pytest.raises(OSError, match="not a folder here"):
        certify_checkpoint(str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match="no pipeline and no part"):
        certify_checkpoint(str(tmp_path))
    (tmp_path / "config.json").write_text('{"_class_name": "SomeoneElsesVAE"}')
    with pytest.raises(ValueError, match="--package"):
        certify_checkpoint(str(tmp_path))
