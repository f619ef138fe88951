"""The score card tells faults apart: agents with one known fault each, and what the card says of them."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from duplex_world import SCENARIOS, AgentVoice, Dyad, agent_jsgf, build_dyad, face_box, mouth_box, render_frames
from duplex_world.face import eye_boxes
from duplex_world.grammar import COUNT
from duplex_world.scoring import WorldRows
from duplex_world.scoring.baselines import blank_video, copy_previous, other_video
from duplex_world.scoring.drawn_face import DrawnFaceMeter, agreement
from duplex_world.scoring.turns import stops
from duplex_world.shards import write_shard
from duplex_world.speech_judge import SpeechJudge, reference_thresholds
from duplex_world.tensors import to_video
from streamer_pipeline.cli import app
from streamer_pipeline.data.dyads import StoredDyad
from streamer_pipeline.evaluation.acoustic_loop import AcousticLoop, room_response
from streamer_pipeline.evaluation.closed_loop import SeparateSolver, converse, with_solver, without_picture
from streamer_pipeline.evaluation.controls import muted
from streamer_pipeline.evaluation.lips import lip_sync
from streamer_pipeline.evaluation.recorded_conversation import RecordedConversation, silent
from streamer_pipeline.evaluation.statistics import correlation
from streamer_pipeline.units import UserUnit
from tiny_parts import SIZE, tiny_pipeline
from typer.testing import CliRunner

SAMPLES_PER_UNIT, FRAMES_PER_UNIT = 3840, 4
TEST_SEEDS = 2_000_000
ONE_IF_PERFECT = {
    *("answers.text", "answers.heard", "answers.words", "sight.text", "sight.heard", "memory.text"),
    *("turns.replied", "interruption.stops", "interruption.goes_on", "proactive.greets", "proactive.quiet"),
}
ZERO_IF_PERFECT = {"turns.pause_taken", "turns.false_starts"}


def perform(dyad: Dyad) -> RecordedConversation:
    """The recorded agent."""
    labels = json.loads(json.dumps(dyad.labels()))
    texts = ["".join(f" {w}" for w in words) for words in dyad.agent_words]
    return RecordedConversation(f"{dyad.seed:07d}", labels, dyad.agent_audio, texts)


def late(p: RecordedConversation, num_units: int) -> RecordedConversation:
    wave = np.concatenate([np.zeros(num_units * SAMPLES_PER_UNIT, np.float32), p.wave])[: len(p.wave)]
    return replace(p, wave=wave, texts=([""] * num_units + p.texts)[: len(p.texts)])


def speaking_also(p: RecordedConversation, wave: np.ndarray, first_unit: int) -> RecordedConversation:
    """With something more said, on top of everything else."""
    louder = p.wave.copy()
    room = louder[first_unit * SAMPLES_PER_UNIT :]
    room[: len(wave)] += wave[: len(room)]
    return replace(p, wave=louder)


@pytest.fixture(scope="module")
def voice():
    return AgentVoice()


@pytest.fixture(scope="module")
def dyads(voice):
    return [build_dyad(TEST_SEEDS + seed, name, voice) for seed, name in enumerate([*SCENARIOS] * 2)]


@pytest.fixture(scope="module")
def references(dyads):
    return [perform(dyad) for dyad in dyads]


@pytest.fixture(scope="module")
def boxes():
    return {"mouth_box": mouth_box(), "face_box": face_box(), "eye_boxes": eye_boxes()}


@pytest.fixture(scope="module")
def world(voice, references, boxes):
    """As in dataset_info.json, with thresholds for the phrases that are owed here."""
    judge, owed = SpeechJudge(agent_jsgf()), {e["text"] for p in references for e in p.labels["expect"]} - {""}
    thresholds = reference_thresholds(judge, owed, lambda phrase: voice(phrase).wave)
    return {"grammar": agent_jsgf(), "thresholds": thresholds, "agent": boxes, "response_delay": 1}


@pytest.fixture(scope="module")
def rows(world, references):
    row_set = WorldRows(world)
    row_set.begin(references)
    return row_set


def values(rows: WorldRows, conversations: list[RecordedConversation]) -> dict[str, float | None]:
    return {key: score.value for key, score in rows.scores("agent", conversations).items()}


def test_the_recorded_agent_is_perfect(rows, references):
    scores = values(rows, references)
    assert {key: scores[key] for key in ONE_IF_PERFECT} == dict.fromkeys(ONE_IF_PERFECT, 1.0)
    assert {key: scores[key] for key in ZERO_IF_PERFECT} == dict.fromkeys(ZERO_IF_PERFECT, 0.0)
    assert scores["turns.latency_p90"] <= 480


def test_a_silent_agent_is_never_right_and_never_disturbs(rows, references):
    scores = values(rows, [silent(p) for p in references])
    assert scores["answers.text"] == scores["answers.heard"] == scores["turns.replied"] == scores["memory.text"] == 0
    assert scores["turns.false_starts"] == scores["turns.pause_taken"] == 0 and scores["proactive.quiet"] == 1
    assert scores["interruption.stops"] is None  # who does not speak cannot be interrupted


def test_lateness_adds_to_latency_exactly(rows, references):
    asked = [p for p in references if p.labels["scenario"] not in ("interrupt", "did", "wave")]
    punctual, tardy = values(rows, asked), values(rows, [late(p, 3) for p in asked])
    for key in ("turns.latency_median", "turns.latency_p90"):
        assert tardy[key] == pytest.approx(punctual[key] + 480)
    assert tardy["turns.replied"] == tardy["answers.text"] == 1


def test_an_agent_deaf_to_stop_is_found_out(rows, references, voice):
    interrupted = [p for p in references if p.labels["scenario"] == "interrupt"]
    deaf = []
    for p in interrupted:
        counting = p.labels["agent"]["segments"][0]
        alone = np.zeros_like(p.wave)
        deaf.append(speaking_also(replace(p, wave=alone), voice(COUNT).wave, counting["first_unit"]))
    assert values(rows, deaf)["interruption.stops"] == 0
    for p in interrupted:
        assert stops(p) == [True] and stops(late(p, 2)) == [False]


def test_an_agent_that_stops_at_a_backchannel_is_found_out(rows, references):
    for p in (p for p in references if p.labels["scenario"] == "backchannel"):
        onset = next(e["first_unit"] for e in p.labels["expect"] if e["kind"] == "continue")
        wave = p.wave.copy()
        wave[(onset + 3) * SAMPLES_PER_UNIT :] = 0
        assert values(rows, [replace(p, wave=wave)])["interruption.goes_on"] == 0


def test_talking_at_random_is_found_out(rows, references, voice):
    chatter = np.concatenate([np.pad(voice("hi there").wave, (0, 12_000))] * 12)
    scores = values(rows, [speaking_also(silent(p), chatter, 1) for p in references])
    assert scores["turns.false_starts"] > 10 and scores["turns.pause_taken"] == 1 and scores["proactive.quiet"] == 0
    assert scores["answers.heard"] < 0.2


def test_the_answer_of_the_dyad_before_is_right_only_where_users_do_not_matter(rows, references):
    copies = copy_previous(references)
    scores, blind = values(rows, copies), rows.by_scenario(copies)
    assert len(copies) == len(references) - len(SCENARIOS)
    assert blind["greet"]["text"].value == blind["greet"]["heard"].value == 1
    assert scores["sight.text"] < 0.5 and scores["turns.replied"] == 1
    assert 0 <= rows.begin(references) < 0.5


def test_a_late_picture_is_measured_in_frames(dyads, boxes):
    meter = DrawnFaceMeter(boxes)
    for dyad in (d for d in dyads[: len(SCENARIOS)] if d.scenario in ("greet", "count", "plus")):
        video = to_video(render_frames(dyad.agent_motion, dyad.agent_identity))
        face = meter(video)
        seen = agreement(face, dyad.agent_motion)
        assert seen["mouth"] > 0.8 and seen["eyes"] > 0.9
        assert correlation(face.brows, dyad.agent_motion["brow"]) > 0.8
        conversation = replace(perform(dyad), face=face)
        shifted = torch.cat([video[:, :1].expand(-1, 4, -1, -1), video[:, :-4]], dim=1)
        in_time, delayed = lip_sync(conversation), lip_sync(replace(conversation, face=meter(shifted)))
        assert abs(in_time.offset) <= 1 and delayed.offset == in_time.offset + 4
        assert delayed.zero_lag < in_time.zero_lag


def test_a_face_is_measured_alike_whole_or_in_pieces(dyads, boxes):
    meter, dyad = DrawnFaceMeter(boxes), dyads[0]
    video = to_video(render_frames(dyad.agent_motion, dyad.agent_identity, frames=slice(0, 12)))
    whole, piece = meter(video), meter(video[:, 8:], previous=video[:, 7:8])
    for name in ("motion", "mouth", "eyes", "brows"):
        assert np.allclose(getattr(whole, name)[8:], getattr(piece, name))


@pytest.fixture(scope="module")
def stored(dyads):
    """Two short dyads of one scenario with media, the user's picture as small as the tiny pipeline likes it."""
    found = []
    for seed in (0, 1):
        dyad = build_dyad(TEST_SEEDS + seed, "color", AgentVoice())
        user, agent = (
            to_video(render_frames(motion, identity, SIZE))
            for motion, identity in ((dyad.user_motion, dyad.user_identity), (dyad.agent_motion, dyad.agent_identity))
        )
        audio = [torch.from_numpy(wave)[None] for wave in (dyad.user_audio, dyad.agent_audio)]
        found.append(StoredDyad(f"{dyad.seed:07d}", perform(dyad).labels, audio[0], user, audio[1], agent))
    return found


