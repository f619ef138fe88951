"""Batches from stored dyads of the world: the generic tasks in its own prompts, and naming what is shown."""

from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from streamer_core import StreamerTokenizer
from streamer_pipeline.data.tasks import TASKS, Mixture, Source, Task, Tensors, writes
from streamer_pipeline.data.windows import Conversations, join, units_of
from torch import Tensor

SLIDES_SHARE = 0.75


def draw(dyads: Source) -> Tensors:
    return dyads[int(torch.randint(len(dyads), ()))]


def _named_once(window: dict[str, Tensor], joined: Tensors, tokenizer: StreamerTokenizer, delay: int) -> None:
    """Words only where they change: a model would repeat itself rather than look."""
    seen = window["user_seen"]
    same = torch.cat([torch.tensor([False]), (seen[1:] == seen[:-1]).all(1)])
    writes(window, torch.where(same[:, None], tokenizer.pad_token_id, seen), tokenizer)
    del window["user_heard"]  # of pictures one after the other no word is whole


def _slides(source: Source, num_units: int, tokenizer: StreamerTokenizer) -> Tensors:
    """Mostly pictures of many people in a row, one to three units each: a conversation shows too little too long."""
    as_slides, parts, length = torch.rand(()) < SLIDES_SHARE, [], 0
    while length < num_units:
        dyad = draw(source)
        if as_slides:
            shown = (dyad["user_seen"] != tokenizer.pad_token_id).any(1).nonzero()[:, 0]
            if not len(shown) and torch.rand(()) < 0.5:
                continue
            units = shown if len(shown) else torch.arange(len(dyad["state"]))
            unit = int(units[torch.randint(len(units), ())])
            added = [units_of(dyad, unit, unit + 1)] * int(torch.randint(1, 4, ()))
        else:
            added = [units_of(dyad, 0, len(dyad["state"]))]
        parts += added
        length += sum(len(part["state"]) for part in added)
    return join(parts)


PROMPT = "you are ada"
# user's picture -> words
SEEING = Task("name the picture", needs=("user_seen",), shape=_named_once, compose=_slides)
WORLD_TASKS = TASKS | {"seeing": SEEING}
# A system prompt of three words names the task.
PROMPTS = {name: task.prompt or PROMPT for name, task in WORLD_TASKS.items()}


class Dyads:
    """Stored dyads of some folders, in memory, with or without latents. Raises ValueError where there are none."""

    def __init__(self, folders: list[Path], with_latents: bool) -> None:
        self._folders, self._with_latents = folders, with_latents
        self._files: set[Path] = set()
        self._dyads: list[dict[str, Tensor]] = []
        self.refresh()
        if not self._dyads:
            raise ValueError(
                f"no dyads-*.safetensors in {', '.join(map(str, folders))}; "
                "make them with examples/train/prepare_dyads.py"
            )

    def refresh(self) -> None:
        """Read the files that have come since the last time."""
        for path in sorted(path for folder in self._folders for path in folder.glob("dyads-*.safetensors")):
            if path in self._files:
                continue
            by_seed: dict[str, dict[str, Tensor]] = defaultdict(dict)
            for key, tensor in load_file(path).items():
                seed, name = key.split(".")
                if self._with_latents or not name.endswith("latents"):
                    by_seed[seed][name] = tensor
            self._dyads += map(self._kept, by_seed.values())
            self._files.add(path)

    def _kept(self, dyad: dict[str, Tensor]) -> dict[str, Tensor]:
        """What stays in memory of a stored dyad."""
        return dyad

    def __len__(self) -> int:
        return len(self._dyads)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return self._dyads[index]


class WorldConversations(Conversations):
    """`Conversations` of the world's tasks, those of language from `dyads`, those of media from `media_dyads`.

    Args:
        options: of `Conversations`.
    """

    def __init__(
        self, dyads: Source, media_dyads: Source | None, tokenizer: StreamerTokenizer, mixture: Mixture, **options: Any
    ) -> None:
        sources = {name: media_dyads if WORLD_TASKS[name].renders else dyads for name in mixture.weights}
        super().__init__(sources, tokenizer, mixture, prompt=PROMPT, tasks=WORLD_TASKS, **options)
