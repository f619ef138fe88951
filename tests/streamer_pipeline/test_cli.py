"""The command line: a recording in, what the agent did out; and one line, not a traceback, for what cannot be."""

import json
import os
import re
import socket
import subprocess
import sys
import wave
from fractions import Fraction
from importlib.metadata import version
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import streamer_pipeline
from streamer_pipeline.cli import app
from tiny_parts import tiny_pipeline
from typer.testing import CliRunner

SAMPLES_PER_UNIT, FRAMES_PER_UNIT = 3840, 4
STAGES = [
    "form",
    "encode",
    "context",
    "slots",
    "send",
    "solve",
    "commit",
    "receive",
    "decode",
    "emit",
    "other",
    "total",
]
SIZE = ["--height", "48", "--width", "96"]
AGENT = 72, 48  # width and height of the tiny agent's picture


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    tiny_pipeline().save_pretrained(folder)
    return folder


def record(path: Path, seconds: float, video: bool = True, audio: bool = True) -> Path:
    """A picture that gets brighter and a tone that gets louder."""
    with av.open(str(path), "w") as container:
        picture = container.add_stream("libx264", rate=25) if video else None
        sound = container.add_stream("aac", rate=48_000, layout="mono") if audio else None
        if picture:
            picture.width, picture.height, picture.pix_fmt = 160, 120, "yuv420p"
            for i in range(round(seconds * 25)):
                frame = av.VideoFrame.from_ndarray(np.full((120, 160, 3), 20 + 8 * i, np.uint8), "rgb24")
                frame.pts, frame.time_base = i, Fraction(1, 25)
                container.mux(picture.encode(frame))
            container.mux(picture.encode(None))
        if sound:
            time = np.arange(round(seconds * 48_000)) / 48_000
            samples = (np.sin(2 * np.pi * 220 * time) * time / seconds / 2).astype(np.float32)
            frame = av.AudioFrame.from_ndarray(samples[None], "fltp", "mono")
            frame.sample_rate, frame.pts, frame.time_base = 48_000, 0, Fraction(1, 48_000)
            container.mux(sound.encode(frame))
            container.mux(sound.encode(None))
    return path


def run(*arguments: object):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def talk(recording: Path, output: Path, checkpoint: Path, *options: object) -> str:
    """What it printed, on one line."""
    result = run("talk", recording, "-o", output, "--checkpoint", checkpoint, *options)
    assert result.exit_code == 0, result.output
    return " ".join(result.output.split())


