"""Rows that need two tracks and words only: agents with one known fault each, and other people's recordings."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from recordings import voice, write_json, write_sound
from streamer_core import FlowMatchScheduler
from streamer_pipeline.cli import app
from streamer_pipeline.evaluation.closed_loop import SeparateSolver
from streamer_pipeline.evaluation.dialogue import dialogue_scores
from streamer_pipeline.evaluation.recognisers import find_recogniser
from streamer_pipeline.evaluation.recorded_conversation import RecordedConversation, silent
from streamer_pipeline.evaluation.speech import level_scores, plain_words, word_error_rate
from streamer_pipeline.evaluation.statistics import lagged_correlations, ratio, reaction_p_value
from tiny_parts import tiny_pipeline
from typer.testing import CliRunner

RATE, UNIT = 24_000, 3840
SECONDS = 16.0
USER = [
    *(("what", 1.0, 1.4), ("is", 1.5, 1.8)),  # a pause of a second
    *(("this", 2.8, 3.2), ("thing", 3.3, 3.7)),  # the recorded agent answers at 4.1
    ("yes", 5.0, 5.4),  # a back-channel: the recorded agent speaks on
    *(("stop", 9.0, 9.4), ("now", 9.5, 9.9), ("please", 10.0, 10.4)),  # it is interrupted, and stops at 9.6
]
AGENT = [("a", 4.1, 4.6), ("ripe", 4.7, 5.5), ("red", 5.6, 6.0), ("one", 8.0, 8.7), ("two", 8.8, 9.6)]


def conversation(*sounds: tuple[float, float], user=USER, agent=AGENT) -> RecordedConversation:
    """An agent that is heard at these times, beside the same user and the same recorded agent."""
    wave = voice(SECONDS, [("", *sound) for sound in sounds], rate=RATE)
    labels = {"user": {"transcript": user}, "agent": {"transcript": agent}}
    return RecordedConversation("one", labels, wave, [""] * round(SECONDS * RATE / UNIT))


AS_RECORDED = (4.1, 6.0), (8.0, 9.6)


def values(*conversations: RecordedConversation) -> dict[str, float | None]:
    return {key.partition(".")[2]: score.value for key, score in dialogue_scores([*conversations]).items()}


def test_the_recorded_agent_takes_its_turns_and_waits_in_pauses():
    found = values(conversation(*AS_RECORDED))
    assert found["taken"] == 1 and found["pause_taken"] == 0 and found["stops"] == 1 and found["speaks_on"] == 1
    assert found["latency_median"] == pytest.approx(400, abs=25) and found["stop_latency"] == pytest.approx(600, abs=25)
    assert found["overlap"] == pytest.approx((0.4 + 0.6) / SECONDS, abs=0.004) and found["backchannels"] == 0


def test_a_silent_agent_takes_nothing_and_disturbs_nobody():
    found = values(silent(conversation(*AS_RECORDED)))
    assert found["taken"] == 0 and found["pause_taken"] == 0 and found["overlap"] == 0
    assert found["latency_median"] is found["stops"] is found["speaks_on"] is None


@pytest.mark.parametrize("late", [0.32, 0.64])
def test_lateness_adds_to_latency(late):
    punctual, tardy = values(conversation(*AS_RECORDED)), values(conversation((4.1 + late, 6.0), (8.0, 9.6)))
    assert tardy["latency_median"] == pytest.approx(punctual["latency_median"] + 1000 * late, abs=25)


def test_each_fault_shows_in_its_own_row():
    sound = values(conversation(*AS_RECORDED))
    faults = {
        "pause_taken": [(2.0, 2.4), *AS_RECORDED],
        "taken": [(8.0, 9.6)],
        "stops": [AS_RECORDED[0], (8.0, 12.0)],
        "speaks_on": [(4.1, 5.2), AS_RECORDED[1]],
        "backchannels": [*AS_RECORDED, (10.0, 10.3)],
    }
    for row, sounds in faults.items():
        found = values(conversation(*sounds))
        changed = {name for name in ("pause_taken", "taken", "stops", "speaks_on") if found[name] != sound[name]}
        assert found[row] != sound[row], row
        assert changed <= {row} | ({"speaks_on"} if row == "taken" else set()), row


def test_an_answer_may_overlap_the_last_word_but_not_the_question():
    assert values(conversation((3.2, 6.0), (8.0, 9.6)))["latency_median"] == pytest.approx(-500, abs=25)
    assert values(conversation((2.9, 6.0), (8.0, 9.6)))["taken"] == 1
    assert values(conversation((2.5, 6.0), (8.0, 9.6)))["taken"] == 0  # it talked over all of it


def test_without_the_recorded_agents_words_back_channels_are_told_by_length():
    alone = conversation(*AS_RECORDED, agent=None)
    found = values(alone)
    assert found["taken"] is None and found["stops"] == 1 and found["speaks_on"] == 1
    assert all(value is None for value in values(conversation(*AS_RECORDED, user=None)).values())


def test_a_user_who_says_nothing_is_a_user():
    found = values(conversation(*AS_RECORDED), conversation(*AS_RECORDED, user=[]))
    assert found["taken"] == 1 and found["overlap"] == pytest.approx(0.5 / SECONDS, abs=0.004)


def test_words_are_counted_as_errors_over_all_conversations():
    one = replace(conversation((1, 2)), texts=[" Hello,", " there you"])
    other = replace(conversation((1, 2)), texts=[" one"])
    heard = iter(["Hello hear you.", "1"])
    score = word_error_rate([one, other], lambda samples, rate: next(heard))
    assert score.value == pytest.approx(1 / 4) and score.n == 4 and score.low <= 1 / 4 <= score.high
    assert plain_words("It's 2, I'll say: one-two three!") == plain_words("it is two i will say 1 2 3")
    mute = replace(silent(one), texts=one.texts)

    def not_asked(samples, rate):
        pytest.fail("nothing sounds")

    assert word_error_rate([silent(one)], not_asked).value is None
    assert word_error_rate([mute], not_asked).value == 1


def test_pocketsphinx_writes_down_words_with_times():
    agent_voice = pytest.importorskip("duplex_world").AgentVoice()
    said = agent_voice("hello nice to meet you").wave
    recogniser = find_recogniser("pocketsphinx")
    words = recogniser.words(np.pad(said, (RATE, RATE)), RATE)
    assert {"nice", "meet", "you"} <= {word.text for word in words}
    assert 0.9 < words[0].start < words[-1].end < 1.1 + len(said) / RATE
    assert recogniser(np.pad(said, (RATE, RATE)), RATE) == " ".join(word.text for word in words)


def test_loudness_is_that_of_what_sounds():
    loud, quiet = (replace(c, wave=c.wave * gain) for gain in (1, 0.5) for c in [conversation(*AS_RECORDED)])
    levels = [level_scores([c])["speech.level"].value for c in (loud, quiet)]
    assert levels[0] - levels[1] == pytest.approx(6.02, abs=0.1)


def test_a_ratio_weighs_by_the_whole():
    score = ratio([1, 0], [1, 9])
    assert score.value == 0.1 and score.n == 10 and 0 <= score.low <= 0.1 <= score.high
    assert ratio([0], [0]).value is None


def test_reactions_are_told_from_chance():
    rng = np.random.default_rng(0)
    events = [np.repeat(rng.random(20) < 0.3, 10).astype(float) for _ in range(10)]
    follows = [np.concatenate([np.zeros(8), e[:-8]]) + rng.standard_normal(200) for e in events]
    unrelated = [rng.standard_normal(200) for _ in events]
    assert reaction_p_value(events, follows, range(26)).value < 0.01
    assert reaction_p_value(events, unrelated, range(26)).value > 0.01
    assert lagged_correlations(events[0], follows[0], range(26)).argmax() in range(6, 11)


def test_separate_denoising_hides_one_modality_from_the_other():
    noise = {"audio": torch.randn(2, 1, 6), "video": torch.randn(2, 3, 5)}
    solver = FlowMatchScheduler()

    def unaware(latents, sigma):
        return {name: latents[name] * (1 + sigma.view(-1, 1, 1)) for name in latents}

    def spied(latents, sigma):
        untouched = [name for name in noise if torch.equal(latents[name], noise[name])]
        assert untouched, "one of the two is still noise in every pass"
        return unaware(latents, sigma)

    joint, apart = solver.solve(unaware, noise, 4), SeparateSolver(solver).solve(spied, noise, 4)
    for name in noise:
        assert torch.equal(joint[name], apart[name])


@pytest.fixture(scope="module")
def dyads(tmp_path_factory):
    """Two recordings without a picture, of which only one has words of the user, prepared."""
    folder = tmp_path_factory.mktemp("recordings")
    user, agent = ([(word, s / 2, e / 2) for word, s, e in words] for words in (USER, AGENT))
    for name in ("a", "b"):
        for seed, (role, words) in enumerate((("user", user), ("agent", agent))):
            write_sound(folder / "in" / f"{name}.{role}.wav", voice(SECONDS / 2, words, seed, RATE), rate=RATE)
            if (name, role) != ("b", "user"):
                record = [dict(zip(("word", "start", "end"), word, strict=True)) for word in words]
                write_json(folder / "in" / f"{name}.{role}.json", {"words": record})
    prepared = invoke("prepare", folder / "in", "--out", folder / "out", "--val-share", 0, "--test-share", 0)
    assert prepared.exit_code == 0, prepared.output
    return folder / "out"


def invoke(*arguments: object):
    return CliRunner().invoke(app, [*map(str, arguments)])


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    tiny_pipeline().save_pretrained(folder)
    return folder


def test_other_peoples_recordings_are_scored_and_what_is_missing_is_said(tmp_path, dyads, checkpoint, monkeypatch):
    (tmp_path / "mine.py").write_text("def recognise(samples, rate): return 'hello'\n")
    monkeypatch.syspath_prepend(tmp_path)
    arguments = ["--dataset", dyads, "--split", "train", "--minutes", 0, "--recogniser", "mine:recognise"]
    result = invoke("eval", checkpoint, *arguments, "--out", tmp_path / "card")
    assert result.exit_code == 0, result.output
    card = json.loads((tmp_path / "card" / "score.json").read_text())
    rows = card["rows"]
    taken = rows["dialogue.taken"]["recordings"]
    assert (taken["value"], taken["high"], taken["n"]) == (1, 1, 1) and taken["low"] == pytest.approx(0.2065, abs=1e-3)
    assert rows["dialogue.taken"]["silent"]["value"] == 0 and rows["dialogue.taken"]["agent"]["n"] == 1
    assert rows["speech.wer"]["recordings"]["n"] == 2 * len(AGENT)
    hearing = rows["hearing.wer"]  # of the one user whose words are known: the recogniser's, and the agent's own
    assert hearing.keys() >= {"recordings", "agent"} and hearing["agent"]["n"] == len(USER)
    words = plain_words(" ".join(word for word, *_ in USER)).split()
    assert hearing["recordings"]["value"] == pytest.approx(1 - ("hello" in words) / len(words))
    assert rows["dialogue.taken"].keys() >= {"muted", "shuffled user", "hears itself", "separate"}
    assert card["absent"].keys() >= {"lips.in_step", "idle.motion", "endurance.level", "media.psnr"}
    assert "the recorded agent was not filmed" in card["absent"]["idle.motion"]
    assert "not measured, for the recorded agent was not filmed" in result.output
    assert not any(key.startswith(("answers", "sight")) for key in rows)


def test_what_broke_off_goes_on_and_processes_share_the_work(tmp_path, dyads, checkpoint):
    """Whoever holds a conversation, and when: the card is the same; what is there is not held again."""
    arguments = ["eval", checkpoint, "--dataset", dyads, "--split", "train", "--minutes", 0, "--batch-size", 1]

    def rows(folder, *options):
        result = invoke(*arguments, "--out", folder, *options)
        assert result.exit_code == 0, result.output
        return json.loads((folder / "score.json").read_text())["rows"]

    alone = rows(tmp_path / "alone")
    held = {path: path.stat().st_mtime_ns for path in (tmp_path / "alone" / "conversations").glob("*/*.safetensors")}
    lost = next(path for path in held if path.parent.name == "agent")
    lost.unlink()
    assert rows(tmp_path / "alone").keys() == alone.keys() and lost.stat().st_mtime_ns != held[lost]
    assert all(path.stat().st_mtime_ns == at for path, at in held.items() if path != lost)
    shared = rows(tmp_path / "shared", "--workers", 2)
    assert shared == alone
    refused = invoke(*arguments, "--out", tmp_path / "alone", "--seed", 1)
    assert refused.exit_code == 1 and "holds conversations of seed 0, not 1" in " ".join(refused.output.split())
    refused = invoke(*arguments, "--workers", 2)
    assert refused.exit_code == 1 and "give --out" in refused.output


def test_what_rows_and_recognisers_cannot_be_is_said_in_one_line(tmp_path, dyads, checkpoint):
    for option, value, message in (
        ("--rows", "nothing", "names no module:attribute"),
        ("--rows", "json:nothing", "names no module:attribute"),
        ("--rows", "duplex_world.scoring:WorldRows", "is not for this data set"),
        ("--rows", "builtins:dict", "makes no set of rows"),
        ("--recogniser", "whisper", "whisper needs a model"),
        ("--recogniser", "nobody", "no recogniser 'nobody'"),
        ("--face", "json:nobody", "names no module:attribute"),
    ):
        result = invoke("eval", checkpoint, "--dataset", dyads, "--split", "train", option, value)
        assert result.exit_code == 1 and message in result.output and "Traceback" not in result.output, result.output


def test_a_missing_data_set_is_said_in_one_line(tmp_path):
    result = CliRunner().invoke(app, ["eval", "--dataset", str(tmp_path)])
    assert result.exit_code == 1 and "dataset_info.json" in result.output and "Traceback" not in result.output
