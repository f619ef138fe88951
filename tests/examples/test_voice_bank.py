"""A bank of voices: honest in its splits, balanced however long it is, resumable, and true to what was said."""

import itertools
import re
import shutil
from collections import Counter

import numpy as np
import pytest
from duplex_world import build_dyad, speak
from duplex_world.clock import SAMPLE_RATE
from duplex_world.grammar import NAMES, NATURAL_PHRASINGS, NUMBERS, USER_PHRASINGS
from duplex_world.kokoro import NATURAL_VOICES, speakers
from duplex_world.splits import SPLITS, is_held_out_phrasing
from duplex_world.voice_bank import Clip, VoiceBank, make_bank, planned, read_index, timed, trimmed
from scipy.signal import correlate

HELD_OUT = {"af_heart", "am_puck", "bf_lily", "bm_george", "ef_dora", "jm_kumo"}
UNINTELLIGIBLE = {"bf_alice", "jf_alpha", "zf_xiaobei", "zf_xiaoni", "zf_xiaoxiao", "zf_xiaoyi", "zm_yunxia"}
NUM_CLIPS = 32


def say(clip: Clip) -> np.ndarray:
    """Another speaker than Kokoro, which need not be installed."""
    return speak(clip.text, "en-us", int(160 * clip.speed), 50)[0]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bank")
    assert make_bank(folder, NUM_CLIPS, say) == NUM_CLIPS
    return folder


def first(num_clips: int) -> list[Clip]:
    return list(itertools.islice(planned(), num_clips))


def template(clip: Clip) -> str:
    """The phrasing that a clip fills."""
    text = clip.text
    for slot in clip.slots:
        text = re.sub(rf"\b{slot}\b", "%s", text, count=1)
    return text


def test_no_voice_of_one_split_is_heard_in_another():
    throats = {split: {voice for speaker in speakers(split) for voice in speaker.split("+")} for split in SPLITS}
    for one, other in itertools.combinations(SPLITS, 2):
        assert throats[one].isdisjoint(throats[other])
    assert throats["test"] == HELD_OUT
    assert UNINTELLIGIBLE.isdisjoint(set().union(*throats.values()))
    assert len(NATURAL_VOICES["train"]) + len(NATURAL_VOICES["val"]) + len(HELD_OUT) >= 40
    mixtures = [speaker for speaker in speakers("train") if "+" in speaker]
    assert len(set(mixtures)) == 200


def test_clips_are_spoken_by_voices_of_their_split():
    clips = first(3000)
    for split in SPLITS:
        assert {clip.voice for clip in clips if clip.split == split} == set(speakers(split))


def test_phrasings_and_sentences_kept_from_training_are_in_no_clip_of_it():
    clips = first(6000)
    train = [clip for clip in clips if clip.split == "train"]
    unseen = [clip for clip in clips if clip.split == "test"]
    assert not any(is_held_out_phrasing(template(clip)) for clip in train if clip.request in NATURAL_PHRASINGS)
    assert any(is_held_out_phrasing(template(clip)) for clip in unseen if clip.request in NATURAL_PHRASINGS)
    for_nobody = [{clip.text for clip in part if clip.request == "other"} for part in (train, unseen)]
    assert all(for_nobody)
    assert for_nobody[0].isdisjoint(for_nobody[1])


def test_there_are_ten_ways_to_put_every_request_and_the_old_ones_are_among_them():
    assert NATURAL_PHRASINGS.keys() == USER_PHRASINGS.keys()
    for request, phrasings in NATURAL_PHRASINGS.items():
        assert len(set(phrasings)) >= 10, request
        assert set(USER_PHRASINGS[request]) <= set(phrasings)


@pytest.mark.parametrize("num_clips", [400, 1100, 3000])
def test_every_prefix_is_balanced(num_clips):
    clips = first(num_clips)
    train = [clip for clip in clips if clip.split == "train"]
    assert len(train) / num_clips == pytest.approx(14 / 16, abs=0.01)
    for name, of in (("request", lambda clip: clip.request), ("voice", lambda clip: clip.voice)):
        counts = Counter(map(of, train))
        options = [*NATURAL_PHRASINGS, "other", "paused0", "paused1"] if name == "request" else speakers("train")
        often = [counts[option] for option in options]
        assert max(often) - min(often) <= (1 if name == "voice" else 3 * num_clips / 24 + 3), name
        assert name == "voice" or min(often) >= num_clips / 40
    names = Counter(clip.slots for clip in train if clip.request == "myname")
    assert len(names) == len(NAMES)
    assert max(names.values()) - min(names.values()) <= 1


