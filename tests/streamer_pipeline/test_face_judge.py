"""The face judge of `wan-streamer eval`: what node reads from pictures, and what is made of it."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from duplex_world.face import AGENT, random_identity
from duplex_world.motion import idle_motion
from duplex_world.render import render_frames
from duplex_world.tensors import to_video
from streamer_pipeline.cache_folder import cache_folder
from streamer_pipeline.cli import app
from streamer_pipeline.data.dyads import StoredDyad
from streamer_pipeline.data.shards import encode_sound, encode_video, write_shard
from streamer_pipeline.evaluation import endurance
from streamer_pipeline.evaluation.closed_loop import without_picture
from streamer_pipeline.evaluation.face import FaceTracks, without_gaps
from streamer_pipeline.evaluation.identity import identity_scores
from streamer_pipeline.evaluation.landmarks import PACKAGES, LandmarkFaceMeter, brow_height, mouth_opening
from streamer_pipeline.evaluation.lips import lip_sync
from streamer_pipeline.evaluation.recorded_conversation import RecordedConversation
from streamer_pipeline.evaluation.statistics import correlation
from tiny_parts import tiny_pipeline
from typer.testing import CliRunner

RATE, FRAME_RATE, SAMPLES_PER_UNIT, FRAMES_PER_UNIT = 24_000, 25, 3840, 4
FACE_API = cache_folder() / "face-api" / "node_modules"
needs_node = pytest.mark.skipif(
    shutil.which("node") is None or not (FACE_API / "@vladmandic/face-api").is_dir(),
    reason="node or the packages of `make setup-face` are not installed",
)


STRANGER = random_identity(12)


def syllables(num_frames: int) -> np.ndarray:
    """(T,) how far a mouth is open: 3.3 syllables a second, between silences."""
    time = np.arange(num_frames) / FRAME_RATE
    wave = 0.5 * np.sin(2 * np.pi * 3.3 * time) + 0.4 * np.sin(2 * np.pi * 1.3 * time + 1)
    return np.clip(wave, 0, 1) * (time > 0.3) * (time < time[-1] - 0.3)


def film(num_frames: int, identity=AGENT, seed: int = 0) -> torch.Tensor:
    """(3, T, 192, 336), somebody drawn who says syllables."""
    motion = idle_motion(num_frames, np.random.default_rng(seed)) | {"mouth_open": syllables(num_frames)}
    return to_video(render_frames(motion, identity))


def sound_of(num_frames: int) -> np.ndarray:
    """(N,) noise as loud as the mouth is open."""
    noise = np.random.default_rng(0).standard_normal(num_frames * RATE // FRAME_RATE)
    return (0.15 * noise * np.repeat(syllables(num_frames), RATE // FRAME_RATE)).astype(np.float32)


def conversation(face: FaceTracks, num_units: int, key: str = "one") -> RecordedConversation:
    wave = sound_of(FRAMES_PER_UNIT * num_units)
    return RecordedConversation(key, {}, wave, [""] * num_units, face)


@pytest.fixture(scope="module")
def meter():
    return LandmarkFaceMeter()


# ---- what is made of landmarks ----


def test_openings_are_relative_to_the_face_wherever_it_is():
    points = np.random.default_rng(0).uniform(0, 100, (3, 68, 2))
    turned = 2.5 * points @ np.array([[0.8, -0.6], [0.6, 0.8]]) + (40, -7)
    for measure in (mouth_opening, brow_height):
        assert measure(points).shape == (3,) and np.allclose(measure(points), measure(turned))
    opened = points.copy()
    opened[:, [61, 62, 63]] += 5 * (opened[:, [61, 62, 63]] - opened[:, [67, 66, 65]])
    assert np.allclose(mouth_opening(opened), 6 * mouth_opening(points))


def test_short_gaps_are_filled_and_a_face_that_is_mostly_away_is_not_judged():
    num_units = 25
    mouth = syllables(FRAMES_PER_UNIT * num_units)
    whole = conversation(FaceTracks(motion=mouth, mouth=mouth), num_units)
    blinked, away = mouth.copy(), mouth.copy()
    blinked[30:34], away[::5] = np.nan, np.nan
    assert lip_sync(whole).offset == 0 and lip_sync(whole).zero_lag > 0.7
    assert lip_sync(replace(whole, face=FaceTracks(motion=mouth, mouth=blinked))).offset == 0
    assert lip_sync(replace(whole, face=FaceTracks(motion=mouth, mouth=away))) is None
    assert np.allclose(without_gaps(np.array([0.0, *[np.nan], *range(2, 20)])), range(20))


def faces(num_frames: int, *identities: float, gap: bool = False) -> FaceTracks:
    """A face whose identity is one number, another one after every second; a gap is half of the frames."""
    identity = np.repeat(np.array(identities), -(-num_frames // len(identities)))[:num_frames, None].astype(float)
    if gap:
        identity[::2] = np.nan
    return FaceTracks(motion=np.zeros(num_frames), found=~np.isnan(identity[:, 0]), identity=identity)


def test_identity_is_compared_with_the_first_second_and_with_the_recorded_agent():
    num_units = 13
    num_frames = FRAMES_PER_UNIT * num_units
    recorded = conversation(faces(num_frames, 1.0), num_units)

    def values(face: FaceTracks) -> dict[str, float | None]:
        found = identity_scores([conversation(face, num_units)], [recorded])
        return {key.partition(".")[2]: score.value for key, score in found.items()}

    assert values(faces(num_frames, 3.0)) == {"found": 1, "kept": 0, "recorded": 2}
    changed = values(faces(num_frames, 1.0, 1.5))
    assert changed["kept"] == pytest.approx(0.5, abs=0.03) and changed["recorded"] == pytest.approx(0.25, abs=0.01)
    assert values(faces(num_frames, 1.0, gap=True)) == {"found": 0.5, "kept": None, "recorded": None}
    assert identity_scores([recorded], [recorded])["face.recorded"].value is None  # it is the same film


def test_tracks_stay_together_when_they_are_joined_and_delayed():
    pieces = [replace(faces(4, float(n)), mouth=np.full(4, float(n))) for n in range(3)]
    whole = FaceTracks.joined(pieces, 14).delayed(2)
    assert whole.mouth.tolist() == [0] * 6 + [1] * 4 + [2] * 4
    assert whole.identity[:, 0].tolist() == whole.mouth.tolist() and whole.found.dtype == bool


class Ageing:
    """Finds a face that is another person's from the second minute on."""

    num_looks = 0

    def __call__(self, frames, previous=None):
        self.num_looks += 1
        return faces(frames.shape[1], float(self.num_looks > 2))


