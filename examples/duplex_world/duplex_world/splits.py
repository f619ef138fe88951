"""Train, validation and test: disjoint in seeds, voices and faces; some phrasings and pairs are never trained."""

import zlib

import numpy as np

from .grammar import COLORS, NATURAL_PHRASINGS, OBJECTS, OTHER_SPEECH, USER_PHRASINGS, phrasings

SPLIT_SIZE = 1_000_000  # seeds per split: train 0.., val 1,000,000.., test 2,000,000..
SPLITS = ("train", "val", "test")

_ACCENTS = (
    "en",
    "en-us",
    "en-us-nyc",
    "en-029",
    "en-gb-x-rp",
    "en-gb-scotland",
    "en-gb-x-gbclan",
    "en-gb-x-gbcwmd",
)
_TRAIN_SPEAKERS = (
    *("f1", "f3", "f5", "m1", "m2", "m5", "m6", "m7", "m8"),
    *("Alicia", "Annie", "Lee", "Linda", "Paul", "Rob", "adam", "anika", "belinda", "steph"),
)
# espeak-ng: accent, or accent + speaker. No speaker of val or test is in train, in any accent.
USER_VOICES = {
    "train": (*_ACCENTS, *(f"{accent}+{speaker}" for accent in _ACCENTS for speaker in _TRAIN_SPEAKERS)),
    "val": ("en-us+f4", "en+m3"),
    "test": ("en-us+Michael", "en-us+m4", "en+Andrea", "en-gb-x-rp+f2"),
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


def is_held_out_phrasing(text: str) -> bool:
    """Whether a request template is kept from training: a quarter of those with an opening."""
    plain = any(text in texts for texts in NATURAL_PHRASINGS.values())
    return not plain and zlib.crc32(text.encode()) % 4 == 0


def other_speech(split: str) -> tuple[str, ...]:
    """What people say that is not for the agent; none of it is both in training and in another split."""
    return tuple(text for text in OTHER_SPEECH if (split == "train") != is_held_out_phrasing(text))


def phrasing(
    split: str, rng: np.random.Generator, request: str, table: dict[str, tuple[str, ...]] = USER_PHRASINGS
) -> str:
    """How a user puts a request, half of the time without an opening; in training never a held-out phrasing."""
    plain = table[request]
    if rng.random() < 0.5:
        return plain[rng.integers(len(plain))]
    options = [text for text in phrasings(request, table) if split != "train" or not is_held_out_phrasing(text)]
    return options[rng.integers(len(options))]


def color_and_object(split: str, rng: np.random.Generator) -> tuple[str, str]:
    """What a user holds; in training never a held-out pair."""
    pairs = [(c, o) for c in COLORS for o in OBJECTS if split != "train" or (c, o) not in HELD_OUT_PAIRS]
    return pairs[rng.integers(len(pairs))]


def addends(split: str, rng: np.random.Generator) -> tuple[int, int]:
    """Two numbers of 0..5 to add; in training never a held-out sum."""
    sums = [(a, b) for a in range(6) for b in range(6) if split != "train" or (a, b) not in HELD_OUT_SUMS]
    return sums[rng.integers(len(sums))]
