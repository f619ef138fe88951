"""Which conversations a batch holds: all of an epoch once, the same for a step however a run came there."""

from collections import Counter

import pytest
import torch
from streamer_core import StreamerTokenizer
from streamer_pipeline.data.tasks import TASKS, Mixture, Task
from streamer_pipeline.data.windows import Conversations, pieces_of, units_of

NUM_UNITS, DELAY = 12, 1


@pytest.fixture(scope="module")
def tokenizer():
    return StreamerTokenizer.train(["hello there how are you", "write my words", "read my words"] * 4, vocab_size=300)


def conversation(number: int, num_units: int, tokenizer: StreamerTokenizer) -> dict[str, torch.Tensor]:
    """Its user's sound is its number in every unit, its latents count the units of the wall clock."""
    units = torch.arange(num_units)
    states = torch.tensor([tokenizer.state_ids["listen"], tokenizer.state_ids["speak"]])
    return {
        "user_audio": torch.full((num_units * 3840,), number, dtype=torch.int16),
        "user_frames": torch.zeros(num_units, 3, 4, 8, dtype=torch.uint8),
        "user_heard": torch.full((num_units, 2), tokenizer.pad_token_id),
        "state": states[(units % 5 == 3).long()],
        "text": torch.full((num_units, 2), tokenizer.pad_token_id),
        "audio_latents": units.repeat_interleave(2).expand(3, -1).float(),
        "video_latents": torch.zeros(2, num_units, 1, 1),
        "pictured": torch.full((num_units,), number % 2 == 0),
    }


def conversations(lengths, tokenizer, weights, tasks=TASKS, **options):
    source = [conversation(number, length, tokenizer) for number, length in enumerate(lengths)]
    shape = {"num_units": NUM_UNITS, "batch_size": 2, "response_delay": DELAY, "user_text_slots": 1}
    sources = dict.fromkeys(weights, source)
    return Conversations(
        sources, tokenizer, Mixture(weights), prompt="hello there", tasks=tasks, **{"vary": False, **shape, **options}
    )


def new_pieces(batches, step):
    """(conversation, first unit) of what counts in the rows of all processes."""
    pieces = [piece for row in batches.rows(step) for piece in row.pieces]
    return [(piece.index, piece.first) for piece in pieces if piece.counts_from < piece.end]


def test_no_piece_comes_twice_in_an_epoch_over_all_processes(tokenizer):
    """Two tasks share the epochs; each of two processes has half of the rows."""
    lengths = [13, 14, 40, 13, 13, 13, 13, 30, 13, 13]
    batches = conversations(lengths, tokenizer, {"duplex": 1.0, "speaking": 1.0}, num_processes=2)
    expected = {(piece.index, piece.first) for i, n in enumerate(lengths) for piece in pieces_of(i, n, 13, DELAY)}
    seen = [piece for step in range(12) for piece in new_pieces(batches, step)]
    for first in range(0, len(seen) - len(expected), len(expected)):
        epoch = seen[first : first + len(expected)]
        assert set(epoch) == expected and len(epoch) == len(expected)
    assert seen[: len(expected)] != seen[len(expected) : 2 * len(expected)]
    plain = conversations([13] * 40, tokenizer, {"mine": 1.0}, tasks={"mine": Task(renders=True)}, num_processes=2)
    heard = Counter()
    for step in range(10):
        for rank in range(2):
            heard.update((plain[step, rank].user_audio[:, 0, 0] * 32767).round().int().tolist())
    assert heard == Counter(range(40))


def test_every_unit_of_a_long_conversation_counts_once(tokenizer):
    for num_units in (1, 12, 13, 14, 25, 60, 187):
        for window in (13, 49):
            counted = Counter()
            for piece in pieces_of(0, num_units, window, DELAY):
                assert 0 <= piece.first <= piece.counts_from <= piece.end <= num_units
                assert piece.end - piece.first == min(window, num_units)
                counted.update(range(piece.counts_from + DELAY, piece.end))  # the agent is shifted by the delay
            assert counted == Counter(range(DELAY, num_units))


def test_units_before_a_later_piece_do_not_count(tokenizer):
    batches = conversations([60], tokenizer, {"duplex": 1.0})
    for step in range(8):
        batch = batches[step, 0]
        for row, valid, latents in zip(batches.rows(step), batch.valid, batch.audio_latents, strict=True):
            (piece,) = [piece for piece in row.pieces if piece.counts_from < piece.end][:1]
            if row.pieces[0] is piece:
                assert valid.tolist() == [piece.first + k >= piece.counts_from for k in range(NUM_UNITS)]
                assert latents[0, ::2].tolist() == [piece.first + DELAY + k for k in range(NUM_UNITS)]


def test_batches_follow_from_the_step_alone(tokenizer):
    def same(one, other):
        return all(a is b or torch.equal(a, b) for a, b in zip(one, other, strict=True))

    weights = {"duplex": 1.0, "words": 1.0, "hearing": 1.0, "speaking": 1.0}
    lengths = [13, 9, 30, 17, 5, 21, 13]
    first, second = (conversations(lengths, tokenizer, weights, vary=True) for _ in range(2))
    walked = [first[step, 0] for step in range(9)]
    assert same(second[8, 0], walked[8])
    assert same(second[3, 0], walked[3]) and same(first[0, 0], walked[0])
    assert not all(same(walked[step], conversations(lengths, tokenizer, weights, seed=1)[step, 0]) for step in range(9))


def test_a_unit_says_whether_its_picture_was_recorded(tokenizer):
    batches = conversations([13, 13], tokenizer, {"speaking": 1.0})
    for step in range(3):
        batch = batches[step, 0]
        for row, seen in zip(batches.rows(step), batch.video_valid, strict=True):
            assert seen.tolist() == [row.pieces[0].index % 2 == 0] * NUM_UNITS


def test_rows_of_a_batch_have_prompts_of_one_length(tokenizer):
    batches = conversations([13] * 4, tokenizer, {"words": 1.0, "hearing": 1.0})
    prompts = {tokenizer.decode_slots(row.tolist()).strip() for s in range(12) for row in batches[s, 0].prompt_ids}
    assert prompts == {"hello there", "write my words"}


def test_a_task_of_ones_own_composes_its_windows(tokenizer):
    def second_conversation(source, num_units, tokenizer):
        return units_of(source[1], 0, num_units)

    tasks = {"mine": Task("read my words", compose=second_conversation)}
    batch = conversations([30, 30], tokenizer, {"mine": 1.0}, tasks=tasks)[0, 0]
    assert (batch.user_audio * 32767).round().unique().tolist() == [1]
    assert batch.valid.all() and batch.audio_latents is None


def test_mixtures_are_read_or_refused():
    assert Mixture.parse("duplex=3 words=1").weights == {"duplex": 3.0, "words": 1.0}
    for text, reason in {
        "duplex=3 singing=1": "no task singing; there are duplex, words, hearing, speaking",
        "duplex": "written as 'duplex=3 words=1'",
        "duplex=-1": "0 or more",
        "duplex=0": "no task has a weight",
    }.items():
        with pytest.raises(ValueError, match=reason):
            Mixture.parse(text)


def test_a_task_without_conversations_is_refused(tokenizer):
    with pytest.raises(ValueError, match="no conversations for the task words"):
        conversations([], tokenizer, {"words": 1.0})