def test_identity_drifts_over_minutes(monkeypatch):
    monkeypatch.setattr(endurance, "UNITS_PER_MINUTE", 50)
    silence = torch.zeros(1, 50 * SAMPLES_PER_UNIT)
    dyad = StoredDyad("one", {}, silence, None, silence, None)
    pipeline = without_picture(tiny_pipeline())
    minutes = list(endurance.live_on(pipeline, lambda: [dyad], 2.0, Ageing(), None, num_steps=1))
    assert [minute.identity_distance for minute in minutes] == [0, 1]
    assert endurance.endurance_scores(minutes)["endurance.identity"].value == 1


# ---- what node sees ----


@needs_node
def test_landmarks_follow_a_drawn_mouth_and_tell_who_is_drawn(meter):
    num_frames = 40
    mine, again, other = (meter(film(num_frames, who, seed)) for who, seed in ((AGENT, 0), (AGENT, 1), (STRANGER, 0)))
    for face in (mine, again, other):
        assert face.found.all() and correlation(face.mouth, syllables(num_frames)) > 0.9
    centre = mine.identity.mean(axis=0)
    near, far = (np.linalg.norm(face.identity - centre, axis=1) for face in (again, other))
    assert near.max() < far.min()


@needs_node
def test_a_face_is_measured_alike_whole_or_in_units_and_at_any_size(meter):
    whole, size = film(12), (120, 208)
    together, apart = meter(whole), meter(whole[:, 8:], previous=whole[:, 7:8])
    for name in ("mouth", "brows", "motion", "identity", "found"):
        assert np.allclose(getattr(together, name)[8:], getattr(apart, name)), name
    small = torch.nn.functional.interpolate(whole.transpose(0, 1), size, mode="area").transpose(0, 1)
    assert meter(small).found.all()


@needs_node
def test_where_no_face_is_none_is_found(meter):
    noise = torch.rand(3, 8, 192, 336, generator=torch.Generator().manual_seed(0)) * 2 - 1
    for picture in (noise, torch.full_like(noise, -1), torch.linspace(-1, 1, 336).expand_as(noise)):
        face = meter(picture)
        assert not face.found.any() and np.isnan(face.mouth).all() and np.isnan(face.identity).all()
    later = meter(torch.cat([noise[:, :4], film(4)], dim=1))
    assert later.found.tolist() == [False] * 4 + [True] * 4


