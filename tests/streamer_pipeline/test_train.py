"""`wan-streamer train`: recordings become dyads, dyads a checkpoint; only what was asked for is trained."""

import csv
import filecmp
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
import yaml
from recordings import voice, write_film, write_json, write_sound
from streamer_core import pack_video
from streamer_pipeline import StreamerPipeline, UserUnit, read_dyads
from streamer_pipeline.cli import app
from streamer_pipeline.data.encoding import DyadEncoder, encode_split
from streamer_pipeline.training.config import TrainConfig
from streamer_pipeline.training.run import train as work
from tiny_parts import SIZE, open_session, random_units, tiny_pipeline
from typer.testing import CliRunner

SECONDS = 4.8  # 30 units
USER_WORDS = [("hello", 0.4, 0.8), ("there", 0.9, 1.3)]
AGENT_WORDS = [("how", 2.0, 2.3), ("are", 2.6, 2.8), ("you", 2.9, 3.4)]
DRAWN = 48, 72  # height and width of the tiny agent's picture
SHORT = {"max_steps": 2, "batch_size": 2, "num_units": 12, "num_threads": 1}
SMALL = ["--workers", 1, "--val-share", 0, "--test-share", 0, "--size", f"{DRAWN[0]}x{DRAWN[1]}"]


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def record(folder: Path, number: int, film: bool = False, user_words=USER_WORDS, agent_words=AGENT_WORDS) -> None:
    """A pair of sides with their words."""
    for role, words in (("user", user_words), ("agent", agent_words)):
        sound = voice(SECONDS, words or AGENT_WORDS, seed=2 * number + (role == "user"))
        if film:
            write_film(folder / f"{number}.{role}.mp4", SECONDS, sound, size=DRAWN)
        else:
            write_sound(folder / f"{number}.{role}.wav", sound)
        if words:
            write_json(folder / f"{number}.{role}.json", {"words": [list(word) for word in words]})


def prepared(folder: Path, **options) -> Path:
    for number in range(options.pop("count", 2)):
        record(folder / "recordings", number, **options)
    result = run("prepare", folder / "recordings", "--out", folder / "dyads", *SMALL)
    assert result.exit_code == 0, result.output
    return folder / "dyads"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    tiny_pipeline().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def dyads(tmp_path_factory):
    """Sound alone, with the words of both."""
    return prepared(tmp_path_factory.mktemp("sound"), count=3)


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    return prepared(tmp_path_factory.mktemp("films"), film=True)


@pytest.fixture
def train(checkpoint, tmp_path):
    def go(data, name="run", **settings) -> Path:
        folder = tmp_path / name
        places = {
            "data": str(data),
            "start_from": str(checkpoint),
            "run": str(folder),
            "cache": str(tmp_path / "cache"),
        }
        made, _ = work(TrainConfig.of(SHORT | places | settings))
        assert made == folder / "checkpoint"
        return folder

    return go


@pytest.fixture
def refused(checkpoint, tmp_path):
    """What the command says in its one line."""

    def go(data, *options) -> str:
        places = ["--data", data, "--start-from", checkpoint, "--run", tmp_path / "run", "--cache", tmp_path / "cache"]
        result = run("train", *places, *options)
        line = result.stderr.strip().splitlines()[-1]
        assert result.exit_code == 1 and line.startswith("error: "), result.output
        return line

    return go


def weights(run_folder: Path, part="streamer"):
    return getattr(StreamerPipeline.from_pretrained(run_folder / "checkpoint"), part).state_dict()


def changed(checkpoint: Path, run_folder: Path, part="streamer") -> set[str]:
    before = getattr(StreamerPipeline.from_pretrained(checkpoint), part).state_dict()
    after = weights(run_folder, part)
    assert before.keys() == after.keys()
    return {name for name in before if not torch.equal(before[name], after[name])}


def test_recordings_become_a_checkpoint_that_talks(train, films, checkpoint):
    folder = train(films)
    pipeline = StreamerPipeline.from_pretrained(folder / "checkpoint")
    session = pipeline.open_session(height=SIZE[0], width=SIZE[1])
    assert session.step(random_units(1)[0]).video.shape == (3, 4, *DRAWN)
    assert pipeline.config.prompt == "hello there"
    for part in ("streamer", "audio_encoder", "video_encoder"):
        assert changed(checkpoint, folder, part), part
    for part in ("audio_vae", "video_vae", "audio_decoder", "video_decoder", "tokenizer", "scheduler"):
        compared = filecmp.dircmp(checkpoint / part, folder / "checkpoint" / part)
        assert compared.left_list == compared.right_list and not compared.diff_files, part
    assert TrainConfig.of(yaml.safe_load((folder / "config.yaml").read_text())).max_steps == 2


