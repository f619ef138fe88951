"""Ears are taught and scored: nothing else of the agent changes, a broken run goes on, and rows count what they say."""

import csv
from dataclasses import replace
from pathlib import Path

import pytest
import score_ears
import teach_ears
import torch
import typer
from causal_codec import CausalAudioEncoder, CausalVideoEncoder, CausalVideoEncoderConfig, SpeechEmbeddingAudioEncoder
from duplex_world.agent_voice import AgentVoice
from duplex_world.dyad import build_dyad
from duplex_world.espeak import speak
from duplex_world.hearing import Heard, Spellable, WatchedDyads
from duplex_world.splits import SPLIT_SIZE, SPLITS
from duplex_world.training_tensors import LOOK_SIZE, build_tokenizer, encode_dyad
from duplex_world.understanding import HeardUser, talk, users
from duplex_world.voice_bank import VoiceBank, make_bank
from safetensors.torch import save_file
from streamer_core import StreamerTokenizer
from streamer_pipeline import StreamerPipeline
from streamer_pipeline.data.tasks import Mixture
from streamer_pipeline.evaluation.closed_loop import converse, without_picture
from tiny_parts import tiny_pipeline
from transformers import AutoModel


@pytest.fixture(scope="module")
def tokenizer() -> StreamerTokenizer:
    return build_tokenizer()


@pytest.fixture(scope="module")
def checkpoint(tokenizer, tmp_path_factory) -> Path:
    """Tiny parts with random weights and the world's words."""
    vocabulary = {
        "vocab_size": len(tokenizer),
        "pad_token_id": tokenizer.pad_token_id,
        "state_token_ids": list(tokenizer.state_ids.values()),
    }
    pipeline = tiny_pipeline(**vocabulary)
    shape = pipeline.video_encoder.config.to_dict() | {"image_height": LOOK_SIZE[0], "image_width": LOOK_SIZE[1]}
    eyes = CausalVideoEncoder(CausalVideoEncoderConfig(**shape))
    parts = pipeline.components | {"tokenizer": tokenizer, "video_encoder": eyes}
    folder = tmp_path_factory.mktemp("checkpoint")
    StreamerPipeline(**parts, prompt="you are ada", num_inference_steps=1).save_pretrained(folder)
    return folder


def store(folder: Path, tokenizer: StreamerTokenizer, scenarios: tuple[str, ...], first_seed: int = 0) -> None:
    tensors = {}
    for seed, scenario in enumerate(scenarios, first_seed):
        encoded = encode_dyad(build_dyad(seed, scenario, AgentVoice()), tokenizer)
        tensors |= {f"{seed}.{name}": tensor for name, tensor in encoded.items()}
    save_file(tensors, folder / f"dyads-{first_seed:07d}.safetensors")


