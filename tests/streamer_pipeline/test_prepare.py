"""Other people's recordings become dyads: what is read back is what was recorded, on one clock, with a reason for all
that is left out."""

import json
from pathlib import Path

import numpy as np
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
    assert "words of the agent: 4" in printed and "hours: 0.001" in printed
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
