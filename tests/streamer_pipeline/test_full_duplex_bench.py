"""Full-Duplex-Bench: its measures on agents of known behaviour, and its folders from the command line."""

import json
import struct
import wave
from pathlib import Path

import numpy as np
import pytest
from recordings import write_film
from streamer_pipeline.cli import app
from streamer_pipeline.data.words import Word
from streamer_pipeline.evaluation.full_duplex_bench import metrics
from streamer_pipeline.evaluation.full_duplex_bench.layout import Sample, event
from streamer_pipeline.evaluation.full_duplex_bench.rows import Output, scores
from streamer_pipeline.evaluation.own_words import own_words, written_words
from tiny_parts import talking_pipeline
from typer.testing import CliRunner

RATE, UNIT = 24_000, 3840
TONE = np.sin(np.arange(UNIT) / 5).astype(np.float32) / 2


def said(*starts: float, lasting: float = 0.3) -> list[Word]:
    return [Word("word", start, start + lasting) for start in starts]


@pytest.mark.parametrize(
    ("words", "takes"),
    [
        ([], False),
        (said(0, 0.3, 0.6), False),  # three words in 0.9 s
        (said(0, 0.35, 0.7), True),  # three in 1 s
        (said(0, 0.2, 0.4, 0.6), True),  # four in 0.9 s
        (said(0, 5), True),
    ],
)
def test_a_few_words_within_a_second_take_no_turn(words, takes):
    assert metrics.takes_over(words) is takes


@pytest.mark.parametrize(
    ("segments", "words", "takes", "num"),
    [
        ([], [], False, 0),
        ([(1.0, 1.5), (4.0, 4.8)], said(1.0, 4.0, 4.4), False, 2),
        ([(1.0, 1.9)], said(1.0, 1.2, 1.4), True, 0),  # three words
        ([(1.0, 2.5)], said(1.0), True, 0),  # too long
        ([(1.0, 2.5), (4.0, 4.5)], said(1.0, 4.0), False, 1),  # the last of the shorter ones decides
        ([(1.0, 5.0), (6.0, 6.5)], said(1.0, 6.0), True, 1),  # nothing makes up for more than 3 s
    ],
)
def test_what_a_listener_may_say(segments, words, takes, num):
    did = metrics.backchannels(segments, words)
    assert did.takes_over is takes and len(did.times) == num


def test_divergence_from_people():
    people = [0, 1, 0, 0, 1]
    assert metrics.divergence([0.3, 0.9], people) == pytest.approx(0)
    assert metrics.divergence([0.1, 0.5], people) == pytest.approx(1)
    assert 0 < metrics.divergence([0.3, 0.5], people) < 1
    assert metrics.divergence([], people) == 1


def test_overlap_and_what_comes_after():
    assert metrics.stop_latency([(1, 3.5), (5, 6)], (3, 4)) == 0.5
    assert metrics.stop_latency([(1, 9)], (3, 4)) == 1  # it never stops while it lasts
    assert metrics.stop_latency([(5, 6)], (3, 4)) is None  # it was silent
    assert metrics.response_latency([(1, 3.5), (5, 6)], 4) == 1
    assert metrics.response_latency([(1, 9)], 4) is None


def output(subset: str, words: list[Word], moments: tuple[float, ...] = (), version: str = "v1_0") -> Output:
    segments = [(word.start, word.end) for word in words]
    return Output(Sample(version, subset, Path(subset) / "1"), moments, words, segments, 10.0)


def test_an_agent_that_never_speaks_and_one_that_always_does():
    def everywhere(words):
        return scores(
            [
                output("candor_pause_handling", words),
                output("candor_turn_taking", words, (4.0,)),
                output("synthetic_user_interruption", words, (6.0,)),
                output("background_speech", words, (2.0, 3.0), "v1_5"),
            ],
            {},
        )

    silent, chatty = everywhere([]), everywhere(said(*np.arange(0, 10, 0.5)))
    rows = ("fdb.candor_pause_tor", "fdb.turn_tor", "fdb.interruption_tor", "fdb15.background_speech_responds")
    assert [silent[row].value for row in rows] == [0, 0, 0, 0] and [chatty[row].value for row in rows] == [1, 1, 1, 1]
    assert silent["fdb.turn_latency"].value is None and chatty["fdb.turn_latency"].value == 0  # never below 0
    assert chatty["fdb.synthetic_pause_tor"].value is None and chatty["fdb.turn_tor"].n == 1