def test_an_agent_talks_the_same_whether_seen_or_not_alone_or_among_others(stored, boxes):
    pipeline, meter = tiny_pipeline(), DrawnFaceMeter(boxes)
    seen = list(converse(pipeline, stored, meter, num_steps=1, batch_size=2))
    alone = list(converse(without_picture(pipeline), stored, None, num_steps=1, batch_size=1))
    by_seed = {p.labels["seed"]: p for p in seen}
    for p in alone:
        twin = by_seed[p.labels["seed"]]
        num_units = p.labels["num_units"]
        assert p.texts == twin.texts and len(p.texts) == num_units
        assert np.allclose(p.wave, twin.wave, atol=1e-4) and len(p.wave) == num_units * SAMPLES_PER_UNIT
        assert not p.wave[:SAMPLES_PER_UNIT].any()  # unit 0 of the agent plays one unit after unit 0 of the user
        assert p.face is None and len(twin.face.mouth) == num_units * FRAMES_PER_UNIT


def test_another_solver_leaves_the_pipeline_as_it_was(stored):
    pipeline = tiny_pipeline()
    scheduler = pipeline.scheduler
    apart = with_solver(pipeline, SeparateSolver(scheduler))
    assert isinstance(apart.scheduler, SeparateSolver) and pipeline.scheduler is scheduler
    assert apart.streamer is pipeline.streamer
    joint, separate = (next(converse(p, stored[:1], num_steps=2)) for p in (pipeline, apart))
    assert not np.allclose(joint.wave, separate.wave)


