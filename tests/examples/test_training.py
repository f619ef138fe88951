"""The three stages run one after the other from stored dyads, continue where they were, and show what they made."""

import pytest
import torch
import train_senses
from causal_codec import CausalAudioEncoder, CausalVideoEncoder
from causal_vae import CausalAudioVAE, CausalVideoVAE
from duplex_world.agent_voice import AgentVoice
from duplex_world.dyad import build_dyad
from duplex_world.training_tensors import build_tokenizer, encode_dyad
from safetensors.torch import save_file
from streamer_core import StreamerModel
from streamer_pipeline import RecordingReader, RecordingWriter
from tiny_parts import random_units
from train_streamer import main

SENSES = {"ears": (CausalAudioEncoder, "audio_encoder"), "eyes": (CausalVideoEncoder, "video_encoder")}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder with two dyads, their latents by untrained VAEs, those VAEs, and a recording of two units."""
    folder, tokenizer = tmp_path_factory.mktemp("data"), build_tokenizer()
    torch.manual_seed(0)
    audio_vae, video_vae = CausalAudioVAE().eval(), CausalVideoVAE().eval()
    audio_vae.save_pretrained(folder / "audio_vae")
    video_vae.save_pretrained(folder / "video_vae")
    tensors = {}
    for seed, scenario in enumerate(("name", "wave")):
        dyad = build_dyad(seed, scenario, AgentVoice())
        encoded = encode_dyad(dyad, tokenizer)
        units = dyad.num_units
        encoded |= {"audio_latents": torch.randn(16, units * 4), "video_latents": torch.randn(32, units, 4, 7)}
        tensors |= {f"{seed}.{name}": tensor for name, tensor in encoded.items()}
    save_file(tensors, folder / "dyads-0000000.safetensors")
    tokenizer.save_pretrained(folder / "tokenizer")
    with RecordingWriter(folder / "recording.mp4", 48, 96) as writer:
        for unit in random_units(2):
            writer.write(unit)
    return folder


def train(data, run, stage, max_steps, **options):
    """In float32, which is quick everywhere; bfloat16 is not where the processor does not multiply it."""
    options |= {"size": "smoke", "max_steps": max_steps, "validate_every": 2, "precision": "32-true"}
    main(stage=stage, dyads=data, val_dyads=data, run=run, **options)
    return StreamerModel.from_pretrained(run / "streamer")


def test_the_senses_can_be_given_to_the_first_stage(data, tmp_path):
    for sense, (kind, name) in SENSES.items():
        train_senses.main(train_senses.Sense(sense), tmp_path / sense, data, data, max_steps=2, precision="32-true")
        assert isinstance(kind.from_pretrained(tmp_path / sense / name), kind)
    learned = {"audio_encoder": tmp_path / "ears/audio_encoder", "video_encoder": tmp_path / "eyes/video_encoder"}
    train(data, tmp_path / "stage1", 1, 1, learning_rate=1e-9, **learned)
    before, after = (
        CausalAudioEncoder.from_pretrained(run / "audio_encoder") for run in (tmp_path / "ears", tmp_path / "stage1")
    )
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(before.parameters(), after.parameters(), strict=True))


def test_three_stages_follow_each_other(data, tmp_path):
    """Each starts from the weights of the one before: steps are small, and another seed would begin elsewhere."""
    first = train(data, tmp_path / "stage1", 1, 2)
    shown = {"sample": data / "recording.mp4"} | {name: data / name for name in ("audio_vae", "video_vae")}
    second = train(data, tmp_path / "stage2", 2, 2, start_from=tmp_path / "stage1", seed=1, **shown)
    shown = RecordingReader(tmp_path / "stage2" / "samples" / "000002-agent.mp4", 192, 672)
    assert len(list(shown)) == 2
    assert (tmp_path / "stage2" / "metrics.png").stat().st_size > 1000
    third = train(data, tmp_path / "stage3", 3, 2, start_from=tmp_path / "stage2", seed=2)
    for before, after in ((first, second), (second, third)):
        assert not torch.equal(before.audio_out.weight, after.audio_out.weight)
        torch.testing.assert_close(before.audio_out.weight, after.audio_out.weight, rtol=0, atol=1e-3)
    assert "val/duplex_video_gap" in (tmp_path / "stage3" / "metrics" / "version_0" / "metrics.csv").read_text()


@pytest.mark.parametrize(
    "script", ["streamer", *(pytest.param(sense, marks=pytest.mark.slow) for sense in ("ears", "eyes"))]
)
def test_a_run_that_continues_is_the_run_without_a_break(data, tmp_path, script):
    """It meets new data with new noise; so few steps are all warm-up, which does not know how many there will be."""

    def weights(run, max_steps):
        if script == "streamer":
            return train(data, run, 1, max_steps, num_threads=1).state_dict()
        train_senses.main(train_senses.Sense(script), run, data, data, max_steps=max_steps, precision="32-true")
        kind, name = SENSES[script]
        return kind.from_pretrained(run / name).state_dict()

    first, continued, whole = weights(tmp_path / "a", 2), weights(tmp_path / "a", 3), weights(tmp_path / "b", 3)
    assert torch.load(tmp_path / "a" / "checkpoints" / "last.ckpt", weights_only=False)["global_step"] == 3
    assert all(torch.equal(continued[name], weight) for name, weight in whole.items())
    assert not all(torch.equal(continued[name], weight) for name, weight in first.items())