def test_latencies_count_from_what_the_annotation_says():
    words = said(1.0, 7.2, 8.8)
    found = scores(
        [
            output("candor_turn_taking", words[1:], (7.0,)),
            output("candor_turn_taking", [], (7.0,)),
            output("synthetic_user_interruption", words, (7.0,)),
            output("user_interruption", words, (0.9, 2.0), "v1_5"),
        ],
        {},
    )
    assert found["fdb.turn_tor"].value == 0.5 and found["fdb.turn_latency"].value == pytest.approx(200)
    assert found["fdb.interruption_latency"].value == pytest.approx(200)  # what was said before does not count
    assert found["fdb15.user_interruption_response"].value == pytest.approx(5200)


def test_words_of_the_text_stream():
    assert written_words(["", " he", "llo you", ""]) == [
        Word("hello", pytest.approx(0.16), pytest.approx(0.48)),
        Word("you", pytest.approx(0.32), pytest.approx(0.48)),
    ]
    first, second = written_words([" it is"])
    assert (first.text, second.text) == ("it", "is") and first.end == second.start == pytest.approx(0.08)


def test_written_words_move_to_the_sound_and_are_left_out_without():
    texts = ["", " one", *[""] * 6, " two", *[""] * 6]
    sound = np.zeros(len(texts) * UNIT, np.float32)
    sound[3 * UNIT : 5 * UNIT] = sound[13 * UNIT :] = np.tile(TONE, 2)
    (word,) = own_words(texts, sound)  # nothing sounds within half a second of "two"
    assert word.text == "one" and word.start == pytest.approx(3 * 0.16) and word.end == pytest.approx(4 * 0.16)
    assert own_words(texts, np.zeros_like(sound)) == []