@pytest.mark.parametrize("seed", range(3))
def test_a_room_gives_back_what_was_played_later_and_weaker(seed):
    played = torch.randn(6, 1, SAMPLES_PER_UNIT, generator=torch.Generator().manual_seed(seed)).clamp(-1, 1) / 2
    silence = UserUnit(torch.zeros(1, SAMPLES_PER_UNIT), torch.zeros(3, FRAMES_PER_UNIT, *SIZE))
    loop, heard = AcousticLoop(seed), []
    for unit in played:
        heard.append(loop.microphone(silence).audio[0].numpy())
        loop.play(unit)
    heard, whole = np.concatenate(heard), played.flatten().numpy()
    expected = np.convolve(whole, room_response(seed))[: 5 * SAMPLES_PER_UNIT]  # nothing depends on how it is cut
    assert np.allclose(heard[SAMPLES_PER_UNIT:], expected, atol=1e-4) and not heard[:SAMPLES_PER_UNIT].any()
    delay = np.flatnonzero(room_response(seed))[0] / 24_000
    assert 0.06 <= delay <= 0.2
    assert 10 * np.log10((room_response(seed) ** 2).sum()) == pytest.approx(-12, abs=1e-3)


def test_an_agent_hears_itself_only_in_the_loop(stored):
    pipeline = without_picture(tiny_pipeline())
    apart, looped = (
        list(converse(pipeline, stored, num_steps=1, batch_size=2, hears_itself=hears)) for hears in (False, True)
    )
    for quiet, fed_back in zip(apart, looped, strict=True):
        assert quiet.wave[: 2 * SAMPLES_PER_UNIT] == pytest.approx(
            fed_back.wave[: 2 * SAMPLES_PER_UNIT]
        )  # nothing played yet
        assert not np.allclose(quiet.wave, fed_back.wave)