@pytest.fixture(scope="module")
def dyads(tokenizer, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("dyads")
    store(folder, tokenizer, ("name", "color"))
    tokenizer.save_pretrained(folder / "tokenizer")
    return folder


def teach(dyads: Path, run: Path, checkpoint: Path, max_steps: int, **options) -> dict[str, torch.Tensor]:
    settings = {"batch_size": 2, "precision": "32-true"} | options
    teach_ears.main(dyads, run, str(checkpoint), max_steps=max_steps, **settings)
    return AutoModel.from_pretrained(run / "audio_encoder").state_dict()


def validations(run: Path) -> list[dict[str, str]]:
    """The rows of a run's metrics that were written by validation, without the step."""
    with open(next((run / "metrics").rglob("metrics.csv"))) as file:
        rows = [{name: value for name, value in row.items() if name.startswith("val/")} for row in csv.DictReader(file)]
    return [row for row in rows if any(row.values())]


# ---- teaching ----


def test_only_the_ears_learn(dyads, checkpoint, tmp_path):
    learned = teach(dyads, tmp_path, checkpoint, 2)
    before = StreamerPipeline.from_pretrained(checkpoint)
    assert not all(torch.equal(learned[name], weight) for name, weight in before.audio_encoder.state_dict().items())
    trained = torch.load(tmp_path / "checkpoints/last.ckpt", weights_only=False)["state_dict"]
    for part in ("streamer", "video_encoder"):
        for name, weight in getattr(before, part).state_dict().items():
            assert torch.equal(trained[f"{part}.{name}"], weight), name
    assert isinstance(CausalAudioEncoder.from_pretrained(tmp_path / "audio_encoder"), CausalAudioEncoder)


def test_a_run_that_continues_is_the_run_without_a_break(dyads, checkpoint, tmp_path):
    first = teach(dyads, tmp_path / "a", checkpoint, 2)
    continued, whole = teach(dyads, tmp_path / "a", checkpoint, 3), teach(dyads, tmp_path / "b", checkpoint, 3)
    assert all(torch.equal(continued[name], weight) for name, weight in whole.items())
    assert not all(torch.equal(continued[name], weight) for name, weight in first.items())


def test_validation_says_the_same_of_the_same_ears(dyads, checkpoint, tmp_path, monkeypatch):
    """Ears that do not learn are validated twice in one run, and once more in another."""
    monkeypatch.setattr(teach_ears, "VALIDATION_BATCHES", 2)
    still = {"val_dyads": [dyads], "validate_every": 1, "learning_rate": 0.0}
    teach(dyads, tmp_path / "a", checkpoint, 2, **still)
    teach(dyads, tmp_path / "b", checkpoint, 1, **still)
    (first, second), (other,) = validations(tmp_path / "a"), validations(tmp_path / "b")
    assert first == second == other
    assert any(name.startswith(f"val/{dyads.name}_words") for name in first)


def test_the_public_embedding_stays_as_it_is_when_ears_are_given_it(dyads, checkpoint, tmp_path):
    learned = teach(dyads, tmp_path, checkpoint, 2, speech_embedding=True)
    ears = StreamerPipeline.from_pretrained(checkpoint).audio_encoder
    given = SpeechEmbeddingAudioEncoder.from_encoder(ears).state_dict()
    changed = {name for name, weight in given.items() if not torch.equal(learned[name], weight)}
    public = {name for name in given if name.startswith("embedding.")}
    assert public and changed and not public & changed


def test_dyads_of_another_tokenizer_are_refused(dyads, tmp_path):
    tiny_pipeline().save_pretrained(tmp_path / "other")
    with pytest.raises(typer.BadParameter, match="stored with another tokenizer"):
        teach_ears.main(dyads, tmp_path / "run", str(tmp_path / "other"))
    assert not (tmp_path / "run").exists()


def test_looks_are_taken_in_once_and_dyads_that_come_later_join_in(tokenizer, checkpoint, tmp_path):
    eyes = CausalVideoEncoder.from_pretrained(checkpoint / "video_encoder")
    store(tmp_path, tokenizer, ("name",))
    watched = WatchedDyads(tmp_path, eyes)
    raw = encode_dyad(build_dyad(0, "name", AgentVoice()), tokenizer)["user_frames"]
    frames = raw[:6].float().div(127.5).sub(1)
    with torch.no_grad():
        tokens, _ = eyes.eval().forward_frames(frames.transpose(0, 1)[None])
    assert len(watched[0]["user_frames"]) == len(raw)
    torch.testing.assert_close(watched[0]["user_frames"][:6].float().flatten(0, 1), tokens[0], atol=2e-3, rtol=1e-3)
    shape = {"num_units": 8, "batch_size": 1, "response_delay": 1, "user_text_slots": 2}
    seen = Heard(watched, tokenizer, mixture=Mixture({"words": 1.0}), **shape)
    store(tmp_path, tokenizer, ("color",), first_seed=50)
    assert len(watched) == 1
    seen[0, 0]
    assert len(watched) == 2


def test_words_that_are_spelled_by_bytes_are_not_written_by_ear(tokenizer, checkpoint, tmp_path):
    eyes = CausalVideoEncoder.from_pretrained(checkpoint / "video_encoder")
    store(tmp_path, tokenizer, ("name", "color"))
    watched = WatchedDyads(tmp_path, eyes)
    assert len(Spellable(watched, tokenizer)) == 2
    spelled = tokenizer.encode_words("zyx")
    watched[0]["user_heard"][0, 0] = spelled[-1]
    assert len(Spellable(watched, tokenizer)) == 1


# ---- scoring ----


@pytest.fixture(scope="module")
def asked() -> list[HeardUser]:
    return list(users("test", 3, None, ["name", "color"]))


def test_users_come_in_turn_from_their_split_with_one_look_a_unit(asked):
    first = SPLITS.index("test") * SPLIT_SIZE
    assert [user.labels["scenario"] for user in asked] == ["name", "color", "name"]
    assert len({user.labels["seed"] for user in asked}) == 3
    for user in asked:
        assert first <= user.labels["seed"] < first + SPLIT_SIZE
        assert len(user.looks) == user.labels["num_units"] == len(user.audio) / 3840


def test_users_of_a_bank_speak_by_it_alone(tmp_path):
    def say(clip):
        return speak(clip.text, "en-us", int(160 * clip.speed), 50)[0]

    make_bank(tmp_path, 40, say)
    bank = VoiceBank(tmp_path, "train")
    (user,) = users("train", 1, bank, ["myname"])  # few of whom a small bank can say
    assert build_dyad(user.labels["seed"], "myname", AgentVoice(), bank=bank).is_natural


def test_rows_count_what_was_owed_and_what_was_right(asked, checkpoint):
    """What is owed is changed to what the agent says, in one of three."""
    pipeline = StreamerPipeline.from_pretrained(checkpoint)
    spoken = {p.key: p for p in converse(without_picture(pipeline), [user.stored() for user in asked])}
    changed = []
    for index, user in enumerate(asked):
        (owed,) = [owed for owed in user.labels["expect"] if owed["kind"] == "say"]
        said = spoken[user.stored().key].said(owed["first_unit"], owed["end_unit"])
        expect = [owed | {"text": said if index == 1 else f"{said} not"}]
        changed.append(replace(user, labels=user.labels | {"expect": expect}))
    together, alone = talk(pipeline, changed), talk(pipeline, changed, batch_size=1)
    assert together == alone
    rows = {name: (score.value, score.n) for name, score in together.items()}
    assert rows["answers"] == (pytest.approx(1 / 3), 3)
    assert rows["name"] == (0, 2) and rows["color"] == (1, 1)
    assert together["stops"].n == 0


def test_scores_are_printed_with_intervals_for_other_ears_too(checkpoint, tmp_path, capsys):
    torch.manual_seed(1)
    ears = StreamerPipeline.from_pretrained(checkpoint).audio_encoder
    CausalAudioEncoder(ears.config).save_pretrained(tmp_path / "ears")
    score_ears.main(str(checkpoint), num_dyads=2, scenarios="name color")
    own = capsys.readouterr().out
    score_ears.main(str(checkpoint), tmp_path / "ears", num_dyads=2, scenarios="name color")
    other = capsys.readouterr().out
    for printed in (own, other):
        lines = {line.split()[0]: line for line in printed.splitlines() if " %  [" in line}
        assert {"answers", "name", "color"} <= lines.keys() and "stops" not in lines
        assert lines["answers"].endswith("n 2") and lines["name"].endswith("n 1")
