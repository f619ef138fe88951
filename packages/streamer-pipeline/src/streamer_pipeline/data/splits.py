"""Which conversations train and which test, so that nobody is in both."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Literal

from .importers.conversation import Conversation

SPLITS = ("train", "val", "test")  # each stricter than the one before
SplitBy = Literal["speakers", "users", "conversations"]


def assign_splits(
    conversations: Sequence[Conversation], shares: Mapping[str, float], by: SplitBy = "speakers"
) -> list[str]:
    """The split of each conversation.

    Conversations that share a speaker stay together, and so do those of which one shares a speaker with both. Whole
    groups go to test and val, in an order that depends on their names alone, while they fit into its share; the rest
    trains. A group in which the source puts a conversation into a split goes there, and to the strictest if to several.

    Args:
        shares: of "val" and "test", of all conversations.
        by: who counts as a speaker: both sides, the users alone (where one person plays every agent), or nobody.
    """
    from scipy.cluster.hierarchy import DisjointSet

    together = DisjointSet(range(len(conversations)))
    last_with: dict[str, int] = {}
    for index, conversation in enumerate(conversations):
        sides = {"speakers": (conversation.user, conversation.agent), "users": (conversation.user,)}.get(by, ())
        for speaker in {side.speaker for side in sides if side.speaker is not None}:
            together.merge(index, last_with.setdefault(speaker, index))
    assigned: dict[int, str] = {}
    sizes: defaultdict[str, int] = defaultdict(int)
    for group in sorted(together.subsets(), key=lambda group: _hash(min(conversations[i].key for i in group))):
        stated = {conversations[i].split for i in group} & set(SPLITS)
        if stated:
            split = max(stated, key=SPLITS.index)
        else:
            room = {name: round(share * len(conversations)) - sizes[name] for name, share in shares.items()}
            split = next((name for name in ("test", "val") if len(group) <= room.get(name, 0)), "train")
            sizes[split] += len(group)
        assigned |= dict.fromkeys(group, split)
    return [assigned[index] for index in range(len(conversations))]


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