def test_controls_take_away_what_they_say(stored):
    for dyad in blank_video(stored):
        assert dyad.user_video.unique().tolist() == [-1] and dyad.user_audio.any()
    for dyad, whole in zip(muted(stored), stored, strict=True):
        assert not dyad.user_audio.any() and torch.equal(dyad.user_video, whole.user_video)
    (swapped,) = other_video(stored)
    first, second = stored
    num_frames = min(first.user_video.shape[1], second.user_video.shape[1])
    assert swapped.key == second.key and swapped.user_video.shape == second.user_video.shape
    assert torch.allclose(swapped.user_video[:, :num_frames], first.user_video[:, :num_frames], atol=1 / 127)
    assert torch.equal(swapped.user_audio, second.user_audio)


def test_a_checkpoint_is_examined_from_the_command_line(tmp_path, dyads, world):
    tiny_pipeline().save_pretrained(tmp_path / "checkpoint")
    dataset = tmp_path / "world"
    dataset.mkdir()
    some = [dyad for dyad in dyads[: len(SCENARIOS)] if dyad.scenario in ("bye", "smile")]
    write_shard(dataset / "test-00000.tar", some)
    (dataset / "dataset_info.json").write_text(json.dumps(world))
    arguments = [tmp_path / "checkpoint", "--dataset", dataset, "--out", tmp_path / "card", "--per-scenario", 1]
    arguments += ["--minutes", 0, "--teacher-steps", 3, "--rows", "duplex_world.scoring:WorldRows"]
    result = CliRunner().invoke(app, ["eval", *map(str, arguments)])
    assert result.exit_code == 0, result.output
    card = json.loads((tmp_path / "card" / "score.json").read_text())
    rows = card["rows"]
    assert rows["answers.text"]["recordings"]["value"] == 1 and rows["answers.text"]["silent"]["value"] == 0
    assert rows["answers.text"]["agent"]["n"] == 2
    assert rows["cost.passes"]["agent"]["value"] == 2 and rows["cost.passes"]["teacher"]["value"] == 3
    assert rows["turns.false_starts"].keys() >= {"hears itself", "without loop"}
    assert rows["loop.text"]["agent"] == rows["answers.text"]["hears itself"]
    assert {"agent", "recordings", "ceiling", "separate"} <= rows["idle.motion"].keys()
    table = (tmp_path / "card" / "score.md").read_text().splitlines()
    table = [line for line in table if line.startswith("|")]
    scores = [[score["value"] for score in row.values() if isinstance(score, dict)] for row in rows.values()]
    measured = [row for row in scores if any(value is not None for value in row)]
    assert {line.count(" | ") for line in table} == {5} and len(table) == 2 + len(measured)
    assert rows["judges.mouth"]["recordings"]["value"] > 0.5 and "agent" not in rows["judges.mouth"]
    assert rows["dialogue.taken"]["recordings"]["value"] == 1 and "nobody listens" in card["absent"]["speech.wer"]
    page = (tmp_path / "card" / "score.html").read_text()
    assert page.count("data:image/png;base64,") >= 2 and "http" not in page
