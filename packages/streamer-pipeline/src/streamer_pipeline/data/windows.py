"""Batches for the Transformer: windows of a number of units, cut from conversations, in an order that is a plan.

Which conversations a batch holds follows from the seed and the step alone, so that a run that continues meets what it
would have met. Of an epoch no unit counts twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import torch
from causal_vae.training import EndlessBatches, random_seed
from streamer_core import StreamerTokenizer
from torch import Tensor

from .augment import vary_camera, vary_microphone
from .duplex_batch import DuplexBatch
from .tasks import TASKS, Mixture, Source, Task, Tensors

STREAMS = (
    "user_audio",
    "user_frames",
    "user_heard",
    "user_seen",
    "user_typed",
    "state",
    "text",
    "audio_latents",
    "video_latents",
    "pictured",
)
MAX_LEAD_IN = 12  # units
_LEAD_IN_SHARE = 0.4  # of the windows of tasks that may have one
_CHOICE = 16  # pieces among which one is sought that fits into what is left of a window


def time_axis(name: str) -> int:
    return 1 if name.endswith("latents") else 0


def units_of(conversation: Tensors, first_unit: int, end_unit: int) -> dict[str, Tensor]:
    """Units [first_unit, end_unit) of every stream."""
    num_units = len(conversation["state"])
    return {
        name: cut(name, conversation[name], num_units, first_unit, end_unit - first_unit)
        for name in STREAMS
        if name in conversation
    }


def cut(name: str, stream: Tensor, stream_units: int, first_unit: int, num_units: int) -> Tensor:
    """Units [first_unit, first_unit + num_units) of a stream that lasts `stream_units`."""
    axis = time_axis(name)
    per_unit = stream.shape[axis] // stream_units
    return stream.narrow(axis, first_unit * per_unit, num_units * per_unit)


class Piece(NamedTuple):
    """Units [first, end) of conversation `index`; the agent's before `counts_from` are there to be looked back at."""

    index: int  # type: ignore[assignment]  # hides the method of tuples, which nobody calls
    first: int
    end: int
    counts_from: int


class Row(NamedTuple):
    """What a window is made of, in this order."""

    task: str
    pieces: tuple[Piece, ...]


class Epochs:
    """The conversations of a source in a random order, all of them once, then again in another order.

    A conversation that fits into a window comes whole. Of a longer one comes what fits; the rest comes later in the
    epoch, after `look_back` units that have counted before: what is said there was asked before.

    Args:
        window: units of one.
    """

    def __init__(self, source: Source, window: int, look_back: int, seed: int, purpose: str) -> None:
        self._source, self._window, self._look_back = source, window, look_back
        self._seed, self._purpose = seed, purpose
        self._epoch, self._left = 0, list[Piece]()

    def take(self, room: int, span: Callable[[Piece], Piece]) -> Piece:
        """At most `room` units of what this epoch has left; if nothing fits, units that do not count.

        Args:
            span: what a task takes of a piece.
        """
        if not self._left:
            self._begin()
        for place in range(1, min(_CHOICE, len(self._left)) + 1):
            piece = span(self._left[-place])
            length, counted = piece.end - piece.first, piece.first + room - piece.counts_from
            is_worth_a_cut = room == self._window or counted > self._look_back
            if length <= room or (length > self._window and is_worth_a_cut):
                del self._left[-place]
                return piece if length <= room else self._cut(piece, piece.first + room)
        filler = span(self._left[-1])
        return filler._replace(end=filler.first + room, counts_from=filler.first + room)

    def _cut(self, piece: Piece, end: int) -> Piece:
        """The units of a piece before `end`; the others get a random place in what is left."""
        place = int(torch.randint(len(self._left) + 1, (), generator=self._generator))
        self._left.insert(place, piece._replace(first=max(0, end - self._look_back), counts_from=end))
        return piece._replace(end=end)

    def _begin(self) -> None:
        self._generator = torch.Generator().manual_seed(random_seed(self._seed, self._purpose, self._epoch))
        order = torch.randperm(len(self._source), generator=self._generator).tolist()
        self._left = [Piece(index, 0, len(self._source[index]["state"]), 0) for index in order]
        self._epoch += 1


