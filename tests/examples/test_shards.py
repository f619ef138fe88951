"""Stored dyads: what is written is what is read, whoever interrupts the writing."""

import json
import tarfile

import numpy as np
import pytest
import torch
from causal_vae import CausalVideoVAE
from duplex_world.agent_voice import AgentVoice
from duplex_world.dyad import build_dyad
from duplex_world.grammar import USER_PHRASINGS
from duplex_world.render import render_frames
from duplex_world.shards import is_built, write_shard
from duplex_world.splits import SPLITS, USER_VOICES, is_held_out_phrasing, phrasing
from duplex_world.tensors import to_video
from duplex_world.training_tensors import build_tokenizer, encode_dyad
from streamer_pipeline import StreamerPipeline, read_dataset_info, read_dyads
from streamer_pipeline.data import shards
from streamer_pipeline.data.encoding import DyadEncoder
from tiny_parts import tiny_pipeline

SCENARIOS = ("greet", "silence", "interrupt")


@pytest.fixture(scope="module")
def dyads():
    voice = AgentVoice()
    return [build_dyad(2_000_000 + i, name, voice) for i, name in enumerate(SCENARIOS)]


@pytest.fixture(scope="module")
def folder(dyads, tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    write_shard(folder / "test-00000.tar", dyads[:2])
    write_shard(folder / "test-00001.tar", dyads[2:])
    return folder


def test_what_is_read_is_what_was_built(dyads, folder):
    stored = list(read_dyads(folder, "test"))
    assert [dyad.key for dyad in stored] == [f"{dyad.seed:07d}" for dyad in dyads]
    for dyad, read in zip(dyads, stored, strict=True):
        labels = dyad.labels()
        assert (read.labels["scenario"], read.labels["num_units"]) == (labels["scenario"], labels["num_units"])
        owed = [(what["kind"], what["text"], what["first_unit"], what["end_unit"]) for what in labels["expect"]]
        assert owed == [(w["kind"], w["text"], w["first_unit"], w["end_unit"]) for w in read.labels["expect"]]
        assert read.num_units == dyad.num_units
        for side in ("user", "agent"):
            wave = torch.from_numpy(getattr(dyad, f"{side}_audio"))
            assert (getattr(read, f"{side}_audio")[0] - wave).abs().max() < 2 / 32768
            drawn = to_video(render_frames(getattr(dyad, f"{side}_motion"), getattr(dyad, f"{side}_identity")))
            error = (getattr(read, f"{side}_video") - drawn).square().mean()
            assert 10 * torch.log10(4 / error) > 30
        assert np.allclose(read.labels["agent"]["motion"]["mouth_open"], dyad.agent_motion["mouth_open"], atol=1e-3)


def test_a_shard_is_trained_on_like_the_dyads_that_prepare_dyads_stores(dyads, folder):
    """Words of both sides, unit by unit, and when the agent speaks."""
    tokenizer = build_tokenizer()
    grid = {"video_latent_height": 4, "video_latent_width": 7, "video_patch_height": 4}
    parts = tiny_pipeline(vocab_size=len(tokenizer), **grid).components
    vae = CausalVideoVAE(latent_channels=4, latent_width=8, cell_channels=8, fine_channels=4, decoder_depth=1)
    parts |= {"tokenizer": tokenizer, "video_vae": vae, "video_decoder": None}
    encoder = DyadEncoder(StreamerPipeline(**parts))
    spoken = [0, 0]
    for dyad, stored in zip(dyads, read_dyads(folder, "test"), strict=True):
        found, expected = encoder(stored), encode_dyad(dyad, tokenizer)
        for name in ("state", "text", "user_heard"):
            assert torch.equal(found[name], expected[name]), name
        assert found["pictured"].all() and len(found["state"]) == dyad.num_units
        spoken[0] += int((found["text"] != tokenizer.pad_token_id).sum())
        spoken[1] += int((found["user_heard"] != tokenizer.pad_token_id).sum())
    assert min(spoken) > 3


def test_the_same_dyads_give_the_same_bytes(dyads, folder, tmp_path):
    write_shard(tmp_path / "test-00000.tar", dyads[:2])
    assert (tmp_path / "test-00000.tar").read_bytes() == (folder / "test-00000.tar").read_bytes()


def test_an_interrupted_shard_has_no_name(dyads, tmp_path):
    def broken():
        yield dyads[1]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_shard(tmp_path / "test-00000.tar", broken())
    assert not list(tmp_path.glob("*.tar"))


def test_what_cannot_be_read_is_said(folder, tmp_path):
    with pytest.raises(ValueError, match="no shards val-"):
        next(read_dyads(folder, "val"))
    with pytest.raises(ValueError, match=r"no dataset_info\.json"):
        read_dataset_info(tmp_path)
    with tarfile.open(folder / "test-00000.tar") as tar:
        tar.extractall(tmp_path, filter="data")
    (tmp_path / "2000000.user.flac").write_bytes(b"no sound")
    with tarfile.open(tmp_path / "test-00000.tar", "w") as tar:
        for path in sorted(tmp_path.glob("2000000.*")):
            tar.add(path, path.name)
    with pytest.raises(ValueError, match=r"dyad 2000000 .* cannot be read"):
        next(read_dyads(tmp_path, "test"))


def test_a_damaged_shard_is_said(folder, tmp_path):
    shard = (folder / "test-00000.tar").read_bytes()
    (tmp_path / "test-00000.tar").write_bytes(shard[: len(shard) * 3 // 4])
    with pytest.raises(ValueError, match="is damaged"):
        list(read_dyads(tmp_path, "test"))
    (tmp_path / "dataset_info.json").write_text("{")
    with pytest.raises(ValueError, match="is damaged"):
        read_dataset_info(tmp_path)


def test_a_finished_shard_is_kept_and_a_shorter_one_is_not(dyads, folder):
    shard = folder / "test-00000.tar"
    wanted = [(dyad.seed, dyad.scenario, dyad.response_delay) for dyad in dyads]
    assert is_built(shard, wanted[:2]) and is_built(shard, wanted[:1])
    assert not is_built(shard, wanted)
    assert not is_built(folder / "test-00009.tar", wanted)
    with pytest.raises(ValueError, match="another folder"):
        is_built(shard, [(seed, scenario, 2) for seed, scenario, _ in wanted])


def test_a_shard_from_before_transcripts_is_built_again(dyads, tmp_path):
    def members(dyad):
        labels = dyad.labels()
        del labels["user"]["transcript"], labels["agent"]["transcript"]
        return {"json": json.dumps(labels).encode()}

    shard = tmp_path / "test-00000.tar"
    shards.write_shard(shard, [(str(dyad.seed), members(dyad)) for dyad in dyads])
    assert not is_built(shard, [(dyads[0].seed, dyads[0].scenario, dyads[0].response_delay)])


def test_no_voice_is_in_two_splits():
    speakers = {split: {voice.partition("+")[2] for voice in USER_VOICES[split]} - {""} for split in SPLITS}
    for split in ("val", "test"):
        assert not speakers[split] & speakers["train"]
        assert not set(USER_VOICES[split]) & set(USER_VOICES["train"])


def test_held_out_phrasings_are_met_in_test_alone():
    rng = np.random.default_rng(0)
    drawn = {
        split: [phrasing(split, rng, request) for request in USER_PHRASINGS for _ in range(60)] for split in SPLITS
    }
    assert not any(map(is_held_out_phrasing, drawn["train"]))
    assert any(map(is_held_out_phrasing, drawn["test"]))
