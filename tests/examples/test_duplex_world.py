"""The synthetic world: pure in its seed, honest in its splits, causal in its replies, true to its own labels."""

import json
from itertools import pairwise

import numpy as np
import pytest
from duplex_world import (
    AGENT,
    FRAMES_PER_UNIT,
    NEUTRAL,
    SAMPLES_PER_UNIT,
    SCENARIOS,
    SPLIT_SIZE,
    SPLITS,
    USER_VOICES,
    AgentVoice,
    PhonemeSpan,
    agent_jsgf,
    agent_phrases,
    build_dyad,
    espeak_viseme,
    face_box,
    mouth_box,
    mouth_track,
    render_frames,
    speak,
    split_of,
)
from duplex_world.clock import unit_at
from duplex_world.dyad import WORD_LEAD_UNITS
from duplex_world.face import MOTION_LIMITS
from duplex_world.grammar import OTHER_SPEECH
from duplex_world.scenarios import UNADDRESSED
from duplex_world.speech_judge import SpeechJudge, align_phonemes, reference_thresholds
from duplex_world.splits import HELD_OUT_PAIRS

SEEDS = (3, 4)


@pytest.fixture(scope="module")
def voice() -> AgentVoice:
    return AgentVoice()


@pytest.fixture(scope="module")
def judge() -> SpeechJudge:
    return SpeechJudge(agent_jsgf())


@pytest.fixture(scope="module")
def dyads(voice):
    return [
        build_dyad(seed, scenario, voice, response_delay)
        for seed, response_delay in zip(SEEDS, (1, 2), strict=True)
        for scenario in SCENARIOS | UNADDRESSED
    ]


def test_a_dyad_is_a_function_of_its_seed(voice):
    first = build_dyad(11, "backchannel", voice)
    build_dyad(12, "object", voice)
    speak.cache_clear()
    again = build_dyad(11, "backchannel", voice)
    assert np.array_equal(first.user_audio, again.user_audio)
    assert np.array_equal(first.agent_audio, again.agent_audio)
    for name in NEUTRAL:
        assert np.array_equal(first.user_motion[name], again.user_motion[name])
        assert np.array_equal(first.agent_motion[name], again.agent_motion[name])
    assert first.labels() == again.labels()
    assert not np.array_equal(first.user_audio[:1000], build_dyad(13, "backchannel", voice).user_audio[:1000])


def test_speech_that_is_not_for_the_agent_is_owed_no_answer(dyads, voice):
    unaddressed = [dyad for dyad in dyads if dyad.scenario in UNADDRESSED]
    assert len(unaddressed) == len(SEEDS) * len(UNADDRESSED)
    for dyad in unaddressed:
        assert dyad.user_segments and not dyad.agent_segments
        heard = [unit_at(edge) for segment in dyad.user_segments for edge in (segment.start, segment.end)]
        (quiet,) = dyad.expect
        assert quiet.kind == "silence" and quiet.first_unit <= min(heard) and max(heard) < quiet.end_unit
    overheard = [
        {segment.text for seed in range(30) for segment in build_dyad(first + seed, "overheard", voice).user_segments}
        for first in (0, 2 * SPLIT_SIZE)
    ]
    assert overheard[0] and overheard[1] and not overheard[0] & overheard[1]
    assert overheard[0] | overheard[1] <= set(OTHER_SPEECH)


def test_every_scenario_has_consistent_shapes_and_json_labels(dyads):
    for dyad in dyads:
        assert dyad.user_audio.shape == dyad.agent_audio.shape == (dyad.num_units * SAMPLES_PER_UNIT,)
        assert dyad.user_audio.dtype == dyad.agent_audio.dtype == np.float32
        assert dyad.agent_speaking.shape == (dyad.num_units,)
        for motion in (dyad.user_motion, dyad.agent_motion):
            assert motion.keys() == NEUTRAL.keys()
            assert {track.shape for track in motion.values()} == {(dyad.num_units * FRAMES_PER_UNIT,)}
        assert json.loads(json.dumps(dyad.labels(), allow_nan=False)) == dyad.labels()


def test_replies_obey_the_law(dyads):
    """A reply starts exactly at unit (end of the user's speech) + 1 + response_delay, and nothing starts earlier."""
    num_checked = 0
    for dyad in dyads:
        starts = [segment.first_unit for segment in dyad.agent_segments]
        for segment in dyad.user_segments:
            if segment.kind == "question":
                assert unit_at(segment.end) + 1 + dyad.response_delay in starts, dyad.scenario
                num_checked += 1
        for expectation in dyad.expect:
            if expectation.kind == "say":
                earliest = expectation.after_unit + 1 + dyad.response_delay
                assert min(start for start in starts if start >= expectation.first_unit) >= earliest
                num_checked += 1
    assert num_checked > 40


