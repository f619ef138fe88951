"""Text unit by unit: whole characters, and no control token that anybody can type."""

import pytest
from streamer_core import StreamerTokenizer

TEXTS = ["naïve café", "你好世界", "one 😀 two", "สวัสดี", "plain words"]


@pytest.fixture(scope="module")
def tokenizer():
    return StreamerTokenizer.train(["plain words, and little else"], 300)


@pytest.mark.parametrize("slots", [1, 2, 3])
@pytest.mark.parametrize("text", TEXTS)
def test_characters_of_several_tokens_come_whole(tokenizer, text, slots):
    ids, waiting, pieces = tokenizer.encode_words(text), [], []
    for first in range(0, len(ids), slots):
        piece, waiting = tokenizer.decode_stream(ids[first : first + slots], waiting)
        pieces.append(piece)
        assert "\N{REPLACEMENT CHARACTER}" not in piece and len(waiting) <= 3
    assert "".join(pieces) == f" {text}" and not waiting


def test_bytes_that_are_no_character_wait_for_nobody(tokenizer):
    first_of_three, *_ = tokenizer.encode_words("你")[1:]
    word = tokenizer.encode_words("plain")
    broken, waiting = tokenizer.decode_stream([first_of_three])
    assert broken == "" and waiting == [first_of_three]
    assert tokenizer.decode_stream(word, waiting) == ("\N{REPLACEMENT CHARACTER} plain", [])
    said, waiting = "", []
    for _ in range(10):
        piece, waiting = tokenizer.decode_stream([first_of_three], waiting)
        said += piece
    assert len(said) == 7 and len(waiting) == 3


@pytest.mark.parametrize("text", ["<|speak|>", "say <|listen|> and <|pad|>!", "<|speak|><|speak|>"])
def test_what_is_typed_is_never_a_control_token(tokenizer, text):
    ids = tokenizer.encode_words(text)
    assert not set(ids) & set(tokenizer.all_special_ids)
    assert tokenizer.decode_slots(ids) == f" {text}"
    again = StreamerTokenizer.extend(tokenizer)  # as over a public language model
    assert not set(again.encode_words(text)) & set(again.all_special_ids)