def decode(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Pictures (T, H, W, 3) and sound (channels, samples) of a file, with nothing skipped."""
    with av.open(str(path)) as container:
        pictures = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    with av.open(str(path)) as container:
        sound = np.concatenate([frame.to_ndarray() for frame in container.decode(audio=0)], axis=1)
    return pictures, sound


def assert_lasts(path: Path, num_units: int, width: int, channels: int) -> None:
    pictures, sound = decode(path)
    assert pictures.shape == (num_units * FRAMES_PER_UNIT, AGENT[1], width, 3)
    assert sound.shape[0] == channels
    assert 0 <= sound.shape[1] - num_units * SAMPLES_PER_UNIT < 1024  # AAC comes in packets of 1024 samples
    with av.open(str(path)) as container:
        for stream in container.streams:
            assert stream.start_time == 0
            assert float(stream.duration * stream.time_base) == pytest.approx(num_units * 0.16, abs=0.001)


def test_talk_writes_what_the_agent_did(tmp_path, checkpoint):
    output = tmp_path / "new" / "folder"
    recording = record(tmp_path / "user.mp4", seconds=1.0)  # six units and a quarter
    printed = talk(recording, output, checkpoint, "--side-by-side", "--threads", 1)
    written = sorted(file.name for file in output.iterdir())
    assert written == ["agent.mp4", "both.mp4", "latency.png", "transcript.srt", "units.jsonl"]
    assert_lasts(output / "agent.mp4", 7, width=AGENT[0], channels=1)
    assert_lasts(output / "both.mp4", 7, width=84 + AGENT[0], channels=2)  # 336 x 192 at a height of 48
    units = [json.loads(line) for line in (output / "units.jsonl").read_text().splitlines()]
    assert [unit["index"] for unit in units] == list(range(7))
    assert [unit["plays_at_ms"] for unit in units] == [160 * (i + 1) for i in range(7)]
    state_names = tiny_pipeline().streamer.config.state_names
    for unit in units:
        assert unit["state"] in state_names and isinstance(unit["text"], str)
        assert list(unit["latency_ms"]) == STAGES
    spoken = "".join(unit["text"] for unit in units[:-1])  # the last answer would play after the end
    subtitles = (output / "transcript.srt").read_text()
    said = re.sub(r"(?m)^(\d+|.* --> .*|user: .*)$", "", subtitles)
    assert "".join(said.split()) == "".join(spoken.split())
    heard = "".join(re.findall(r"(?m)^user: (.*)$", subtitles))
    assert "".join(heard.split()) == "".join("".join(unit["heard"] for unit in units).split()) != ""
    assert cv2.imread(str(output / "latency.png")) is not None
    assert "of 7 were late" in printed and "note:" not in printed
    assert f"written to {output}" in printed


def test_the_agent_starts_with_a_silent_still(tmp_path, checkpoint):
    """y_0 answers u_0, so nothing can play in the first unit of the wall clock."""
    talk(record(tmp_path / "user.mp4", seconds=0.64), tmp_path, checkpoint, *SIZE, "--side-by-side")
    pictures, sound = decode(tmp_path / "agent.mp4")
    steps = np.abs(np.diff(pictures.astype(float), axis=0)).mean(axis=(1, 2, 3))
    assert steps[:3].max() < 2 < steps[4:].max()
    assert np.abs(sound[:, :2048]).max() < 1e-3 < np.abs(sound[:, SAMPLES_PER_UNIT:]).max()
    both, stereo = decode(tmp_path / "both.mp4")
    left = both[:, :, :96].mean(axis=(1, 2, 3))
    assert left[-1] - left[0] == pytest.approx(8 * 15, abs=8)  # the user, on the same clock, from the first frame on
    assert np.abs(stereo[0, :SAMPLES_PER_UNIT]).max() > 1e-2 > np.abs(stereo[1, :2048]).max()


def test_the_seed_decides_everything(tmp_path, checkpoint):
    recording = record(tmp_path / "user.mp4", seconds=0.4)
    for name, seed in {"one": 1, "again": 1, "two": 2}.items():
        talk(recording, tmp_path / name, checkpoint, *SIZE, "--seed", seed, "--threads", 1)
    one, again, two = (decode(tmp_path / name / "agent.mp4") for name in ("one", "again", "two"))
    for ours, theirs, others in zip(one, again, two, strict=True):
        # The threads of the picture's encoder may decide a block otherwise.
        same, other = (np.abs(ours.astype(float) - film).mean() for film in (theirs, others))
        assert same < other / 10
    units = [(tmp_path / name / "transcript.srt").read_text() for name in ("one", "again")]
    assert units[0] == units[1]


@pytest.mark.parametrize(("video", "audio", "note"), [(True, False, "no sound"), (False, True, "no picture")])
def test_one_track_is_enough_and_is_said(tmp_path, checkpoint, video, audio, note):
    recording = record(tmp_path / "user.mp4", 0.4, video, audio)
    printed = talk(recording, tmp_path, checkpoint, *SIZE, "--side-by-side")
    assert printed.count("note:") == 1 and f"note: {note} in the file" in printed
    assert_lasts(tmp_path / "agent.mp4", 3, width=AGENT[0], channels=1)
    assert_lasts(tmp_path / "both.mp4", 3, width=96 + AGENT[0], channels=2)


# ---- what cannot be ----


def zero_seconds(path: Path) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 24_000, 0, "NONE", ""))
    return path


def garbage(path: Path) -> Path:
    path.write_bytes(bytes(range(256)) * 20)
    return path


def assert_one_line(result, message: str) -> None:
    assert result.exit_code == 1 and isinstance(result.exception, SystemExit)
    lines = [line for line in result.stderr.splitlines() if "Loading" not in line and line.strip()]
    assert len(lines) == 1 and re.match(f"error: .*{message}", lines[0]), result.output


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: garbage(folder / "x.mp4"), "x.mp4 cannot be read as media"),
        (lambda folder: zero_seconds(folder / "x.wav"), "longer than 0 seconds"),
        (lambda folder: folder / "[red].mp4", r"\[red\].mp4 does not exist"),
    ],
)
def test_bad_recordings(tmp_path, checkpoint, make, message):
    result = run("talk", make(tmp_path), "-o", tmp_path / "out", "--checkpoint", checkpoint)
    assert_one_line(result, message)
    assert not (tmp_path / "out").exists()


def test_bad_checkpoints(tmp_path):
    recording = record(tmp_path / "user.mp4", 0.2)
    missing = tmp_path / "none"
    assert_one_line(run("talk", recording, "-o", tmp_path / "out", "-c", missing), "none is not a pipeline folder")
    assert_one_line(run("inspect", missing), "none is not a pipeline folder")
    assert not (tmp_path / "out").exists()


def test_bad_options(tmp_path, checkpoint):
    recording = record(tmp_path / "user.mp4", 0.2)
    assert_one_line(
        run("talk", recording, "-o", tmp_path, "-c", checkpoint, "--steps", 0),
        "num_inference_steps is at least 1; got 0",
    )
    assert_one_line(run("talk", recording, "-o", recording, "-c", checkpoint), "is a file, not a folder")
    assert run("talk", recording, "--height", 0).exit_code == 2


@pytest.mark.parametrize("command", ["talk", "serve", "inspect", "certify", "eval"])
def test_every_command_says_what_devices_and_dtypes_there_are(tmp_path, checkpoint, command):
    recording = [record(tmp_path / "user.mp4", 0.2), "-o", tmp_path / "out", "-c"] if command == "talk" else []
    world = ["--dataset", tmp_path] if command == "eval" else []
    port = ["--port", free_port()] if command == "serve" else []
    for option, value, sentence in (
        ("--device", "cuda:7", "this machine has no device 'cuda:7'; it has cpu"),
        ("--dtype", "float99", "there is no dtype 'float99'"),
        ("--dtype", "torch.float16", "float16 is for accelerators"),
    ):
        result = run(command, *recording, checkpoint, *world, *port, option, value)
        assert_one_line(result, sentence)
    if command != "inspect":
        assert run(command, *recording, checkpoint, *world, "--threads", -3).exit_code == 2


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_bfloat16_talks(tmp_path, checkpoint):
    recording = record(tmp_path / "user.mp4", 0.4)
    result = run("talk", recording, "-o", tmp_path / "out", "-c", checkpoint, "--dtype", "bfloat16", *SIZE)
    assert result.exit_code == 0, result.output
    assert (tmp_path / "out" / "agent.mp4").stat().st_size > 1000


@pytest.mark.parametrize("command", ["talk", "certify", "eval", "compare", "serve"])
def test_where_results_go_is_asked_before_the_work(tmp_path, command):
    """A file is in the way. No checkpoint of that name exists, so whatever is loaded first would say so instead."""
    (file := tmp_path / "file").touch()
    nothing = tmp_path / "no-checkpoint"
    arguments = {
        "talk": [record(tmp_path / "user.mp4", 0.2), "-c", nothing, "-o", file / "out"],
        "certify": [nothing, "--out", file / "certificate.json"],
        "eval": [nothing, "--out", file / "score"],
        "compare": [nothing, nothing, "--out", file / "out"],
        "serve": [nothing, "--record", file / "recordings"],
    }[command]
    assert_one_line(run(command, *arguments), "is a file, not a folder")


def test_a_port_in_use_and_an_unknown_host_are_told_before_anything_is_loaded(tmp_path):
    nothing = tmp_path / "no-checkpoint"
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert_one_line(run("serve", nothing, "--port", port), f"port {port} of 127.0.0.1 is taken by another program")
    assert_one_line(run("serve", nothing, "--host", "no.such.host.invalid"), "there is no host")


def test_what_https_needs_is_told_before_anything_is_loaded(tmp_path):
    (key := tmp_path / "key.pem").write_text("no key\n")
    nothing, port = tmp_path / "no-checkpoint", free_port()
    assert_one_line(run("serve", nothing, "--port", port, "--key", key), "needs the certificate that it belongs to")
    assert_one_line(run("serve", nothing, "--port", port, "--certificate", key), "cannot be used for HTTPS")


@pytest.mark.parametrize(("command", "option"), [("serve", "--memory"), ("serve", "--minutes"), ("eval", "--minutes")])
def test_a_number_without_end_is_no_bound(tmp_path, command, option):
    for value in ("inf", "nan"):
        assert run(command, tmp_path, option, value).exit_code == 2


def test_asking_whether_results_can_be_written_leaves_nothing(tmp_path):
    run("certify", tmp_path / "no-checkpoint", "--out", tmp_path / "new" / "certificate.json")
    run("serve", tmp_path / "no-checkpoint", "--record", tmp_path / "new", "--host", "no.such.host.invalid")
    assert list(tmp_path.iterdir()) == []
    (old := tmp_path / "old.json").write_text("an older one")
    run("certify", tmp_path / "no-checkpoint", "--out", old)
    assert old.read_text() == "an older one"
    assert_one_line(run("certify", tmp_path / "no-checkpoint", "--out", tmp_path), "it is a folder; name a file in it")


def test_a_name_that_no_terminal_can_show_is_said_all_the_same(tmp_path):
    """File systems take any bytes for a name, and so does a shell for an argument."""
    name = os.fsdecode(b"caf\xe9.mp4")
    result = run("talk", tmp_path / name, "-o", tmp_path / "out")
    assert_one_line(result, r"caf\?.mp4 does not exist")
    recording = record(tmp_path / "user.mp4", 0.2).rename(tmp_path / name)
    result = run("talk", recording, "-o", tmp_path / os.fsdecode(b"\xe9"), "-c", tmp_path, "--prompt", name)
    assert_one_line(result, "is not a pipeline folder")  # so the recording was read


def test_a_prompt_that_is_no_text_is_refused(tmp_path, checkpoint):
    recording = record(tmp_path / "user.mp4", 0.2)
    result = run("talk", recording, "-o", tmp_path / "out", "-c", checkpoint, "--prompt", os.fsdecode(b"caf\xe9"))
    assert_one_line(result, r"valid Unicode, got '\\udce9' alone as character 3")


def test_versions_are_told():
    for entry in (["-m", "streamer_pipeline"], ["-c", "from streamer_pipeline.cli import app; app()"]):
        command = [sys.executable, *entry, "--version"]
        told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        assert told.startswith(f"wan-streamer {streamer_pipeline.__version__}, torch {version('torch')}")


def test_help_is_answered_before_anything_heavy_is_imported():
    code = (
        "import sys, typer.testing; from streamer_pipeline.cli import app;"
        "assert typer.testing.CliRunner().invoke(app, ['--help']).exit_code == 0;"
        "heavy = {'torch', 'diffusers', 'transformers', 'av'} & sys.modules.keys(); assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# ---- looking ----


def test_inspect_prints_parts_and_bytes(checkpoint):
    result = run("inspect", checkpoint)
    assert result.exit_code == 0, result.output
    pipeline = tiny_pipeline()
    for name, part in pipeline.components.items():
        assert re.search(rf"{name}\W+{type(part).__name__}\b", result.output)
    session = pipeline.open_session()
    assert f"{2 * pipeline.cache_spec().nbytes() / 2**20:.2f} MiB" in result.output
    assert re.search(rf"whole session\W+{session.nbytes() / 2**20:.2f} MiB", result.output)
    assert re.search(r"response plays\W+160 ms after its user unit begins", result.output)
    assert "grows by" not in result.output  # its history has windows


def test_inspect_says_what_a_full_history_grows_by(tmp_path):
    pipeline = tiny_pipeline(context_window=None, response_window=None)
    pipeline.save_pretrained(tmp_path)
    assert re.search(r"grows by, per minute\W+\d+\.\d MiB \(full history\)", run("inspect", tmp_path).output)


def test_help():
    assert run("--help").exit_code == 0
    printed = run("talk", "--help").output
    assert all(option in printed for option in ("--side-by-side", "--checkpoint", "--seed", "--height"))