def test_agent_does_not_react_before_the_law_allows(voice):
    """A listener's brows rise with the first unit that may know of the user's speech, not a frame before."""
    for response_delay in (1, 2):
        dyad = build_dyad(5, "color", voice, response_delay)
        onset = FRAMES_PER_UNIT * (unit_at(dyad.user_segments[0].start) + 1 + response_delay)
        assert not dyad.agent_motion["brow"][:onset].any()
        assert dyad.agent_motion["brow"][onset] > 0


def test_interrupted_agent_stops_and_an_acknowledged_one_does_not(dyads):
    for dyad in dyads:
        if dyad.scenario == "interrupt":
            stop = next(expectation for expectation in dyad.expect if expectation.kind == "stop")
            count = dyad.agent_segments[0]
            assert stop.first_unit < count.end_unit <= stop.end_unit
            assert count.end_unit == stop.first_unit + 2 + dyad.response_delay
            gap = slice(count.end_unit * SAMPLES_PER_UNIT, dyad.agent_segments[1].first_unit * SAMPLES_PER_UNIT)
            assert gap.stop > gap.start and not dyad.agent_audio[gap].any()
        if dyad.scenario == "backchannel":
            onward = next(expectation for expectation in dyad.expect if expectation.kind == "continue")
            assert dyad.agent_speaking[onward.first_unit : onward.end_unit].all()


def test_agent_is_silent_where_silence_is_expected(dyads):
    for dyad in dyads:
        for expectation in dyad.expect:
            if expectation.kind == "silence":
                span = slice(expectation.first_unit * SAMPLES_PER_UNIT, expectation.end_unit * SAMPLES_PER_UNIT)
                assert span.stop > span.start and not dyad.agent_audio[span].any()


def test_words_are_the_text_and_come_as_early_as_they_may(dyads, voice):
    """Two units before they sound, but never before their utterance: what is unsaid by then is not known to anyone."""
    for dyad in dyads:
        for segment in dyad.agent_segments:
            units = range(segment.first_unit, segment.end_unit)
            written = [(unit, word) for unit in units for word in dyad.agent_words[unit]]
            sounds = [(segment.first_unit + unit_at(start), word) for start, word in voice(segment.text).word_starts()]
            early = [(max(segment.first_unit, unit - WORD_LEAD_UNITS), word) for unit, word in sounds]
            assert written and written == [(unit, word) for unit, word in early if unit < segment.end_unit]
            if segment.end_unit == segment.full_end_unit:
                assert [word for _, word in written] == segment.text.split()
        for unit, words in enumerate(dyad.agent_words):
            assert not words or dyad.agent_speaking[unit]


def test_mouth_is_closed_when_silent_and_moves_when_speaking(dyads):
    for dyad in dyads:
        opening = dyad.agent_motion["mouth_open"]
        speaking = np.repeat(dyad.agent_speaking, FRAMES_PER_UNIT)
        assert not opening[~speaking].any()
        for segment in dyad.agent_segments:
            assert opening[segment.first_unit * FRAMES_PER_UNIT : segment.end_unit * FRAMES_PER_UNIT].max() > 0.25


def test_splits_share_no_voices_faces_or_held_out_pairs(voice):
    assert len({name for names in USER_VOICES.values() for name in names}) == sum(map(len, USER_VOICES.values()))
    seen = {split: set() for split in SPLITS}
    for number, split in enumerate(SPLITS):
        for seed in range(number * SPLIT_SIZE, number * SPLIT_SIZE + 40):
            dyad = build_dyad(seed, "silentshow", voice)
            assert dyad.split == split == split_of(seed)
            assert dyad.user_voice in USER_VOICES[split]
            seen[split] |= {dyad.user_voice, dyad.user_identity}
            pair = (dyad.visual_events[0].color, dyad.visual_events[0].object)
            assert dyad.is_held_out_combination == (pair in HELD_OUT_PAIRS)
            assert split != "train" or not dyad.is_held_out_combination
    assert not (seen["train"] & seen["val"] or seen["train"] & seen["test"] or seen["val"] & seen["test"])
    with pytest.raises(ValueError, match="outside"):
        split_of(3 * SPLIT_SIZE)


def test_judge_understands_the_reference_and_rejects_its_reverse(voice, judge):
    phrases = ["it is a red apple", "hello nice to meet you", "hi there", "the answer is seven"]
    thresholds = reference_thresholds(judge, phrases, lambda phrase: voice(phrase).wave)
    for phrase in phrases:
        verdict = judge(voice(phrase).wave)
        assert verdict.text == phrase and verdict.margin > thresholds[phrase]
        backwards = judge(voice(phrase).wave[::-1])
        assert backwards.text != phrase or backwards.margin < thresholds[phrase]


def test_judge_hears_the_answer_inside_a_dyad(dyads, judge):
    dyad = next(dyad for dyad in dyads if dyad.scenario == "object")
    segment = dyad.agent_segments[0]
    span = slice(segment.first_unit * SAMPLES_PER_UNIT, segment.end_unit * SAMPLES_PER_UNIT)
    assert judge(dyad.agent_audio[span]).text == segment.text


