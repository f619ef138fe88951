"""`wan-streamer eval` on data sets that lack or spoil something: what can be measured is, the rest is said."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from recordings import voice
from streamer_pipeline.cli import app
from streamer_pipeline.data.dyads import StoredDyad
from streamer_pipeline.data.shards import encode_sound, write_shard
from streamer_pipeline.evaluation import endurance
from streamer_pipeline.evaluation.closed_loop import converse, without_picture
from tiny_parts import tiny_pipeline
from typer.testing import CliRunner

RATE, UNIT, NUM_UNITS = 24_000, 3840, 12
SECONDS = NUM_UNITS * UNIT / RATE
USER, AGENT = [["hello", 0.2, 0.7]], [["hi", 1.0, 1.5]]
SILENCE = np.zeros(NUM_UNITS * UNIT, np.float32)


def sound(words: list[list], num_units: int = NUM_UNITS) -> bytes:
    return encode_sound(voice(num_units * UNIT / RATE, words, rate=RATE))


def dyad(user: object = USER, agent: object = AGENT, num_units: object = NUM_UNITS, **files: bytes | None) -> dict:
    """The files of one dyad without pictures; `files` replaces them, or with None leaves them out."""
    words = [[]] * NUM_UNITS
    labels = {
        "num_units": num_units,
        "user": {"transcript": user},
        "agent": {"transcript": agent, "words": words},
    }
    members = {"json": json.dumps(labels).encode(), "user.flac": sound(USER), "agent.flac": sound(AGENT)}
    members |= {name.replace("_", "."): data for name, data in files.items()}
    return {name: data for name, data in members.items() if data is not None}


def labels_without(*names: str) -> bytes:
    """The labels of a dyad, less what lies at these paths."""
    labels = json.loads(dyad()["json"])
    for path in names:
        *parents, last = path.split(".")
        where = labels
        for parent in parents:
            where = where[parent]
        del where[last]
    return json.dumps(labels).encode()


def write(folder: Path, *members: dict, info: str = "{}") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    write_shard(folder / "test-00000.tar", [(f"d{index}", files) for index, files in enumerate(members)])
    (folder / "dataset_info.json").write_text(info)
    return folder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    tiny_pipeline().save_pretrained(folder)
    return folder


def evaluate(checkpoint: Path, dataset: Path, *options: object):
    arguments = [checkpoint, "--dataset", dataset, "--per-scenario", 2, *options]
    return CliRunner().invoke(app, ["eval", *map(str, arguments)])


FAULTS = {
    "no sound of the agent": ([dyad(agent_flac=None)], "d0.agent.flac"),
    "no sound of the user": ([dyad(user_flac=None)], "d0.user.flac"),
    "no labels": ([dyad(json=None)], "d0.json"),
    "sides of different lengths": ([dyad(agent_flac=sound([], NUM_UNITS - 1))], "its media last [11.0, 12.0]"),
    "damaged sound": ([dyad(user_flac=b"fLaC")], "dyad d0 of"),
    "labels that are a list": ([dyad(json=b"[]")], "dyad d0 of"),
    "no words of the units": ([dyad(json=labels_without("agent.words"))], "each of its 12 units"),
    "no labels of the agent": ([dyad(json=labels_without("agent"))], "each of its 12 units"),
    "times that are no numbers": ([dyad(user=[["a", float("nan"), 1]])], "the user's transcript should be"),
    "a word that ends before it begins": ([dyad(agent=[["a", 1, 0.5]])], "the agent's transcript should be"),
    "a word without an end": ([dyad(user=[["a", 1]])], "the user's transcript should be"),
    "a transcript that is a text": ([dyad(user="a")], "the user's transcript should be"),
    "no dyads": ([], "the test set is empty"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_spoiled_dyad_is_said_in_one_line(tmp_path, checkpoint, fault):
    members, message = FAULTS[fault]
    result = evaluate(checkpoint, write(tmp_path / "set", *members), "--minutes", 0)
    assert isinstance(result.exception, SystemExit) and result.exit_code == 1 and message in result.output


@pytest.mark.parametrize(
    ("info", "message"),
    [("[]", "should hold an object"), ('{"size": "big"}', "[height, width]"), ('{"size": [48]}', "[height, width]")],
)
def test_a_spoiled_description_is_said_in_one_line(tmp_path, checkpoint, info, message):
    result = evaluate(checkpoint, write(tmp_path / "set", dyad(), info=info))
    assert isinstance(result.exception, SystemExit) and result.exit_code == 1 and message in result.output


def test_a_split_that_is_not_there_is_said_before_the_checkpoint_is_looked_for(tmp_path):
    result = evaluate(tmp_path / "nowhere", write(tmp_path / "set", dyad()), "--split", "val")
    assert result.exit_code == 1 and "no shards val-*.tar" in result.output


def test_without_pictures_and_words_loudness_and_drift_are_still_measured(tmp_path, checkpoint, monkeypatch):
    monkeypatch.setattr(endurance, "UNITS_PER_MINUTE", 20)
    members = dyad(json=labels_without("user", "agent.transcript"))
    dataset = write(tmp_path / "set", members, members, info='{"size": [48, 96]}')
    result = evaluate(checkpoint, dataset, "--minutes", 2, "--out", tmp_path / "card")
    assert result.exit_code == 0, result.output
    card = json.loads((tmp_path / "card" / "score.json").read_text())
    rows, absent = card["rows"], card["absent"]
    assert rows["speech.level"]["recordings"]["n"] == 2
    assert rows["endurance.latent_std"]["agent"]["value"] >= 0 and len(card["minutes"]) == 2
    assert rows["cost.passes"]["agent"]["value"] == 2
    assert "make the data set again" in absent["dialogue.taken"] and "make the data set again" in result.output
    assert "not filmed" in absent["idle.motion"]


@pytest.mark.parametrize("silent_side", ["user", "agent"])
def test_a_silent_side_is_a_side(tmp_path, checkpoint, silent_side):
    members = dyad(**{silent_side: [], f"{silent_side}_flac": encode_sound(SILENCE)})
    dataset = write(tmp_path / "set", members, members, info='{"size": [48, 96]}')
    result = evaluate(checkpoint, dataset, "--minutes", 0, "--out", tmp_path / "card")
    assert result.exit_code == 0, result.output
    card = json.loads((tmp_path / "card" / "score.json").read_text())
    level = card["rows"].get("speech.level", {}).get("recordings", {"value": None})["value"]
    assert (level is None) is (silent_side == "agent")
    assert "no words of" in card["absent"]["dialogue.taken"]


def test_sound_that_is_not_finite_is_no_silence():
    pipeline = tiny_pipeline()
    with torch.no_grad():
        for weights in pipeline.audio_decoder.parameters():
            weights.fill_(float("nan"))
    side = torch.zeros(1, 3 * UNIT)
    talk = converse(without_picture(pipeline), [StoredDyad("one", {}, side, None, side, None)])
    with pytest.raises(ValueError, match="not finite in unit 1 of dyad one"):
        list(talk)
