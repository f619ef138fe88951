"""The tasks of stages 1 and 2, as pure functions of a conversation's tensors: what each sees of it, and what it owes.

A conversation's tensors, unit by unit (U): user_audio (U * 3840,) int16, user_frames (U * looks, 3, h, w) uint8,
user_heard (U, slots) ids of the user's words in the unit after they ended, state (U,), text (U, slots), and where the
agent was encoded audio_latents (C, U * n), video_latents (C, U, h, w), pictured (U,) bool: whether it was filmed.
`user_typed` (U, 1) is what the user typed, where anybody did.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from streamer_core import StreamerTokenizer
from torch import Tensor

Tensors = Mapping[str, Tensor]
_BEFORE_SPEECH, _AFTER_SPEECH = 5, 4  # units of a hearing lesson around the user's words
_SILENT_LESSON = 9  # units of one in which nobody speaks


class Source(Protocol):
    """Conversations by number."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Tensors: ...


def _whole(conversation: Tensors, tokenizer: StreamerTokenizer) -> tuple[int, int]:
    return 0, len(conversation["state"])


def _as_it_was(window: dict[str, Tensor], joined: Tensors, tokenizer: StreamerTokenizer, delay: int) -> None:
    pass


@dataclass(frozen=True)
class Task:
    """One kind of lesson.

    prompt: the system prompt that names it; None is the agent's own.
    renders: whether it trains the agent's sound and picture; without, it needs no latents and costs a third.
    needs: tensors that a conversation must have for it, besides those that all have.
    leads_in: whether a window may begin with the end of another conversation, whose units do not count.
    span: (conversation, tokenizer) -> the units [first, end) that a window takes of it.
    shape: (window, joined, tokenizer, delay) changes a window, which is on the clock of training, into what the task
        sees and owes; `joined` is what it was cut from, on the wall clock.
    compose: (source, num_units, tokenizer) -> tensors of at least so many units, for tasks whose windows are not
        conversations in a row.
    """

    prompt: str | None = None
    renders: bool = False
    needs: tuple[str, ...] = ()
    leads_in: bool = False
    span: Callable[[Tensors, StreamerTokenizer], tuple[int, int]] = _whole
    shape: Callable[[dict[str, Tensor], Tensors, StreamerTokenizer, int], None] = _as_it_was
    compose: Callable[[Source, int, StreamerTokenizer], Tensors] | None = None


def _around_speech(conversation: Tensors, tokenizer: StreamerTokenizer) -> tuple[int, int]:
    """The part in which the user speaks, a second and a half of a conversation in which nobody does."""
    heard = (conversation["user_heard"] != tokenizer.pad_token_id).any(1).nonzero()[:, 0]
    if not len(heard):
        return 0, min(len(conversation["state"]), _SILENT_LESSON)
    return max(0, int(heard[0]) - _BEFORE_SPEECH), min(len(conversation["state"]), int(heard[-1]) + _AFTER_SPEECH)


def writes(window: dict[str, Tensor], words: Tensor, tokenizer: StreamerTokenizer) -> None:
    """The agent only writes `words` (K, slots): it listens all the time."""
    window["text"] = words
    window["state"] = torch.full_like(window["state"], tokenizer.state_ids["listen"])


def _write_what_is_heard(window: dict[str, Tensor], joined: Tensors, tokenizer: StreamerTokenizer, delay: int) -> None:
    writes(window, window["user_heard"], tokenizer)


def _read_what_is_typed(window: dict[str, Tensor], joined: Tensors, tokenizer: StreamerTokenizer, delay: int) -> None:
    window["user_text"][:, 0] = typed_before(joined, tokenizer, delay)[: len(window["state"])]
    window["user_audio"] = torch.zeros_like(window["user_audio"])
    if "user_heard" in window:
        window["user_heard"] = torch.full_like(window["user_heard"], tokenizer.pad_token_id)


def typed_before(joined: Tensors, tokenizer: StreamerTokenizer, delay: int) -> Tensor:
    """(U,) what the user would have typed, a word per unit, just before each of the agent's utterances."""
    pad, speak = tokenizer.pad_token_id, tokenizer.state_ids["speak"]
    typed = torch.full((len(joined["state"]),), pad)
    speaking = torch.cat([torch.tensor([False]), joined["state"] == speak, torch.tensor([False])]).int()
    edges = speaking.diff()
    for first, end in zip(edges.eq(1).nonzero()[:, 0], edges.eq(-1).nonzero()[:, 0], strict=True):
        words = joined["text"][first:end]
        words = words[words != pad]
        start = max(0, int(first) - delay - len(words))
        room = typed[start : max(0, int(first) - delay)]
        room[:] = words[: len(room)]
    return typed


TASKS: dict[str, Task] = {
    # hear, see, answer, speak, show a face
    "duplex": Task(renders=True, leads_in=True),
    # the same in words alone
    "words": Task(leads_in=True),
    # user's speech -> words
    "hearing": Task("write my words", needs=("user_heard",), span=_around_speech, shape=_write_what_is_heard),
    # typed words -> agent's sound and face
    "speaking": Task("read my words", renders=True, shape=_read_what_is_typed),
}


@dataclass(frozen=True)
class Mixture:
    """How often each task comes: name -> weight. The kind of a batch, language or media, is drawn for all its rows."""

    weights: Mapping[str, float]

    @classmethod
    def parse(cls, text: str, tasks: Mapping[str, Task] = TASKS) -> Mixture:
        """From "duplex=3 words=1". Raises ValueError for a task that does not exist, or a weight that is none."""
        weights: dict[str, float] = {}
        for part in text.split():
            name, _, weight = part.partition("=")
            if name not in tasks:
                raise ValueError(f"no task {name}; there are {', '.join(tasks)}")
            try:
                weights[name] = float(weight)
            except ValueError:
                raise ValueError(f"tasks are written as 'duplex=3 words=1'; got {part!r}") from None
            if not 0 <= weights[name] < float("inf"):
                raise ValueError(f"the weight of a task is 0 or more; {name} has {weight}")
        if not sum(weights.values()):
            raise ValueError("no task has a weight above 0")
        return cls(weights)

    def draw_kind(self, tasks: Mapping[str, Task], generator: torch.Generator) -> bool:
        """Whether a batch renders: language tasks or media tasks, by their summed weights."""
        language = sum(weight for name, weight in self.weights.items() if not tasks[name].renders)
        return bool(torch.rand((), generator=generator) * sum(self.weights.values()) >= language)

    def draw_task(self, tasks: Mapping[str, Task], renders: bool, generator: torch.Generator) -> str:
        names = [name for name, weight in self.weights.items() if tasks[name].renders is renders and weight]
        weights = torch.tensor([float(self.weights[name]) for name in names])
        return names[int(torch.multinomial(weights, 1, generator=generator))]