def test_speed_is_logged(train, dyads):
    folder = train(dyads, tasks="duplex=1", max_steps=20)
    rows = list(csv.DictReader((folder / "metrics" / "version_0" / "metrics.csv").open()))
    speeds = [float(row["train/media_units_per_second"]) for row in rows if row["train/media_units_per_second"]]
    shares = [float(row["train/media_peak_share"]) for row in rows if row["train/media_peak_share"]]
    assert speeds and min(speeds) > 0
    assert (folder / "metrics.png").stat().st_size > 1000
    assert shares and min(shares) > 0 and max(shares) < 1


def test_a_run_in_two_parts_is_the_run_in_one(train, dyads):
    """So few steps are all warm-up, which does not know how many there will be."""
    train(dyads, "parts")
    parts, whole = train(dyads, "parts", max_steps=4), train(dyads, "whole", max_steps=4)
    for name, weight in weights(whole).items():
        assert torch.equal(weights(parts)[name], weight), name


def test_workers_draw_the_same_batches(train, dyads):
    alone, helped = train(dyads, "alone"), train(dyads, "helped", num_workers=2)
    assert all(torch.equal(a, b) for a, b in zip(weights(alone).values(), weights(helped).values(), strict=True))


@pytest.mark.parametrize("method", ["lora", "heads"])
def test_a_method_trains_what_it_says_and_nothing_else(train, dyads, checkpoint, method):
    folder = train(dyads, method=method, lora_targets="q_proj down_proj")
    names = changed(checkpoint, folder)
    if method == "lora":
        layers = range(len(StreamerPipeline.from_pretrained(checkpoint).streamer.model.layers))
        assert names == {
            f"model.layers.{i}.{part}.weight" for i in layers for part in ("self_attn.q_proj", "mlp.down_proj")
        }
    else:
        # Words are tied, and nobody was filmed.
        assert names == {f"{head}.{kind}" for head in ("audio_out", "heard_out") for kind in ("weight", "bias")}
    for part in ("audio_encoder", "video_encoder"):
        compared = filecmp.dircmp(checkpoint / part, folder / "checkpoint" / part)
        assert compared.left_list == compared.right_list and not compared.diff_files


def test_an_agent_that_nobody_filmed_keeps_its_own_face_in_view_and_learns_nothing_of_it(train, dyads, checkpoint):
    folder = train(dyads, tasks="duplex=1")
    names = changed(checkpoint, folder)
    assert "audio_out.weight" in names and not {"video_out.weight", "video_out.bias"} & names
    pipeline = StreamerPipeline.from_pretrained(checkpoint)
    tensors = DyadEncoder(pipeline)(next(iter(read_dyads(dyads, "train"))))
    session, config = pipeline.open_session(), pipeline.streamer.config
    nobody = UserUnit(torch.zeros(1, 3840), torch.full((3, 4, 192, 336), -1.0))
    face = torch.stack([session.step(nobody).latents["video"] for _ in range(30)])
    assert not tensors["pictured"].any()
    torch.testing.assert_close(pack_video(tensors["video_latents"][None], config)[0], face)


def test_what_is_encoded_is_what_was_recorded(films, dyads, checkpoint, tmp_path):
    pipeline = StreamerPipeline.from_pretrained(checkpoint)
    tokenizer, encoder = pipeline.tokenizer, DyadEncoder(pipeline)
    dyad = next(iter(read_dyads(films, "train")))
    tensors = encoder(dyad)
    heard = {unit: tokenizer.decode_slots(ids.tolist()) for unit, ids in enumerate(tensors["user_heard"])}
    # "hello" ends in unit 5, "there" in unit 8; each is known a unit later.
    assert {unit: word for unit, word in heard.items() if word} == {6: " hello", 9: " there"}
    said = {unit: tokenizer.decode_slots(ids.tolist()) for unit, ids in enumerate(tensors["text"])}
    assert {unit: word for unit, word in said.items() if word} == {12: " how", 14: " are", 16: " you"}
    speaking = (tensors["state"] == tokenizer.state_ids["speak"]).nonzero()[:, 0].tolist()
    assert speaking == list(range(12, 22))
    assert tensors["pictured"].all()
    assert torch.equal(tensors["user_audio"], (dyad.user_audio[0] * 32767).round().short())
    with torch.inference_mode():
        whole = pipeline.video_vae.encode(dyad.agent_video[None])[0].mean[0]
        sound = pipeline.audio_vae.encode(dyad.agent_audio[None])[0].mean[0]
    torch.testing.assert_close(tensors["video_latents"], whole, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(tensors["audio_latents"], sound)


def test_a_dyad_is_encoded_once_and_again_when_it_or_the_coders_change(dyads, checkpoint, tmp_path):
    def encode(pipeline=None, **options):
        encoder = DyadEncoder(pipeline or StreamerPipeline.from_pretrained(checkpoint), **options)
        return [(path.name, path.stat().st_mtime_ns) for path in encode_split(dyads, "train", encoder, tmp_path).files]

    first = encode()
    assert len(set(first)) == 3 and encode() == first
    damaged = tmp_path / first[1][0]
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[:100])
    again = encode()
    assert len(damaged.read_bytes()) == len(whole)
    assert [name for name, _ in again] == [name for name, _ in first]
    assert [a == b for a, b in zip(again, first, strict=True)] == [True, False, True]
    other = StreamerPipeline.from_pretrained(checkpoint)
    with torch.no_grad():
        next(other.audio_vae.parameters()).add_(1e-3)
    assert not {name for name, _ in encode(other)} & {name for name, _ in first}
    assert not {name for name, _ in encode(plain_words=True)} & {name for name, _ in first}


