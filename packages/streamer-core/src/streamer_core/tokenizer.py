"""Words to ids and back, with the control tokens of a duplex stream."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Any

from causal_vae import CheckedFiles
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

PAD = "<|pad|>"
STATES = ("<|listen|>", "<|speak|>")
_NO_CHARACTER = "\N{REPLACEMENT CHARACTER}"  # what bytes decode to that are no character
_MAX_BYTES = 4  # of one character


class StreamerTokenizer(CheckedFiles, PreTrainedTokenizerFast):
    """A fast tokenizer whose pad token means "nothing said here" and whose state tokens fill the state slot.

    Any fast tokenizer works below it; `train` makes a small byte-level BPE in which each frequent word, with its
    leading space, is one token, so that a unit's few text slots keep up with speech.
    """

    checked_files = ("tokenizer.json", "tokenizer_config.json")

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int = 1024) -> StreamerTokenizer:
        """A byte-level BPE of `vocab_size` tokens at most from `texts`; control tokens come first."""
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=[PAD, *STATES],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        tokenizer.train_from_iterator(texts, trainer)
        return cls(tokenizer_object=tokenizer, pad_token=PAD, additional_special_tokens=list(STATES))

    @classmethod
    def extend(cls, tokenizer: PreTrainedTokenizerFast) -> StreamerTokenizer:
        """A pretrained fast tokenizer (Qwen's) with the control tokens after its own; no id that it has changes.

        The new ids are the first that `tokenizer` leaves free; Qwen3's embeddings have rows to spare for them.
        """
        extended = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
        extended.add_special_tokens([PAD, *STATES])
        silent = [token for token in tokenizer.all_special_tokens if token not in (PAD, *STATES)]
        return cls(
            tokenizer_object=extended,
            pad_token=PAD,
            eos_token=tokenizer.eos_token,
            additional_special_tokens=[*silent, *STATES],
        )

    def save_pretrained(self, save_directory: str | os.PathLike[str], **kwargs: Any) -> tuple[str, ...]:
        """As the base class's, without how this tokenizer was loaded, which is not a property of it."""
        for name in ("is_local", "local_files_only"):
            self.init_kwargs.pop(name, None)
        return super().save_pretrained(save_directory, **kwargs)

    @property
    def state_ids(self) -> dict[str, int]:
        """{"listen": id, "speak": id}."""
        return {name.strip("<|>"): self.convert_tokens_to_ids(name) for name in STATES}

    @property
    def control_ids(self) -> dict[str, int | list[int]]:
        """The fields of `StreamerConfig` that name control tokens, as this tokenizer has them."""
        return {"pad_token_id": self.pad_token_id, "state_token_ids": list(self.state_ids.values())}

    def encode_words(self, text: str) -> list[int]:
        """Ids of `text` without control tokens, whatever it says: "<|speak|>" is nine characters that a user typed.

        It begins a new word, with a leading space, whatever the tokenizer.
        """
        if not text.strip():
            return []
        begun = text if text[0].isspace() else f" {text}"
        return self.encode(begun, add_special_tokens=False, split_special_tokens=True)

    def decode_slots(self, ids: Iterable[int]) -> str:
        """Text of some slots; pads and other control tokens are silent. Keeps the leading space of a new word."""
        return self.decode(self._spoken(ids))

    def decode_stream(self, ids: Iterable[int], waiting: Sequence[int] = ()) -> tuple[str, list[int]]:
        """Text of the next slots of a stream, after `waiting`; and the tokens whose last character is not whole yet.

        Tokens may be single bytes of a character. Those of an unfinished one, three at most, wait for the others.
        """
        tokens = [*waiting, *self._spoken(ids)]
        oldest = max(0, len(tokens) - _MAX_BYTES + 1)
        for end in range(len(tokens), oldest - 1, -1):
            text = self.decode(tokens[:end])
            if not text.endswith(_NO_CHARACTER):
                break
        return text, tokens[end:]

    def _spoken(self, ids: Iterable[int]) -> list[int]:
        return [token for token in ids if token not in self.all_special_ids]