@needs_node
def test_a_photograph_is_found_and_is_nobody_who_is_drawn(meter):
    with av.open(str(FACE_API / "@vladmandic/face-api/demo/sample1.jpg")) as container:
        picture = next(container.decode(video=0)).reformat(600, 400, "rgb24").to_ndarray(format="rgb24")
    person = to_video(picture[None, 20:212, 400:600])  # one of the three people
    photograph, moved, drawn = (meter(x).identity[0] for x in (person, person.roll(6, dims=3), film(4)))
    assert np.linalg.norm(photograph - moved) < 0.4 < np.linalg.norm(photograph - drawn)


@needs_node
def test_a_judge_that_breaks_down_says_so(tmp_path):
    (tmp_path / "node_modules").symlink_to(FACE_API)
    broken = LandmarkFaceMeter(tmp_path)
    broken(film(4))
    broken._node.kill()
    with pytest.raises(ChildProcessError, match="node ended while it looked for a face"):
        broken(film(4))


# ---- from the command line ----


@pytest.fixture(scope="module")
def dyads(tmp_path_factory) -> Path:
    """Two short dyads whose recorded agent is drawn and speaks; the users are silent and not filmed."""
    folder, num_units = tmp_path_factory.mktemp("dyads"), 12
    num_frames = FRAMES_PER_UNIT * num_units
    labels = {
        "num_units": num_units,
        "agent": {"words": [[]] * num_units, "transcript": []},
        "user": {"transcript": []},
    }
    pixels = ((film(num_frames).permute(1, 2, 3, 0) + 1) * 127.5).round().byte().numpy()
    members = {
        "json": json.dumps(labels).encode(),
        "user.flac": encode_sound(np.zeros(num_units * SAMPLES_PER_UNIT, np.float32)),
        "agent.flac": encode_sound(sound_of(num_frames)),
        "agent.mp4": encode_video(pixels),
    }
    write_shard(folder / "test-00000.tar", [("a", members), ("b", members)])
    (folder / "dataset_info.json").write_text('{"size": [48, 96]}')
    return folder


def evaluate(*arguments: object):
    return CliRunner().invoke(app, ["eval", *map(str, arguments)])


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    tiny_pipeline().save_pretrained(folder)
    return folder


@needs_node
def test_the_card_shows_the_recorded_face_and_no_number_for_an_agent_without_one(tmp_path, checkpoint, dyads):
    result = evaluate(
        checkpoint, "--dataset", dyads, "--minutes", 0, "--per-scenario", 1, "--face", "landmarks", "--out", tmp_path
    )
    assert result.exit_code == 0, result.output
    card = json.loads((tmp_path / "score.json").read_text())
    rows = card["rows"]
    assert rows["face.found"]["recordings"]["value"] == 1 and rows["face.found"]["agent"]["value"] == 0
    assert rows["lips.in_step"]["recordings"]["value"] == 1 and rows["lips.zero_lag"]["recordings"]["value"] > 0.7
    assert 0 < rows["face.kept"]["recordings"]["value"] < 0.4
    for row in ("lips.in_step", "lips.zero_lag", "face.kept", "face.recorded"):
        assert row in card["absent"] or rows[row]["agent"]["value"] is None
    assert "shows a face in nine of ten frames" in card["absent"]["face.recorded"]
    assert "nobody reads the eyes" in card["absent"]["idle.blinks"]


def test_what_the_judge_lacks_is_said_before_any_work(tmp_path, checkpoint, dyads, monkeypatch):
    arguments = [checkpoint, "--dataset", dyads, "--face"]
    result = evaluate(*arguments, "mirror")
    assert result.exit_code == 1 and "no face meter 'mirror': landmarks, or module:name" in result.output
    monkeypatch.setenv("WAN_STREAMER_CACHE", str(tmp_path))
    if shutil.which("node"):
        result = evaluate(*arguments, "landmarks")
        assert result.exit_code == 1 and "make setup-face" in result.output and "Traceback" not in result.output
        assert all(package in result.output for package in PACKAGES)
    monkeypatch.setenv("PATH", str(tmp_path))
    result = evaluate(*arguments, "landmarks")
    assert result.exit_code == 1 and "needs node" in result.output and "Traceback" not in result.output


def test_the_makefile_installs_what_the_judge_asks_for():
    makefile = (Path(__file__).parents[2] / "Makefile").read_text()
    assert all(package in makefile for package in PACKAGES)
