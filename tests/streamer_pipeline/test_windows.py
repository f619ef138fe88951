"""Which conversations a batch holds: all of an epoch once, the same for a step however a run came there."""

from collections import Counter

import pytest
import torch
from streamer_core import StreamerTokenizer
from streamer_pipeline.data.tasks import TASKS, Mixture, Task
from streamer_pipeline.data.windows import Conversations, units_of

NUM_UNITS, DELAY = 12, 1


@pytest.fixture(scope="module")
def tokenizer():
    return StreamerTokenizer.train(["hello there how are you", "write my words", "read my words"] * 4, vocab_size=300)


def conversation(number: int, num_units: int, tokenizer: StreamerTokenizer) -> dict[str, torch.Tensor]:
    """Its user's sound is its number in every unit, its latents that number and the unit of the wall clock."""
    units = torch.arange(num_units)
    states = torch.tensor([tokenizer.state_ids["listen"], tokenizer.state_ids["speak"]])
    return {
        "user_audio": torch.full((num_units * 3840,), number, dtype=torch.int16),
        "user_frames": torch.zeros(num_units, 3, 4, 8, dtype=torch.uint8),
        "user_heard": torch.full((num_units, 2), tokenizer.pad_token_id),
        "state": states[(units % 5 == 3).long()],
        "text": torch.full((num_units, 2), tokenizer.pad_token_id),
        "audio_latents": torch.stack([torch.full_like(units, number), units]).repeat_interleave(2, dim=1).float(),
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


def counted_units(batches, num_steps):
    """(conversation, unit of the agent's) of all that counts in the rows of all processes, in order."""
    for step in range(num_steps):
        for rank in range(batches.num_processes):
            batch = batches[step, rank]
            latents = batch.audio_latents[:, :, ::2].transpose(1, 2)
            yield from map(tuple, latents[batch.valid].int().tolist())


@pytest.mark.parametrize("lengths", [[14] * 12, [13] * 40, [13, 14, 40, 1, 2, 13, 5, 30, 25, 60, 187, 13]])
def test_every_unit_counts_once_in_an_epoch_over_all_processes(tokenizer, lengths):
    """Two tasks share the epochs; each of two processes has half of the rows. What answers nothing may count or not."""
    batches = conversations(lengths, tokenizer, {"duplex": 1.0, "speaking": 1.0}, num_processes=2)
    expected = {(number, unit) for number, length in enumerate(lengths) for unit in range(DELAY, length)}
    num_steps = len(expected) // 6  # of 4 rows with 12 units, of which half and more count
    seen = [found for found in counted_units(batches, num_steps) if found[1] >= DELAY]
    epochs = [seen[first : first + len(expected)] for first in range(0, len(seen), len(expected))]
    assert len(epochs) > 2
    for epoch in epochs[:-1]:
        assert Counter(epoch) == Counter(expected)
    assert epochs[0] != epochs[1]


@pytest.mark.parametrize("length", [24, 49, 50, 97, 187])
def test_a_conversation_that_does_not_fit_does_not_cost_two_windows(tokenizer, length):
    """Over an epoch, of ten units in windows seven count: the others are looked back at, or left where nothing fits."""
    batches = conversations([length] * 20, tokenizer, {"speaking": 1.0}, num_units=48)
    counted = num_steps = 0
    while counted < 20 * length:
        counted += int(batches[num_steps, 0].valid.sum())
        num_steps += 1
    assert counted > 0.7 * 2 * 48 * num_steps


def test_what_fits_into_a_window_is_never_cut(tokenizer):
    lengths = [5, 13, 9, 8, 40, 12]
    batches = conversations(lengths, tokenizer, {"duplex": 1.0})
    for step in range(20):
        for piece in (piece for row in batches.rows(step) for piece in row.pieces if piece.counts_from < piece.end):
            assert lengths[piece.index] > 13 or (piece.first, piece.end) == (0, lengths[piece.index])


def test_what_is_looked_back_at_does_not_count(tokenizer):
    """It is half of a window, and at most 12 units, before the first unit that counts."""
    batches = conversations([60], tokenizer, {"duplex": 1.0})
    num_rests = 0
    for step in range(12):
        batch = batches[step, 0]
        for row, valid, latents in zip(batches.rows(step), batch.valid, batch.audio_latents, strict=True):
            piece = row.pieces[0]
            if piece.first:
                units = torch.arange(piece.first, piece.end)[DELAY:]
                assert piece.counts_from == piece.first + NUM_UNITS // 2 + DELAY
                assert latents[1, ::2].tolist()[: len(units)] == units.tolist()
                assert valid.tolist()[: len(units)] == (units >= piece.counts_from).tolist()
                num_rests += 1
    assert num_rests > 5


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