def test_processes_of_a_machine_share_the_encoding(dyads, checkpoint, tmp_path):
    class Watched(DyadEncoder):
        def __call__(self, dyad):
            self.encoded.append(dyad.key)
            return super().__call__(dyad)

    encoders = [Watched(StreamerPipeline.from_pretrained(checkpoint)) for _ in range(2)]
    for encoder in encoders:
        encoder.encoded = []
    with ThreadPoolExecutor(2) as threads:
        shares = [
            threads.submit(encode_split, dyads, "train", encoder, tmp_path, n, 2) for n, encoder in enumerate(encoders)
        ]
        one, other = (share.result().files for share in shares)
    keys = [dyad.key for dyad in read_dyads(dyads, "train")]
    assert [encoder.encoded for encoder in encoders] == [keys[::2], keys[1::2]]
    assert one == other and [path.exists() for path in one] == [True] * 3


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["auto", "fsdp2"])
def test_two_processes_train_through_the_command(dyads, checkpoint, tmp_path, strategy):
    """Started by Lightning, or by torchrun. One of them speaks and writes; the run goes on where it was."""
    folder, log = tmp_path / "run", tmp_path / "log"
    launcher = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"] if strategy == "fsdp2" else []
    settings = SHORT | {"data": str(dyads), "start_from": str(checkpoint), "run": str(folder), "batch_size": 1}
    settings |= {"cache": str(tmp_path / "cache"), "devices": 2, "strategy": strategy}
    for max_steps in (2, 3):
        (tmp_path / "run.yaml").write_text(yaml.safe_dump(settings | {"max_steps": max_steps}))
        command = [sys.executable, "-m", *launcher, "streamer_pipeline", "train", "--config", tmp_path / "run.yaml"]
        with log.open("w") as output:
            subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, check=True)
        assert log.read_text().count("talk to it: wan-streamer talk") == 1
        assert torch.load(folder / "checkpoints" / "last.ckpt", weights_only=False)["global_step"] == max_steps
    assert yaml.safe_load((folder / "config.yaml").read_text())["devices"] == 2
    assert sorted(path.name for path in (folder / "metrics").iterdir()) == ["version_0", "version_1"]
    assert len(list((tmp_path / "cache").iterdir())) == 3
    assert not list(folder.glob("*.partial"))
    assert {"audio_out.weight", "lm_head.weight"} <= changed(checkpoint, folder)
    open_session(StreamerPipeline.from_pretrained(folder / "checkpoint")).step(random_units(1)[0])


def test_validation_is_logged_and_filmed(train, dyads, tmp_path):
    both = tmp_path / "both"
    both.mkdir()
    for shard in dyads.glob("train-*.tar"):
        for split in ("train", "val"):
            (both / shard.name.replace("train", split)).write_bytes(shard.read_bytes())
    folder = train(both, validate_every=2, samples=1)
    logged = (folder / "metrics" / "version_0" / "metrics.csv").read_text()
    for name in ("val/duplex_audio", "val/words_words", "val/hearing_text", "val/speaking_text"):
        assert name in logged
    (film,) = (folder / "samples").glob("000002-*.mp4")
    assert film.stat().st_size > 1000


def test_new_weights_of_a_preset(train, dyads, checkpoint):
    folder = train(dyads, preset="tiny", stage=1, max_steps=1, tasks="words=1")
    assert StreamerPipeline.from_pretrained(folder / "checkpoint").streamer.config.hidden_size == 192