def write_wav(path: Path, samples: np.ndarray, rate: int = RATE, num_channels: int = 1) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setparams((num_channels, 2, rate, 0, "NONE", ""))
        file.writeframes((np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes())


def length_and_rate(path: Path) -> tuple[int, int]:
    with wave.open(str(path), "rb") as file:
        return file.getnframes(), file.getframerate()


@pytest.fixture
def samples(tmp_path) -> Path:
    """A sample or two of every subset but one, at rates that people record at."""
    rng, root = np.random.default_rng(0), tmp_path / "bench"
    annotations = {
        "candor_pause_handling": ("pause.json", [{"timestamp": [0.4, 0.6]}]),
        "candor_turn_taking": ("turn_taking.json", [{"timestamp": [0.5, 1.0]}]),
        "synthetic_user_interruption": (
            "interrupt.json",
            [{"timestamp": [0.2, 0.5], "context": "a", "interrupt": "b"}],
        ),
        "icc_backchannel": ("ignored.json", []),
    }
    for subset, (name, annotation) in annotations.items():
        folder = root / "v1_0" / subset / "1"
        write_wav(folder / "input.wav", 0.1 * rng.standard_normal(16_000), 16_000)
        (folder / name).write_text(json.dumps(annotation))
    (root / "v1_0/icc_backchannel/icc_gt_distribution.json").write_text('{"1": [0, 0, 1, 0, 0]}')
    for subset in ("user_interruption", "user_backchannel", "talking_to_other", "background_speech"):
        folder = root / "v1_5" / subset / "1"
        clean = 0.1 * rng.standard_normal(44_100)
        changed = clean.copy()
        changed[22_050:33_075] += 0.3
        write_wav(folder / "input.wav", changed, 44_100)
        write_wav(folder / "clean_input.wav", clean, 44_100)
    return root


def evaluate(*arguments: object):
    return CliRunner().invoke(app, ["eval", *map(str, arguments)])


def test_a_checkpoint_hears_the_benchmark_from_the_command_line(tmp_path, samples):
    talking_pipeline().save_pretrained(tmp_path / "checkpoint")
    out = tmp_path / "card"
    result = evaluate(
        tmp_path / "checkpoint", "--benchmark", "full-duplex-bench", samples, "--out", out, "--batch-size", 3
    )
    assert result.exit_code == 0, result.output
    for path in samples.rglob("*input.wav"):
        stem = path.name.replace("input.wav", "output")
        assert length_and_rate(path.with_name(f"{stem}.wav")) == (RATE, RATE)  # each input lasts a second
        record = json.loads(path.with_name(f"{stem}.json").read_text())
        assert record.keys() == {"text", "chunks"}
        assert record["text"] == " ".join(chunk["text"] for chunk in record["chunks"])
        assert all(0 <= chunk["timestamp"][0] <= chunk["timestamp"][1] for chunk in record["chunks"])
    card = json.loads((out / "score.json").read_text())
    for row in ("fdb.candor_pause_tor", "fdb.turn_tor"):
        score = card["rows"][row]["agent"]
        assert score["n"] == 1 and 0 <= score["low"] <= score["value"] <= score["high"] <= 1
        assert card["rows"][row]["silent"]["value"] == 0
    assert "no v1_0/synthetic_pause_handling" in card["absent"]["fdb.synthetic_pause_tor"]
    assert any("read pauses and turns together" in note for note in card["notes"])
    assert any("the agent's own text" in note for note in card["notes"])
    page = (out / "score.html").read_text()
    assert page.count("data:image/png;base64,") >= 1 and "read pauses and turns together" in page
    assert "takes its turn" in (out / "score.md").read_text() and "takes its turn" in result.output
    other = tmp_path / "other" / "score.json"
    other.parent.mkdir()
    other.write_text((out / "score.json").read_text())
    compared = CliRunner().invoke(app, ["compare", str(out / "score.json"), str(other)])
    assert compared.exit_code == 0 and "takes its turn" in compared.output


def test_an_output_is_as_long_as_its_input_whatever_that_is(tmp_path):
    talking_pipeline().save_pretrained(tmp_path / "checkpoint")
    subset, rng = tmp_path / "bench/v1_0/candor_pause_handling", np.random.default_rng(0)
    inputs = {
        "1": (8_000, 1, 4_001),
        "an id, näher": (44_100, 2, 22_051),
        "2.wav": (48_000, 2, 480),
        "03": (24_000, 1, 1),
    }
    for name, (rate, channels, length) in inputs.items():
        write_wav(subset / name / "input.wav", 0.1 * rng.standard_normal(length * channels), rate, channels)
    result = evaluate(tmp_path / "checkpoint", "--benchmark", "full-duplex-bench", tmp_path / "bench")
    assert result.exit_code == 0, result.output
    for name, (rate, _, length) in inputs.items():
        num_samples, output_rate = length_and_rate(subset / name / "output.wav")
        assert output_rate == RATE and abs(num_samples - length * RATE / rate) < 1
        assert (subset / name / "output.json").exists()


def test_pauses_are_never_shown_without_turns(tmp_path, samples):
    talking_pipeline().save_pretrained(tmp_path / "checkpoint")
    result = evaluate(
        tmp_path / "checkpoint", "--benchmark", "full-duplex-bench", _only(samples, "candor_pause_handling")
    )
    assert result.exit_code == 0, result.output
    assert "takes its turn" in result.output and "there is no v1_0/candor_turn_taking" in result.output


def _only(samples: Path, subset: str) -> Path:
    folder = samples.parent / "only" / "v1_0"
    folder.mkdir(parents=True)
    (samples / "v1_0" / subset).rename(folder / subset)
    return folder.parent


def test_a_film_stands_for_the_users_picture(tmp_path, samples):
    talking_pipeline().save_pretrained(tmp_path / "checkpoint")
    folder, film = _only(samples, "candor_turn_taking"), write_film(tmp_path / "film.mp4", 0.4)
    sound, answer = folder / "v1_0/candor_turn_taking/1/input.wav", folder / "v1_0/candor_turn_taking/1/output.wav"
    arguments = [tmp_path / "checkpoint", "--benchmark", "full-duplex-bench", folder]
    heard = []
    for options, note in (((), "--picture gives it a film"), (("--picture", film), f"of all users is {film}")):
        result = evaluate(*arguments, *options)
        assert result.exit_code == 0 and note in result.output, result.output
        heard.append(answer.read_bytes())
    assert heard[0] != heard[1]
    refused = evaluate(*arguments, "--picture", sound)
    assert refused.exit_code == 1 and "has no picture" in refused.output


def test_where_input_and_clean_input_differ_something_happens(samples):
    sample = Sample("v1_5", "user_interruption", samples / "v1_5/user_interruption/1")
    assert event(sample) == pytest.approx((0.5, 0.75), abs=0.01)
    (sample.folder / "metadata.json").write_text('{"timestamps": [0.1, 0.2]}')
    assert event(sample) == (0.1, 0.2)


def test_a_recogniser_of_ones_own_gives_the_words(tmp_path, samples, monkeypatch):
    talking_pipeline().save_pretrained(tmp_path / "checkpoint")
    (tmp_path / "own_ears.py").write_text(
        "from streamer_pipeline.data.words import Word\n"
        "class Always:\n"
        "    def __call__(self, samples, rate): return 'yes'\n"
        "    def words(self, samples, rate): return (Word('yes', 0.6, 0.9),)\n"
        "always = Always()\n"
        "def plain(samples, rate): return 'yes'\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    folder = _only(samples, "candor_turn_taking")
    arguments = [tmp_path / "checkpoint", "--benchmark", "full-duplex-bench", folder, "--recogniser"]
    result = evaluate(*arguments, "own_ears:always")
    assert result.exit_code == 0 and "written down by own_ears:always" in result.output, result.output
    record = json.loads((folder / "v1_0/candor_turn_taking/1/output.json").read_text())
    assert record == {"text": "yes", "chunks": [{"text": "yes", "timestamp": [0.6, 0.9]}]}
    refused = evaluate(*arguments, "own_ears:plain")
    assert refused.exit_code == 1 and "needs a method words" in refused.output


def of_floats(samples: np.ndarray) -> bytes:
    """A wav of 32-bit floats, 24 kHz, mono."""
    data = samples.astype("<f4").tobytes()
    format_chunk = struct.pack("<IHHIIHH", 16, 3, 1, RATE, 4 * RATE, 4, 32)
    riff, size = (
        struct.pack("<4sI", name, length) for name, length in ((b"RIFF", 36 + len(data)), (b"data", len(data)))
    )
    return riff + b"WAVEfmt " + format_chunk + size + data


SPOILED = {
    "v1_0/candor_turn_taking/1/turn_taking.json": [
        (None, "turn_taking.json is missing"),
        (b'[{"timestamp": [0.1', "is damaged"),
        (b"[]", "should be a list of"),
        (b'[{"timestamp": [2, 1]}]', "a timestamp is [start, end] in seconds"),
        (b'[{"timestamp": [NaN, 1]}]', "a timestamp is [start, end] in seconds"),
    ],
    "v1_0/synthetic_user_interruption/1/interrupt.json": [(None, "interrupt.json is missing")],
    "v1_0/icc_backchannel/icc_gt_distribution.json": [(b'{"1": ["a"]}', "weight of every 0.2 s")],
    "v1_0/candor_pause_handling/1/input.wav": [
        (None, "has annotations but no input.wav"),
        (b"", "is empty"),
        (b"RIFF", "cannot be read"),
        (of_floats(np.zeros(0)), "input.wav"),
    ],
    "v1_5/talking_to_other/1/metadata.json": [(b'{"timestamps": "soon"}', "a timestamp is [start, end] in seconds")],
    "v1_5/background_speech/1/clean_input.wav": [(of_floats(np.full(RATE, np.nan)), "samples that are not finite")],
}


@pytest.mark.parametrize("name", SPOILED)
def test_a_spoiled_sample_is_said_before_the_checkpoint_is_looked_for(samples, name):
    for content, message in SPOILED[name]:
        (samples / name).unlink(missing_ok=True)
        if content is not None:
            (samples / name).write_bytes(content)
        result = evaluate(samples / "nowhere", "--benchmark", "full-duplex-bench", samples)
        assert isinstance(result.exception, SystemExit) and message in result.output.replace("\n", " "), result.output


def test_what_is_wrong_with_a_folder_is_said_in_one_line(tmp_path, samples):
    (samples / "v1_0/candor_turn_taking/1/turn_taking.json").write_text('{"timestamp": [1, 2]}')
    for arguments, message in {
        ("wan-streamer-tiny", "--benchmark", "full-duplex-bench"): "and a FOLDER go together",
        ("wan-streamer-tiny", samples): "and a FOLDER go together",
        ("wan-streamer-tiny", "--benchmark", "full-duplex-bench", tmp_path / "none"): "holds no samples",
        ("wan-streamer-tiny", "--benchmark", "full-duplex-bench", samples): "turn_taking.json should be a list",
    }.items():
        result = evaluate(*arguments)
        assert result.exit_code == 1 and message in result.output.replace("\n", " ")
        assert "Traceback" not in result.output
    (samples / "v1_5/background_speech/1/clean_input.wav").unlink()
    result = evaluate("wan-streamer-tiny", "--benchmark", "full-duplex-bench", samples)
    assert result.exit_code == 1 and "no clean_input.wav" in result.output
