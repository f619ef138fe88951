"""An agent's words decide its state and its text slots; who speaks in two splits is in neither."""

import pytest
from streamer_pipeline.data.importers.conversation import Conversation, Side
from streamer_pipeline.data.splits import assign_splits
from streamer_pipeline.data.words import Word, agent_language, fill_slots, spread_phrase, utterances

UNIT = 0.16


def test_words_lead_their_sound_but_not_their_utterance():
    words = [Word("one", 10 * UNIT, 11 * UNIT), Word("two", 11 * UNIT, 12.5 * UNIT), Word("six", 15 * UNIT, 16 * UNIT)]
    language = agent_language(words, num_units=20)
    assert {unit: said for unit, said in enumerate(language.words) if said} == {10: ["one", "two"], 13: ["six"]}
    assert [unit for unit, speaks in enumerate(language.speaking) if speaks] == list(range(10, 16))
    late = agent_language(words, num_units=20, lead_units=0)
    assert {unit: said for unit, said in enumerate(late.words) if said} == {10: ["one"], 11: ["two"], 15: ["six"]}


@pytest.mark.parametrize(("pause", "stays"), [(0.49, True), (0.5, True), (0.51, False)])
def test_a_short_pause_belongs_to_the_utterance(pause, stays):
    """Of half a second at most; a longer one is listened through, and the word after it does not come early."""
    words = [Word("one", 0.0, 0.8), Word("two", 0.8 + pause, 2.0)]
    language = agent_language(words, num_units=15)
    assert all(language.speaking[5:8]) == stays
    assert len(utterances(words)) == (1 if stays else 2)
    assert [unit for unit, said in enumerate(language.words) if "two" in said] == [6 if stays else 8]


def test_what_lies_beyond_the_end_is_left_out():
    language = agent_language([Word("in", 0.7, 1.2), Word("out", 1.3, 1.5)], num_units=6)
    assert [word for said in language.words for word in said] == ["in"]
    assert language.speaking == [False] * 4 + [True] * 2


def test_words_that_do_not_fit_wait():
    slots = fill_slots([["abc", "d"], [], ["e"]], lambda word: [ord(letter) for letter in word], num_slots=2, pad=0)
    assert slots == [[97, 98], [99, 100], [101, 0]]


def test_a_phrase_is_spread_by_letters():
    assert spread_phrase("a four", 1.0, 2.0) == [Word("a", 1.0, 1.2), Word("four", 1.2, 2.0)]
    assert spread_phrase("  ", 1.0, 2.0) == []


def conversations(pairs, splits=()):
    sides = [(Side((), speaker=user), Side((), speaker=agent)) for user, agent in pairs]
    stated = [*splits, *[None] * (len(pairs) - len(splits))]
    return [Conversation(f"c{i:03d}", *both, split=stated[i]) for i, both in enumerate(sides)]


def test_no_speaker_is_in_two_splits():
    pairs = [(f"u{i // 2}", f"a{i // 3}") for i in range(60)]  # chains of shared speakers, six conversations each
    found = assign_splits(conversations(pairs), {"val": 0.2, "test": 0.2})
    where: dict[str, set[str]] = {}
    for pair, split in zip(pairs, found, strict=True):
        for speaker in pair:
            where.setdefault(speaker, set()).add(split)
    assert all(len(splits) == 1 for splits in where.values())
    assert found.count("test") == found.count("val") == 12
    assert found == assign_splits(conversations(pairs), {"val": 0.2, "test": 0.2})


def test_one_agent_for_all_users():
    pairs = [(f"u{i // 2}", "the agent") for i in range(20)]
    shares = {"val": 0.1, "test": 0.2}
    assert set(assign_splits(conversations(pairs), shares)) == {"train"}
    found = assign_splits(conversations(pairs), shares, by="users")
    assert (found.count("test"), found.count("val")) == (4, 2)
    assert found[::2] == found[1::2]


def test_a_source_may_say_where_its_conversations_belong():
    pairs = [("ann", "bob"), ("bob", "cyd"), ("dan", None), (None, None)]
    found = assign_splits(conversations(pairs, ["train", "test", "val"]), {"val": 0.0, "test": 0.0})
    assert found == ["test", "test", "val", "train"]