class Conversations(EndlessBatches):
    """Batches of windows of `num_units` units, cut from conversations in a row; the agent's side is shifted by the
    response delay.

    A window holds whole conversations, or a part of one that is longer; every unit of the agent's counts once in an
    epoch. (The first `response_delay` units of a conversation that begins a window answer nothing, and do not count.)
    A window may begin with the end of another conversation, whose units do not count: what was asked there is unknown.

    Media batches have `batch_size` rows, language batches twice as many. All processes have the same kind of batch in a
    step: their gradients must be of the same layers.

    Args:
        sources: of each task of the mixture. Tasks that share a source share its epochs: no piece comes again before
            all have come.
        prompt: the system prompt of tasks that have none of their own.
        vary: whether microphone and camera differ from those of the recording.
        num_processes: that train together; each has rows of its own.

    Raises:
        ValueError: a source is empty, or a task has none.
    """

    def __init__(
        self,
        sources: Mapping[str, Source],
        tokenizer: StreamerTokenizer,
        mixture: Mixture,
        num_units: int,
        batch_size: int,
        response_delay: int,
        user_text_slots: int,
        prompt: str,
        tasks: Mapping[str, Task] = TASKS,
        vary: bool = True,
        seed: int = 0,
        num_processes: int = 1,
    ) -> None:
        super().__init__(seed)
        self.sources, self.tokenizer, self.mixture, self.tasks = sources, tokenizer, mixture, tasks
        self.num_units, self.batch_size, self.delay = num_units, batch_size, response_delay
        self.user_text_slots, self.prompt, self.vary = user_text_slots, prompt, vary
        self.num_processes = num_processes
        self.max_lead_in = min(MAX_LEAD_IN, num_units // 2)
        for name in mixture.weights:
            if name not in sources or not len(sources[name]):
                raise ValueError(f"there are no conversations for the task {name}")
        self._restart()

    # ---- which conversations ----

    def rows(self, step: int) -> list[Row]:
        """The rows of all processes in a step, those of the first process first."""
        if step < self._step:
            self._restart()
        while self._step < step:
            self._step += 1
            self._rows = self._next_rows()
        return self._rows

    def _restart(self) -> None:
        self._step, self._rows = -1, []
        self._epochs: dict[int, Epochs] = {}

    def _next_rows(self) -> list[Row]:
        generator = torch.Generator().manual_seed(random_seed(self.seed, "rows", self._step))
        renders = self.mixture.draw_kind(self.tasks, generator)
        names = [
            self.mixture.draw_task(self.tasks, renders, generator)
            for _ in range(self.num_processes * self.batch_size * (1 if renders else 2))
        ]
        if len({len(self._prompt(name)) for name in names}) > 1:  # of one batch all are equally long
            names = names[:1] * len(names)
        return [self._row(name, generator) for name in names]

    def _prompt(self, name: str) -> list[int]:
        own = self.tasks[name].prompt
        return self.tokenizer.encode_words(self.prompt if own is None else own)

    def _row(self, name: str, generator: torch.Generator) -> Row:
        task, source = self.tasks[name], self.sources[name]
        if task.compose is not None:
            return Row(name, ())
        epochs = self._epochs_of(name, source)
        pieces: list[Piece] = []
        room = window = self.num_units + self.delay
        while room:
            piece = epochs.take(room, lambda piece: self._spanned(piece, task, source))
            length = piece.end - piece.first
            if not pieces and task.leads_in and not piece.first and length < room:
                pieces += self._lead_in(source, min(room - length, self.max_lead_in), generator)
            pieces.append(piece)
            room = window - sum(part.end - part.first for part in pieces)
        return Row(name, tuple(pieces))

    def _epochs_of(self, name: str, source: Source) -> Epochs:
        """Those that the tasks of a source share; the first that asks names them."""
        if id(source) not in self._epochs:
            window, look_back = self.num_units + self.delay, self.max_lead_in + self.delay
            self._epochs[id(source)] = Epochs(source, window, look_back, self.seed, f"epoch of {name}")
        return self._epochs[id(source)]

    def _spanned(self, piece: Piece, task: Task, source: Source) -> Piece:
        """What a window of this task takes of a piece."""
        first, end = task.span(_Units(source[piece.index], piece.first, piece.end), self.tokenizer)
        first, end = piece.first + first, piece.first + end
        return Piece(piece.index, first, end, max(first, piece.counts_from))

    def _lead_in(self, source: Source, longest: int, generator: torch.Generator) -> list[Piece]:
        if torch.rand((), generator=generator) >= _LEAD_IN_SHARE:
            return []
        index = int(torch.randint(len(source), (), generator=generator))
        end = len(source[index]["state"])
        units = int(torch.randint(1, min(longest, end) + 1, (), generator=generator))
        return [Piece(index, end - units, end, end)]

    # ---- what they look like ----

    def draw(self, step: int, rank: int) -> DuplexBatch:
        rows = self.rows(step)
        share = len(rows) // self.num_processes
        mine = rows[rank * share : (rank + 1) * share]
        windows = [self.window(row, self.sources[row.task]) for row in mine]
        return collate(windows, with_latents=self.tasks[mine[0].task].renders)

    def window(self, row: Row, source: Source) -> dict[str, Tensor]:
        """The tensors of one row of a batch."""
        task, length = self.tasks[row.task], self.num_units + self.delay
        if task.compose is not None:
            joined = task.compose(source, length, self.tokenizer)
            valid = torch.ones(length, dtype=torch.bool)
        else:
            joined = join([units_of(source[piece.index], piece.first, piece.end) for piece in row.pieces])
            valid = torch.cat([torch.arange(piece.first, piece.end) >= piece.counts_from for piece in row.pieces])
        total = len(joined["state"])
        window = {
            name: cut(name, stream, total, 0 if name.startswith("user") else self.delay, self.num_units)
            for name, stream in joined.items()
        }
        window["user_text"] = torch.full((self.num_units, self.user_text_slots), self.tokenizer.pad_token_id)
        if "user_typed" in window:
            window["user_text"][:, :1] = window["user_typed"]
        task.shape(window, joined, self.tokenizer, self.delay)
        window["user_audio"] = window["user_audio"].float() / 32767
        if self.vary:
            window["user_audio"] = vary_microphone(window["user_audio"])
        window["user_frames"] = self.pictures(window["user_frames"])
        window["valid"] = valid[self.delay : self.delay + self.num_units]
        window["prompt"] = torch.tensor(self._prompt(row.task), dtype=torch.int64)
        return window

    def pictures(self, frames: Tensor) -> Tensor:
        """Stored looks (K, 3, h, w) as the video encoder takes them."""
        frames = frames.float().div_(127.5).sub_(1)
        return vary_camera(frames) if self.vary else frames


class _Units(Mapping[str, Tensor]):
    """Some units of a conversation, each stream cut when it is asked for."""

    def __init__(self, conversation: Tensors, first: int, end: int) -> None:
        self._conversation, self._first, self._end = conversation, first, end

    def __getitem__(self, name: str) -> Tensor:
        stream, num_units = self._conversation[name], len(self._conversation["state"])
        return cut(name, stream, num_units, self._first, self._end - self._first)

    def __iter__(self) -> Iterator[str]:
        return iter(self._conversation)

    def __len__(self) -> int:
        return len(self._conversation)


def join(parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Conversations one after the other, in the streams that all of them have."""
    names = [name for name in parts[0] if all(name in part for part in parts)]
    return {name: torch.cat([part[name] for part in parts], dim=time_axis(name)) for name in names}


def collate(windows: list[dict[str, Tensor]], with_latents: bool) -> DuplexBatch:
    """Windows -> a batch; the latents are left out where only words are trained."""
    names = [name for name in windows[0] if all(name in window for window in windows)]
    stacked = {name: torch.stack([window[name] for window in windows]) for name in names}
    return DuplexBatch(
        prompt_ids=stacked["prompt"],
        user_audio=stacked["user_audio"][:, None],
        user_frames=stacked["user_frames"].transpose(1, 2),
        user_text=stacked["user_text"],
        state=stacked["state"],
        agent_text=stacked["text"],
        valid=stacked["valid"],
        audio_latents=stacked["audio_latents"] if with_latents else None,
        video_latents=stacked.get("video_latents") if with_latents else None,
        reference_audio=stacked.get("reference_audio"),
        reference_video=stacked.get("reference_video"),
        video_valid=stacked.get("pictured") if with_latents else None,
        user_heard=stacked.get("user_heard"),
    )
