"""Train, validation and test: disjoint in seeds, voices and faces, with some combinations never seen in training."""

import numpy as np

from .grammar import COLORS, OBJECTS

SPLIT_SIZE = 1_000_000  # seeds per split: train 0.., val 1,000,000.., test 2,000,000..
SPLITS = ("train", "val", "test")

USER_VOICES = {
    "train": (
        "en-us",
        "en-us+f2",
        "en-us+f3",
        "en-us+m1",
        "en-us+m3",
        "en-us+m7",
        "en-us+steph",
        "en-us+Alicia",
        "en",
        "en+f3",
        "en-gb-x-rp",
        "en-gb-scotland",
    ),
    "val": ("en-us+f4", "en+m3"),
    "test": ("en-gb-x-rp+f2", "en-us+michael"),
}

# Never shown or asked in training, so that val and test can tell composition from recall.
HELD_OUT_PAIRS = frozenset(
    [
        ("red", "umbrella"),
        ("green", "camera"),
        ("blue", "apple"),
        ("yellow", "star"),
        ("purple", "banana"),
        ("orange", "flower"),
    ]
)
HELD_OUT_SUMS = frozenset([(1, 4), (3, 2)])


def split_of(seed: int) -> str:
    """The split a dyad's seed belongs to. Raises ValueError outside 0 .. 2,999,999."""
    if not 0 <= seed < SPLIT_SIZE * len(SPLITS):
        raise ValueError(f"seed {seed} is outside 0..{SPLIT_SIZE * len(SPLITS) - 1}; each million is one split")
    return SPLITS[seed // SPLIT_SIZE]


def user_identity_seed(split: str, rng: np.random.Generator) -> int:
    """A person of this split's own population; the agent is none of them."""
    return SPLITS.index(split) * SPLIT_SIZE + int(rng.integers(SPLIT_SIZE))


def color_and_object(split: str, rng: np.random.Generator) -> tuple[str, str]:
    """What a user holds; in training never a held-out pair."""
    pairs = [(c, o) for c in COLORS for o in OBJECTS if split != "train" or (c, o) not in HELD_OUT_PAIRS]
    return pairs[rng.integers(len(pairs))]


def addends(split: str, rng: np.random.Generator) -> tuple[int, int]:
    """Two numbers of 0..5 to add; in training never a held-out sum."""
    sums = [(a, b) for a in range(6) for b in range(6) if split != "train" or (a, b) not in HELD_OUT_SUMS]
    return sums[rng.integers(len(sums))]