def test_a_head_for_heard_words_is_added_and_learns(train, dyads, tmp_path):
    deaf = tmp_path / "deaf"
    tiny_pipeline(hears_words=False).save_pretrained(deaf)
    for method in ("full", "heads"):
        folder = train(dyads, method, start_from=str(deaf), method=method, hears_words=True, tasks="duplex=1")
        streamer = StreamerPipeline.from_pretrained(folder / "checkpoint").streamer
        assert streamer.config.hears_words and streamer.heard_out.bias.any()


def test_distillation_makes_a_student_of_few_steps(train, films, checkpoint):
    folder = train(films, stage=3, max_steps=1, tasks="duplex=1")
    assert json.loads((folder / "checkpoint" / "model_index.json").read_text())["num_inference_steps"] == 2
    assert "video_out.weight" in changed(checkpoint, folder)


def test_the_command_takes_yaml_and_its_options_come_before_it(dyads, checkpoint, refused, tmp_path):
    path, folder = tmp_path / "run.yaml", tmp_path / "run"
    settings = SHORT | {"data": str(dyads), "start_from": str(checkpoint), "run": str(folder), "tasks": "words=1"}
    path.write_text(yaml.safe_dump(settings | {"seed": 5, "batch_size": 1}))
    command = [sys.executable, "-m", "streamer_pipeline", "train", "--config", path, "--batch-size", "2"]
    done = subprocess.run([*command, "--cache", tmp_path / "cache"], capture_output=True, text=True, check=True)
    assert f"saved {folder / 'checkpoint'}" in done.stdout.replace("\n", "")
    kept = yaml.safe_load((folder / "config.yaml").read_text())
    assert (kept["batch_size"], kept["seed"], kept["num_units"]) == (2, 5, 12)
    assert "holds a run with seed 5, not 6" in refused(dyads, "--config", path, "--batch-size", 2, "--seed", 6)


def test_what_cannot_be_trained_is_said_in_a_line(dyads, refused, tmp_path):
    wordless = prepared(tmp_path / "wordless", user_words=None)
    (tmp_path / "slip.yaml").write_text("learnin_rate: 1\n")
    cases = {
        "has no shards dev-*.tar": [dyads, "--split", "dev"],
        "must be one of full, lora, heads; got 'half'": [dyads, "--method", "half"],
        "must be one of tiny, small, base; got 'huge'": [dyads, "--preset", "huge"],
        "no task singing": [dyads, "--tasks", "singing=1"],
        "nothing to learn from the task hearing: no dyad has the user's words": [wordless, "--tasks", "hearing=1"],
        "is neither a folder": [tmp_path / "nothing"],
        "stage must be 1": [dyads, "--stage", 4],
        "learning_rate must be a finite number, above 0": [dyads, "--learning-rate", 0],
        "lora_targets": [dyads, "--method", "lora", "--lora-targets", "nothing_like_it"],
        "lora trains no new head": [dyads, "--method", "lora", "--hears-words"],
        "hears_words needs the user's words, and no dyad": [wordless, "--hears-words"],
        "no setting 'learnin_rate'; did you mean 'learning_rate'?": [dyads, "--config", tmp_path / "slip.yaml"],
    }
    for reason, (data, *options) in cases.items():
        assert reason in refused(data, *options)
    result = run("train", "--seed", 1)
    assert result.exit_code == 1 and "training needs data" in result.stderr


def test_words_that_cannot_be_learned_are_said(dyads, checkpoint, monkeypatch):
    pipeline = StreamerPipeline.from_pretrained(checkpoint)
    (dyad, *_) = read_dyads(dyads, "train")
    monkeypatch.setitem(dyad.labels["agent"], "words", None)
    with pytest.raises(ValueError, match=r"does not say what the agent's words are.*--transcribe"):
        DyadEncoder(pipeline)(dyad)
    monkeypatch.setitem(dyad.labels["agent"], "words", [["<|pad|>"]] + [[]] * 29)  # is spelled, and is no control token
    ids = DyadEncoder(pipeline)(dyad)["text"].flatten().tolist()
    assert pipeline.tokenizer.decode_slots(ids) == " <|pad|>"
    monkeypatch.setitem(dyad.labels["agent"], "words", [["Hello,"], ["—"], ["you're"]] + [[]] * 27)
    text = DyadEncoder(pipeline, plain_words=True)(dyad)["text"]
    assert pipeline.tokenizer.decode_slots(text.flatten().tolist()).startswith(" hello")
