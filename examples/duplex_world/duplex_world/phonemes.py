"""From timed phonemes to a moving mouth: ARPABET and espeak mnemonics -> visemes -> (open, wide, round) at 25 fps."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np

from .clock import FRAME_RATE


class PhonemeSpan(NamedTuple):
    """One phoneme: `start` and `end` in seconds, its `symbol`, and the `word` it belongs to ("" where unknown)."""

    start: float
    end: float
    symbol: str
    word: str = ""


# viseme: (open, wide, round), each in 0..1
VISEMES = {
    "rest": (0.0, 0.45, 0.1),
    "closed": (0.0, 0.45, 0.1),
    "f": (0.12, 0.5, 0.1),
    "th": (0.22, 0.5, 0.1),
    "tn": (0.22, 0.5, 0.1),
    "s": (0.14, 0.65, 0.0),
    "sh": (0.22, 0.3, 0.7),
    "k": (0.3, 0.5, 0.1),
    "r": (0.28, 0.35, 0.5),
    "w": (0.15, 0.15, 1.0),
    "l": (0.35, 0.5, 0.1),
    "a": (0.95, 0.5, 0.1),
    "ae": (0.8, 0.7, 0.0),
    "e": (0.55, 0.7, 0.0),
    "i": (0.3, 0.9, 0.0),
    "o": (0.65, 0.25, 0.8),
    "u": (0.28, 0.15, 1.0),
    "er": (0.42, 0.4, 0.45),
}

_ARPABET = {
    "a": "AA AH AW AY",
    "ae": "AE EH",
    "closed": "B M P",
    "e": "EY",
    "er": "ER",
    "f": "F V",
    "i": "IH IY Y",
    "k": "G HH K NG",
    "l": "L",
    "o": "AO OW OY",
    "r": "R",
    "s": "S Z",
    "sh": "CH JH SH ZH",
    "th": "DH TH",
    "tn": "D N T",
    "u": "UH UW",
    "w": "W",
}
_VISEME_OF_ARPABET = {symbol: viseme for viseme, symbols in _ARPABET.items() for symbol in symbols.split()}

# The first prefix that matches decides, so longer mnemonics stand before their first letters.
_ESPEAK_PREFIXES = (
    ("tS dZ S Z", "sh"),
    ("aI aU A: A@ a:", "a"),
    ("e@ E", "ae"),
    ("p b m", "closed"),
    ("f v", "f"),
    ("T D", "th"),
    ("t d n * ?", "tn"),
    ("s z", "s"),
    ("k g N h x C", "k"),
    ("w", "w"),
    ("r", "r"),
    ("l j", "l"),
    ("a A V 0", "a"),
    ("3 @", "er"),
    ("e", "e"),
    ("i I", "i"),
    ("o O", "o"),
    ("u U", "u"),
)


def arpabet_viseme(symbol: str) -> str:
    """Viseme of a pocketsphinx phone ("AH", "SIL", ...)."""
    return _VISEME_OF_ARPABET.get(symbol, "rest")


def espeak_viseme(symbol: str) -> str:
    """Viseme of an espeak-ng phoneme mnemonic; stress marks are ignored, pauses rest."""
    symbol = symbol.translate({ord(mark): None for mark in "',%="}).strip()
    if not symbol or symbol[0] in "_|;":
        return "rest"
    for prefixes, viseme in _ESPEAK_PREFIXES:
        if symbol.startswith(tuple(prefixes.split())):
            return viseme
    return "k"


def mouth_track(
    spans: Iterable[PhonemeSpan], num_frames: int, viseme_of: Callable[[str], str] = arpabet_viseme
) -> dict[str, np.ndarray]:
    """Mouth parameters of an utterance that starts at frame 0.

    Visemes are laid on a 200 Hz line, smoothed by an 80 ms triangle (lips do not jump), and read 30 ms ahead of each
    frame's middle, because lips move before the sound they shape.

    Returns `mouth_open`, `mouth_wide`, `mouth_round`, each `(num_frames,)` float32 in 0..1.
    """
    line_rate, ahead = 200, 0.03
    times = np.arange(int((num_frames / FRAME_RATE + 0.2) * line_rate)) / line_rate
    line = np.tile(np.array(VISEMES["rest"]), (len(times), 1))
    for span in spans:
        line[(times >= span.start) & (times < span.end)] = VISEMES[viseme_of(span.symbol)]
    kernel = np.bartlett(17)[1:-1] / np.bartlett(17).sum()
    padded = np.pad(line, ((7, 7), (0, 0)), mode="edge")
    smooth = np.stack([np.convolve(column, kernel, "valid") for column in padded.T], 1)
    moments = (np.arange(num_frames) + 0.5) / FRAME_RATE + ahead
    values = smooth[(moments * line_rate).astype(int)].astype(np.float32)
    return dict(zip(("mouth_open", "mouth_wide", "mouth_round"), values.T.copy(), strict=True))