def test_an_interrupted_bank_continues_as_if_nothing_had_happened(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "bank")
    index, sound = (tmp_path / "bank" / name for name in ("index.jsonl", "clips.opus"))
    lines = index.read_text().splitlines(keepends=True)
    index.write_text("".join(lines[: NUM_CLIPS - 3]) + lines[NUM_CLIPS - 3][:40])  # killed while it wrote a line
    sound.write_bytes(sound.read_bytes()[: read_index(folder)[NUM_CLIPS - 3].offset] + b"half a clip")
    make_bank(tmp_path / "bank", NUM_CLIPS, say)
    assert read_index(tmp_path / "bank") == read_index(folder)
    waves = [VoiceBank(bank, "train").wave(VoiceBank(bank, "train").clips[-1]) for bank in (folder, tmp_path / "bank")]
    np.testing.assert_array_equal(*waves)


def test_a_bank_of_another_plan_is_refused_and_left_as_it_is(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "bank")
    index = tmp_path / "bank" / "index.jsonl"
    index.write_text(index.read_text().replace('"speed": ', '"speed": 1', 1))
    before = index.read_text()
    with pytest.raises(ValueError, match=r"clip 0 is .* the plan says"):
        make_bank(tmp_path / "bank", NUM_CLIPS, say)
    assert index.read_text() == before


def test_a_split_without_clips_is_refused(tmp_path):
    with pytest.raises(ValueError, match="holds no clip of split 'val'; make more"):
        VoiceBank(tmp_path, "val")


def test_a_clip_sounds_as_it_was_stored(folder):
    bank = VoiceBank(folder, "train")
    for clip in bank.clips[:6]:
        original, stored = trimmed(say(clip)), bank.wave(clip)
        assert len(stored) == len(original) == round(clip.seconds * SAMPLE_RATE)
        delay = int(np.argmax(correlate(stored, original))) - (len(original) - 1)
        assert abs(delay) <= SAMPLE_RATE // 1000
        assert np.corrcoef(stored, np.roll(original, delay))[0, 1] > 0.9


def words_of(clip: Clip) -> list[str]:
    runs = itertools.groupby(span.word for span in clip.phonemes if span.word)
    return [word for word, _ in runs]


def test_word_times_cover_the_words_in_order(folder):
    for clip in read_index(folder):
        assert words_of(clip) == [word for word, _ in itertools.groupby(clip.text.split())]
        edges = [edge for span in clip.phonemes for edge in (span.start, span.end)]
        assert edges == sorted(edges)
        spoken = [span for span in clip.phonemes if span.word]
        assert spoken[0].start > -0.1
        assert spoken[-1].end < clip.seconds + 0.1


def test_words_that_no_dictionary_has_are_timed_by_their_length():
    spans = timed(np.zeros(SAMPLE_RATE, np.float32), "qzxv is qzxvqzxv")
    assert [span.word for span in spans] == ["qzxv", "is", "qzxvqzxv"]
    assert [span.end for span in spans] == pytest.approx([4 / 14, 6 / 14, 1.0])


def test_a_user_of_the_bank_says_what_was_asked_for(folder):
    bank = VoiceBank(folder, "train")
    clip = next(clip for clip in bank.clips if clip.request == "plus")
    assert set(clip.slots) <= set(NUMBERS)
    assert clip in bank.of("plus", clip.slots)
    assert bank.of("plus", ("ten", "ten")) == []
    dyad = build_dyad(5, "name", bank=bank)
    assert dyad.is_natural
    assert dyad.user_segments[0].text in {clip.text for clip in bank.of("name")}
    assert dyad.user_voice in {clip.voice for clip in bank.of("name")}
    assert [word.text for word in dyad.user_words] == dyad.user_segments[0].text.split()
    assert dyad.expect[0].text == "my name is ada"
    assert not build_dyad(5, "name").is_natural