def test_alignment_is_ordered_and_refuses_unknown_words(voice):
    wave = voice("your name is david").wave
    spans = align_phonemes(wave, "your name is david")
    assert all(before.end <= after.start + 1e-9 for before, after in pairwise(spans))
    assert [word for _, word in voice("your name is david").word_starts()] == ["your", "name", "is", "david"]
    with pytest.raises(ValueError, match="qwrtzk"):
        align_phonemes(wave, "your name is qwrtzk")


def test_voice_comes_back_from_its_cache_unchanged(voice, tmp_path):
    made = AgentVoice(["hi there"], folder=tmp_path)
    read = AgentVoice(["hi there"], folder=tmp_path)
    assert made.fingerprint() == read.fingerprint()
    assert made("hi there").phonemes == read("hi there").phonemes
    assert [path.suffix for path in tmp_path.iterdir()] == [".safetensors"]
    assert sorted(voice.phrases) == sorted(agent_phrases()) and len(set(agent_phrases())) == 101
    with pytest.raises(ValueError, match="no rendition"):
        made("something else")


def test_espeak_phonemes_cover_the_wave_and_name_wrong_voices():
    wave, spans = speak("what am i holding", "en-us+f3", 160, 50)
    assert spans[-1].end == pytest.approx(len(wave) / 24_000, abs=1e-3)
    assert all(before.end == after.start for before, after in pairwise(spans))
    with pytest.raises(ValueError, match="no voice"):
        speak("hello", "xx-nobody")


def test_visemes_open_on_vowels_and_close_on_lips():
    spans = [PhonemeSpan(0.0, 0.2, "M"), PhonemeSpan(0.2, 0.5, "AA"), PhonemeSpan(0.5, 0.7, "P")]
    opening = mouth_track(spans, 18)["mouth_open"]
    assert opening[:3].max() == 0 and opening[6:11].min() > 0.8 and opening[14:].max() == 0
    assert [espeak_viseme(symbol) for symbol in ("'A:", "m", "tS", "_:", "u:")] == ["a", "closed", "sh", "rest", "u"]


def test_boxes_hold_every_picture_of_the_mouth_and_face(dyads):
    """Between a silent and a speaking agent nothing changes outside the mouth's box."""
    for size in ((192, 336), (64, 112)):
        mouth, face = mouth_box(size), face_box(size)
        assert face[0] <= mouth[0] and face[1] <= mouth[1] and face[2] >= mouth[2] and face[3] >= mouth[3]
        for dyad in dyads[:3]:
            for name, (low, high) in MOTION_LIMITS.items():
                assert low <= dyad.agent_motion[name].min() and dyad.agent_motion[name].max() <= high, name
            closed = {name: dyad.agent_motion[name] for name in NEUTRAL if not name.startswith("mouth")}
            changed = render_frames(dyad.agent_motion, AGENT, size) != render_frames(closed, AGENT, size)
            assert changed.any()
            changed[:, mouth[0] : mouth[2], mouth[1] : mouth[3]] = False
            assert not changed.any()


def test_hands_and_objects_are_wholly_inside_the_picture(dyads):
    """Whatever a raised hand adds, it adds nothing to the picture's outermost columns nor to its top rows."""
    num_frames = 0
    for dyad in dyads:
        shown = np.flatnonzero(dyad.user_motion["hand"] == 1)[::5]
        if len(shown) == 0:
            continue
        lowered = dyad.user_motion | {"hand": np.zeros_like(dyad.user_motion["hand"])}
        with_hand = render_frames(dyad.user_motion, dyad.user_identity, frames=shown)
        added = (with_hand != render_frames(lowered, dyad.user_identity, frames=shown)).any(-1)
        assert added.any((1, 2)).all()
        assert not added[:, :, :4].any() and not added[:, :, -4:].any() and not added[:, :4].any()
        num_frames += len(shown)
    assert num_frames > 50


def test_frames_can_be_drawn_in_pieces_and_small(dyads):
    motion, identity = dyads[3].user_motion, dyads[3].user_identity
    whole = render_frames(motion, identity)
    assert whole.shape == (dyads[3].num_units * FRAMES_PER_UNIT, 192, 336, 3) and whole.dtype == np.uint8
    assert np.array_equal(whole[8:16], render_frames(motion, identity, frames=slice(8, 16)))
    assert np.array_equal(whole[[3, 40]], render_frames(motion, identity, frames=np.array([3, 40])))
    assert render_frames(motion, identity, (64, 112), slice(0, 2)).shape == (2, 64, 112, 3)
    with pytest.raises(ValueError, match="unknown parameters"):
        render_frames({"nose": np.zeros(3)}, identity)


def test_wrong_arguments_are_explained(voice):
    with pytest.raises(ValueError, match="no scenario"):
        build_dyad(0, "dance", voice)
    with pytest.raises(ValueError, match="response_delay"):
        build_dyad(0, "greet", voice, response_delay=3)
