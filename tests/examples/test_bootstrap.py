"""A pipeline assembled from public classes speaks its language model's language, and lives after saving and loading."""

import subprocess
import sys
from pathlib import Path

import bootstrap_from_public_weights as bootstrap
import pytest
import torch
from causal_vae import MimiAudioVAE, WanVideoVAE
from duplex_world.public_stand_ins import TEXTS
from loopback_hub import LoopbackHub
from streamer_core import StreamerTokenizer
from streamer_pipeline import StreamerPipeline
from tiny_parts import SIZE, random_units
from transformers import AutoTokenizer, Qwen3ForCausalLM


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bootstrap")
    bootstrap.main(out=folder)
    return folder


@pytest.fixture(scope="module")
def pipeline(out):
    return StreamerPipeline.from_pretrained(out / "pipeline")


def test_the_saved_pipeline_answers(pipeline):
    assert isinstance(pipeline.audio_vae, MimiAudioVAE) and isinstance(pipeline.video_vae, WanVideoVAE)
    session = pipeline.open_session(prompt="hello there", height=SIZE[0], width=SIZE[1])
    answers = [session.step(unit) for unit in random_units(2)]
    for answer in answers:
        assert answer.audio.shape == (1, 3840) and answer.video.shape == (3, 4, 48, 96)
        assert torch.isfinite(answer.audio).all() and torch.isfinite(answer.video).all()
        assert answer.state in ("listen", "speak")
    assert session.nbytes() == pipeline.session_nbytes(prompt="hello there", height=SIZE[0], width=SIZE[1])


@torch.no_grad()
def test_the_language_is_qwens_own(out, pipeline):
    """The control tokens take rows that were spare: no logit changes, and no id of any text."""
    qwen = Qwen3ForCausalLM.from_pretrained(out / "stand_ins/qwen3").eval()
    tokenizer = AutoTokenizer.from_pretrained(out / "stand_ins/qwen3")
    for text in [*TEXTS, "Ünïcode, 日本 and 12 numbers <|endoftext|>"]:
        ids = tokenizer(text, return_tensors="pt").input_ids
        assert ids.tolist() == pipeline.tokenizer(text, return_tensors="pt").input_ids.tolist()
        torch.testing.assert_close(pipeline.streamer.text_forward(ids), qwen(ids).logits, atol=1e-5, rtol=1e-5)


def test_control_tokens_follow_qwens_and_are_silent(out, pipeline):
    source = AutoTokenizer.from_pretrained(out / "stand_ins/qwen3")
    ours, config = pipeline.tokenizer, pipeline.streamer.config
    assert isinstance(ours, StreamerTokenizer)
    control = [ours.pad_token_id, *ours.state_ids.values()]
    assert control == [len(source), len(source) + 1, len(source) + 2]
    assert [config.pad_token_id, *config.state_token_ids] == control
    words = ours.encode_words("how are") + ours.encode_words("you?")
    assert ours.decode_slots([control[0], *words, source.eos_token_id, *control]) == " how are you?"


def test_the_report_says_what_is_new_and_what_is_trained(capsys, tmp_path):
    bootstrap.main(out=tmp_path, train_senses=True)
    printed = capsys.readouterr().out
    parts = StreamerPipeline.from_pretrained(tmp_path / "pipeline")
    assert f"tokens per unit of 160 ms: {parts.streamer.layout.num_tokens} (" in printed
    assert f"bytes per session: {parts.session_nbytes(height=48, width=96):,} (" in printed
    for name in ("audio_encoder", "video_encoder"):
        total, new, trained = bootstrap.count(getattr(parts, name), name)
        assert total == trained and 0 < new < total and f"{new:,}" in printed
    total, new, _ = bootstrap.count(parts.streamer, "streamer")
    assert 0 < new < total and f"{new:,}" in printed
    assert bootstrap.count(parts.video_vae, "video_vae")[1] == 0


def test_hub_ids_give_the_same_public_weights(out, pipeline, tmp_path):
    """Every part by its id, from a Hub: Wan's VAE is a folder in the repository of a whole pipeline there."""
    names = {"qwen3": "qwen3", "wan-vae": "wan", "mimi": "mimi", "voxtral": "voxtral", "siglip2": "siglip2"}
    with LoopbackHub() as hub:
        for option, name in names.items():
            hub.add(f"org/{name}", out / "stand_ins" / option.replace("-", "_"))
        hub.repos["org/wan"] = {f"vae/{file}": content for file, content in hub.repos["org/wan"].items()}
        ids = [word for option, name in names.items() for word in (f"--{option}", f"org/{name}")]
        command = [sys.executable, Path(bootstrap.__file__), "--out", tmp_path / "out", *ids]
        environment = hub.environment(tmp_path / "home")
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "stand-in" not in done.stdout and "org/mimi" in done.stdout
    found = StreamerPipeline.from_pretrained(tmp_path / "out/pipeline")
    whole, within = {"audio_vae": "", "video_vae": ""}, {"audio_encoder": "tower.", "video_encoder": "tower."}
    for part, public in (whole | within | {"streamer": "model."}).items():
        weights = getattr(found, part).state_dict()
        for key, weight in getattr(pipeline, part).state_dict().items():
            assert not key.startswith(public) or torch.equal(weights[key], weight), (part, key)
