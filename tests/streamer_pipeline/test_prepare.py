"""Other people's recordings become dyads: what is read back is what was recorded, on one clock, with a reason for all
that is left out."""

import gzip
import json
import re
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from recordings import voice, write_film, write_json, write_sound
from streamer_pipeline import read_dataset_info, read_dyads
from streamer_pipeline.cli import app
from typer.testing import CliRunner

USER_WORDS = [("hello", 0.4, 0.8), ("there", 0.9, 1.3)]
AGENT_WORDS = [("hi", 2.0, 2.3), ("how", 2.6, 2.8), ("are", 2.9, 3.0), ("you", 3.1, 3.5)]
SECONDS = 4.8  # 30 units
SMALL = ["--size", "48x64", "--workers", 1, "--val-share", 0, "--test-share", 0]


def prepare(source: Path, out: Path, *options: object) -> str:
    """What it printed, on one line."""
    result = run(source, out, *options)
    assert result.exit_code == 0, result.output
    return " ".join(result.output.split())


def run(source: Path, out: Path, *options: object):
    return CliRunner().invoke(app, ["prepare", *map(str, [source, "--out", out, *SMALL, *options])])


def moshi_source(folder: Path, names=("one",), **changes) -> Path:
    """A list of stereo recordings with the agent on the left."""
    lines = []
    for name in names:
        agent, user = voice(SECONDS, AGENT_WORDS, seed=1), voice(SECONDS, USER_WORDS, seed=2)
        path = write_sound(folder / f"{name}.wav", *changes.get("channels", (agent, user)))
        alignments = [[w, [s, e], "SPEAKER_MAIN"] for w, s, e in AGENT_WORDS] + [["uh", [4, 4], "SPEAKER_MAIN"]]
        write_json(path.with_suffix(".json"), {"alignments": alignments + changes.get("more", [])})
        lines.append(json.dumps({"path": path.name, "duration": SECONDS}))
    (folder / "data.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def speaks(wave, start: float, end: float) -> bool:
    """Whether the voice of the tests is heard from `start` to `end`, to 20 ms."""
    inner = wave[0, round((start + 0.02) * 24_000) : round((end - 0.02) * 24_000)]
    return float(inner.square().mean().sqrt()) > 0.05


def test_moshi_finetune(tmp_path):
    printed = prepare(moshi_source(tmp_path / "in"), tmp_path / "out")
    (dyad,) = read_dyads(tmp_path / "out", "train")
    assert dyad.num_units == 30 and dyad.user_video is None and dyad.agent_video is None
    for start, end in ((2.0, 2.3), (3.1, 3.5)):
        assert speaks(dyad.agent_audio, start, end) and not speaks(dyad.user_audio, start, end)
    assert speaks(dyad.user_audio, 0.4, 0.8) and not speaks(dyad.agent_audio, 0.4, 0.8)
    agent, user = dyad.labels["agent"], dyad.labels["user"]
    assert [tuple(word) for word in agent["transcript"]] == AGENT_WORDS
    assert user["transcript"] is None and not user["has_picture"]
    # "how" begins in unit 16, its utterance in unit 12, and it comes two units before it sounds.
    assert {unit: words for unit, words in enumerate(agent["words"]) if words} == {
        12: ["hi"],
        14: ["how"],
        16: ["are"],
        17: ["you"],
    }
    assert [unit for unit, speaks in enumerate(agent["speaking"]) if speaks] == list(range(12, 22))
    assert "words of the agent: 4" in printed and "hours of dyads: 0.001" in printed
    assert read_dataset_info(tmp_path / "out")["splits"]["train"]["dyads"] == 1
    assert (tmp_path / "out" / "summary.png").read_bytes()[:4] == b"\x89PNG"


def test_pairs_with_pictures_of_any_rate_and_size(tmp_path):
    source = tmp_path / "in"
    write_film(source / "a.b.user.mp4", SECONDS, voice(SECONDS, USER_WORDS), rate=30, size=(160, 90))
    write_sound(source / "a.b.agent.flac", voice(SECONDS, AGENT_WORDS, 1, 16_000), rate=16_000)
    write_json(
        source / "a.b.agent.json",
        {"speaker": "ann", "words": [dict(zip(("word", "start", "end"), w, strict=True)) for w in AGENT_WORDS]},
    )
    (source / "a.b.user.srt").write_text("1\n00:00:00,400 --> 00:00:01,300\n<i>hello there</i>\n")
    prepare(source, tmp_path / "out")
    (dyad,) = read_dyads(tmp_path / "out", "train")
    assert dyad.key == "a_b"
    assert dyad.user_video.shape == (3, 120, 48, 64) and dyad.agent_video is None
    grey = (dyad.user_video.mean(dim=(0, 2, 3)) + 1) * 127.5
    np.testing.assert_allclose(grey, 40 + 20 * np.arange(120) / 25, atol=2.5)
    assert dyad.labels["user"]["transcript"] == [["hello", 0.4, 0.85], ["there", 0.85, 1.3]]
    assert dyad.labels["agent"]["speaker"] == "ann"


def test_words_in_every_file_format(tmp_path):
    """Per side, beside the sound; times of phrases are shared by letters, WebVTT may give those of words."""
    texts = {
        "srt": "1\n00:00:02,000 --> 00:00:03,200\n<i>hi\nhow</i>\n\n2\n00:00:03,300 --> 00:00:03,500\nyou\n",
        "vtt": "WEBVTT\n\n00:02.000 --> 00:03.200\n<v Ann>hi <00:00:02.600>how\n\n00:03.300 --> 00:03.500\nyou\n",
        "TextGrid": _TEXTGRID,
    }
    expected = {
        "srt": [["hi", 2.0, 2.48], ["how", 2.48, 3.2], ["you", 3.3, 3.5]],
        "vtt": [["hi", 2.0, 2.6], ["how", 2.6, 3.2], ["you", 3.3, 3.5]],
        "TextGrid": [["hi", 2.0, 2.3], ["how", 2.6, 3.2], ["you", 3.3, 3.5]],
    }
    for suffix, text in texts.items():
        for role, words in (("user", USER_WORDS), ("agent", AGENT_WORDS)):
            write_sound(tmp_path / "in" / f"{suffix}.{role}.wav", voice(SECONDS, words, len(role)))
        (tmp_path / "in" / f"{suffix}.agent.{suffix}").write_text(text)
    shapes = {
        "alignments": {"alignments": [[w, [s, e], "SPEAKER_MAIN"] for w, s, e in AGENT_WORDS]},
        "plain": AGENT_WORDS,
        "segments": {"segments": [{"start": 2, "end": 3.5, "words": [_word(*w) for w in AGENT_WORDS]}]},
        "untimed": {"words": [_word(*AGENT_WORDS[0]), {"word": "7"}, _word(*AGENT_WORDS[1])]},
    }
    for name, content in shapes.items():
        for role, words in (("user", USER_WORDS), ("agent", AGENT_WORDS)):
            write_sound(tmp_path / "in" / f"{name}.{role}.wav", voice(SECONDS, words, len(role)))
        write_json(tmp_path / "in" / f"{name}.agent.json", content)
        expected[name] = [list(word) for word in AGENT_WORDS]
    expected["untimed"] = [["hi", 2.0, 2.3], ["7", 2.6, 2.65], ["how", 2.65, 2.8]]
    prepare(tmp_path / "in", tmp_path / "out")
    read = {dyad.key: dyad.labels["agent"]["transcript"] for dyad in read_dyads(tmp_path / "out", "train")}
    assert read == expected


def _word(text: str, start: float, end: float) -> dict:
    return {"word": text, "start": start, "end": end}


_TEXTGRID = """File type = "ooTextFile"
Object class = "TextGrid"

xmin = 0
xmax = 4.8
tiers? <exists>
size = 2
item []:
    item [1]:
        class = "IntervalTier"
        name = "phones"
        xmin = 0
        xmax = 4.8
        intervals: size = 1
        intervals [1]:
            xmin = 2.0
            xmax = 2.3
            text = "HH"
    item [2]:
        class = "IntervalTier"
        name = "words"
        xmin = 0
        xmax = 4.8
        intervals: size = 4
        intervals [1]:
            xmin = 0
            xmax = 2.0
            text = ""
        intervals [2]:
            xmin = 2.0
            xmax = 2.3
            text = "hi"
        intervals [3]:
            xmin = 2.6
            xmax = 3.2
            text = "how"
        intervals [4]:
            xmin = 3.3
            xmax = 3.5
            text = "you"
"""


def seamless_source(folder: Path, shifts=(0.0, 0.0), participants=("0001", "0002")) -> Path:
    """One interaction: films at 29.97 fps without sound, sound at 48 kHz, words and speech in the metadata."""
    for name, words, shift in zip(participants, (USER_WORDS, AGENT_WORDS), shifts, strict=False):
        item = folder / "improvised" / "dev" / "0000" / f"V00_S0809_I00000582_P{name}"
        write_film(item.with_suffix(".mp4"), SECONDS, rate=Fraction(30_000, 1001), size=(108, 192))
        write_sound(item.with_suffix(".wav"), voice(SECONDS, words, int(name)))
        transcript = [
            {"start": words[0][1], "end": words[-1][2], "transcript": "", "words": [_word(*w) for w in words]}
        ]
        vad = [{"start": s + shift, "end": e + shift} for _, s, e in words]
        metadata = {"id": item.name, "metadata:transcript": transcript, "metadata:vad": vad}
        write_json(item.with_suffix(".json"), metadata)
    return folder


def in_folders_of_lines(source: Path) -> Path:
    """As the items lie where they are downloaded one by one: words and speech in folders of their own, as lines."""
    for path in list(source.rglob("*.json")):
        metadata = json.loads(path.read_text())
        path.unlink()
        for kind in ("transcript", "vad"):
            lines = source / "improvised" / "dev" / kind / f"{path.stem}.jsonl"
            lines.parent.mkdir(exist_ok=True)
            lines.write_text("".join(json.dumps(line) + "\n" for line in metadata[f"metadata:{kind}"]))
    return source


@pytest.mark.parametrize("arranged", [Path, in_folders_of_lines])
def test_seamless_interaction(tmp_path, arranged):
    prepare(arranged(seamless_source(tmp_path / "in")), tmp_path / "out", "--both-directions")
    dyads = list(read_dyads(tmp_path / "out", "val"))
    assert [dyad.key for dyad in dyads] == ["V00_S0809_I00000582", "V00_S0809_I00000582-swapped"]
    straight, swapped = dyads
    assert straight.labels["user"]["speaker"] == swapped.labels["agent"]["speaker"] == "P0001"
    assert torch.equal(straight.user_audio, swapped.agent_audio)
    assert torch.equal(straight.agent_video, swapped.user_video)
    assert [w for words in swapped.labels["agent"]["words"] for w in words] == ["hello", "there"]
    grey = (straight.user_video.mean(dim=(0, 2, 3)) + 1) * 127.5
    np.testing.assert_allclose(grey, 40 + 20 * np.arange(120) / 25, atol=2.5)


def test_seamless_items_that_do_not_fit_are_listed(tmp_path):
    source = seamless_source(tmp_path / "in", shifts=(0.0, 2.0))
    seamless_source(source / "more", participants=("0001",))
    other = source / "more" / "improvised" / "dev" / "0000"
    for path in other.iterdir():
        path.rename(path.with_name(path.name.replace("I00000582", "I00000583")))
    result = run(source, tmp_path / "out")
    assert result.exit_code == 1 and "none of the 2 conversations" in result.output
    assert reasons(tmp_path / "out") == {
        "V00_S0809_I00000582": "is mis-timed: only 0% of its words lie where its vad says speech",
        "V00_S0809_I00000583": "there are files of 1 participant and not of two",
    }


def reasons(out: Path) -> dict[str, str]:
    """Why conversations were left out, without the path at the beginning."""
    lines = [json.loads(line) for line in (out / "skipped.jsonl").read_text().splitlines()]
    return {line["key"]: re.sub(r"^/\S+ ", "", line["reason"]) for line in lines}


def lhotse_cut(folder: Path, key: str, **changes) -> dict:
    """A cut from second 1 on of two recordings, of whose words one side is aligned."""
    write_sound(folder / f"{key}-user.flac", voice(SECONDS + 1, shifted(USER_WORDS, 1), 1, 16_000), rate=16_000)
    write_sound(folder / f"{key}-agent.wav", voice(SECONDS + 1, shifted(AGENT_WORDS, 1), 2, 22_050), rate=22_050)
    recording = {"id": key, "sampling_rate": 16_000, "num_samples": 16_000 * 5, "duration": SECONDS + 1}
    source = {"type": "file", "channels": [0]}
    aligned = [[text, start, end - start, 1.0] for text, start, end in AGENT_WORDS]
    supervisions = [
        {"id": "u", "start": 0.4, "duration": 0.9, "text": "hello there", "speaker": "user"},
        {"id": "a", "start": 2.0, "duration": 1.5, "text": "", "speaker": "agent", "alignment": {"word": aligned}},
    ]
    cut = {
        "id": key,
        "start": 1.0,
        "duration": SECONDS,
        "channel": 0,
        "supervisions": supervisions,
        "recording": recording | {"sources": [source | {"source": f"{key}-user.flac"}]},
        "custom": {"target_audio": recording | {"sources": [source | {"source": f"{key}-agent.wav"}]}},
        "type": "MonoCut",
    }
    return cut | changes


def shifted(words, seconds: float):
    return [(text, start + seconds, end + seconds) for text, start, end in words]


def test_lhotse_cuts(tmp_path):
    source = tmp_path / "in"
    source.mkdir()
    diarised = lhotse_cut(source, "mixed", custom=None)
    with gzip.open(source / "cuts.jsonl.gz", "wt") as file:
        file.writelines(json.dumps(cut) + "\n" for cut in (lhotse_cut(source, "cut-1"), diarised))
    printed = prepare(source, tmp_path / "out")
    (dyad,) = read_dyads(tmp_path / "out", "train")
    assert dyad.key == "cut-1" and dyad.num_units == 30
    assert [tuple(word) for word in dyad.labels["agent"]["transcript"]] == AGENT_WORDS
    assert [word for word, *_ in dyad.labels["user"]["transcript"]] == ["hello", "there"]
    assert speaks(dyad.agent_audio, 2.0, 2.3) and speaks(dyad.user_audio, 0.4, 0.8)
    assert not speaks(dyad.user_audio, 2.0, 2.3) and not speaks(dyad.agent_audio, 0.4, 0.8)
    assert "has no custom.target_audio, but 2 speakers" in reasons(tmp_path / "out")["mixed"]
    assert "mixed is left out" in printed


@pytest.mark.parametrize("info_file", ["dataset_info.json", "world.json"])  # the latter is of version 0.1
def test_dyads_of_the_duplex_world_can_be_prepared_again(tmp_path, info_file):
    """Other sizes and roles; what the world says of them stays where it is still true."""
    from duplex_world.dyad import build_dyad
    from duplex_world.shards import write_shard

    (tmp_path / "in").mkdir()
    world = build_dyad(2_000_000, "greet")
    write_shard(tmp_path / "in" / "test-00000.tar", [world])
    write_json(tmp_path / "in" / info_file, {"grammar": "of the world"})
    prepare(tmp_path / "in", tmp_path / "out", "--both-directions", "--piece-seconds", 0)
    straight, swapped = read_dyads(tmp_path / "out", "test")
    (before,) = read_dyads(tmp_path / "in", "test")
    assert torch.equal(straight.user_audio, before.user_audio)
    assert straight.user_video.shape[2:] == (48, 64)
    assert straight.labels["expect"] == before.labels["expect"] and "expect" not in swapped.labels
    assert straight.labels["agent"]["words"] == before.labels["agent"]["words"]
    assert torch.equal(swapped.agent_audio, before.user_audio)
    said = " ".join(segment["text"] for segment in before.labels["user"]["segments"])
    assert " ".join(word for words in swapped.labels["agent"]["words"] for word in words) == said
    assert read_dataset_info(tmp_path / "out")["grammar"] == "of the world"
