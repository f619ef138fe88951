"""A bank of what users say, spoken by natural voices: made once, read by every training.

`planned` says what clip number i is: any prefix of the plan is balanced over requests, phrasings and voices. A bank is
a folder: `index.jsonl`, a line per clip, and `clips.opus`, all clips in a row, each an Ogg file of its own.
"""

import itertools
import json
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
from rich.progress import track

from .clock import SAMPLE_RATE
from .coding import decoded, encoded
from .grammar import NAMES, NATURAL_PHRASINGS, NUMBERS, OPENINGS, PAUSED_QUESTION
from .kokoro import speakers
from .phonemes import PhonemeSpan
from .speech_judge import align_phonemes
from .splits import HELD_OUT_SUMS, SPLITS, other_speech, phrasing

# How often each request comes in a round; what has many answers comes more often.
_ROUND = (
    *("plus", "greet", "myname", "color", "name", "object", "stop", "fingers"),
    *("other", "plus", "recall", "myname", "did", "backchannel", "smile", "color"),
    *("count", "plus", "bye", "paused0", "object", "myname", "paused1", "other"),
)
_SPLIT_ROUND = ("train",) * 3 + ("test",) + ("train",) * 7 + ("val",) + ("train",) * 4  # 14 : 1 : 1
_CODEC = ("ogg", "libopus", 32_000)
_PEAK = 0.6
_QUESTIONS = ["what", "who", "how", "do", "did", "am", "is", "are", "can", "could", "would", "may", "which", "tell"]


@dataclass(frozen=True)
class Clip:
    """One utterance: `text` in the words of the grammar, `written` as it was given to the voice.

    request: of `NATURAL_PHRASINGS`, or "other" (not for the agent), "paused0", "paused1" (halves of a question).
    slots: the name or numbers in it. phonemes: where each lies, in seconds. offset, num_bytes: of its Ogg file in
        `clips.opus`.
    """

    number: int
    split: str
    request: str
    slots: tuple[str, ...]
    text: str
    written: str
    voice: str
    speed: float
    seconds: float = 0.0
    offset: int = 0
    num_bytes: int = 0
    phonemes: list[PhonemeSpan] = field(default_factory=list)


def planned() -> Iterator[Clip]:
    """The clips of a bank, without end, always the same ones."""
    plans = {split: _plan_of(split) for split in SPLITS}
    for number, split in enumerate(itertools.cycle(_SPLIT_ROUND)):
        yield replace(next(plans[split]), number=number)


def _plan_of(split: str) -> Iterator[Clip]:
    """Voices come in shuffled rounds, slots and other speech too; requests in a fixed round; phrasings by chance."""
    rng = np.random.default_rng([SPLITS.index(split), 17])
    voices, slots = _shuffled(speakers(split), rng), _slots(split, rng)
    other = _shuffled(other_speech(split), rng)
    for request in itertools.cycle(_ROUND):
        chosen = next(slots[request]) if request in slots else ()
        if request == "other":
            text = next(other)
        elif request.startswith("paused"):
            text = PAUSED_QUESTION[int(request[-1])]
        else:
            text = phrasing(split, rng, request, NATURAL_PHRASINGS)
            text = text % chosen if chosen else text
        speed = round(float(rng.uniform(0.8, 1.25)), 2)
        yield Clip(0, split, request, chosen, text, punctuated(text, rng), next(voices), speed)


def _slots(split: str, rng: np.random.Generator) -> dict[str, Iterator[tuple[str, ...]]]:
    pairs = itertools.product(range(6), range(6))
    sums = [(NUMBERS[a], NUMBERS[b]) for a, b in pairs if split != "train" or (a, b) not in HELD_OUT_SUMS]
    return {"plus": _shuffled(sums, rng), "myname": _shuffled([(name,) for name in NAMES], rng)}


def _shuffled(options, rng: np.random.Generator) -> Iterator:
    """All options in random order, again and again."""
    while True:
        yield from (options[i] for i in rng.permutation(len(options)))


def punctuated(text: str, rng: np.random.Generator) -> str:
    """As one would write it: capitals, perhaps a comma after the opening, and a mark that sets its melody."""
    opening = next((o for o in sorted(OPENINGS, key=len, reverse=True) if o and text.startswith(f"{o} ")), "")
    rest = text[len(opening) :].strip()
    is_question = rest.split()[0].split("'")[0] in _QUESTIONS
    mark = rng.choice(["?", ".", "!"], p=[0.85, 0.15, 0.0] if is_question else [0.05, 0.7, 0.25])
    comma = "," if opening and rng.random() < 0.6 else ""
    written = f"{opening}{comma} {rest}".strip().replace("uh huh", "uh-huh").replace("mm hmm", "mm-hmm")
    names = "|".join((*NAMES, "ada", "boston"))
    written = re.sub(rf"\b({names}|i)\b", lambda found: found[0].capitalize(), written)
    return written[0].upper() + written[1:] + str(mark)


def timed(wave: np.ndarray, text: str) -> list[PhonemeSpan]:
    """Phonemes of `text` in `wave` by forced alignment; where that fails, its words by their letters' share."""
    try:
        spans = align_phonemes(wave, text)
    except ValueError:
        words = text.split()
        edges = np.cumsum([0, *map(len, words)]) / sum(map(len, words)) * len(wave) / SAMPLE_RATE
        return [
            PhonemeSpan(*map(float, edge), "AH", word) for *edge, word in zip(edges, edges[1:], words, strict=False)
        ]
    return [
        PhonemeSpan(round(span.start, 2), round(span.end, 2), span.symbol, "" if span.word[0] == "<" else span.word)
        for span in spans
    ]


def trimmed(wave: np.ndarray) -> np.ndarray:
    """Without the silence around it but for 30 ms, at one peak level."""
    loud, margin = np.flatnonzero(np.abs(wave) > 0.02 * np.abs(wave).max()), int(0.03 * SAMPLE_RATE)
    wave = wave[max(0, loud[0] - margin) : loud[-1] + margin]
    return (wave * (_PEAK / np.abs(wave).max())).astype(np.float32)


class BankWriter:
    """Appends clips to a bank; what an interrupted run left half written is cut off first.

    Raises:
        ValueError: the bank there was made by another plan.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._index, self._sound = folder / "index.jsonl", folder / "clips.opus"
        there = read_index(folder)
        for clip, plan in zip(there, planned(), strict=False):
            if (clip.written, clip.voice, clip.speed) != (plan.written, plan.voice, plan.speed):
                raise ValueError(
                    f"{folder}: clip {clip.number} is {clip.written!r} by {clip.voice}, the plan says "
                    f"{plan.written!r} by {plan.voice}; make this bank in another folder"
                )
        self.num_clips = len(there)
        self._size = there[-1].offset + there[-1].num_bytes if there else 0
        self._index.write_text("".join(f"{_line(clip)}\n" for clip in there))
        self._sound.touch()
        os.truncate(self._sound, self._size)

    def append(self, clip: Clip, wave: np.ndarray) -> None:
        data = encoded(wave, *_CODEC)
        spans = timed(wave, clip.text)
        clip = replace(clip, seconds=len(wave) / SAMPLE_RATE, offset=self._size, num_bytes=len(data), phonemes=spans)
        with self._sound.open("ab") as sound:
            sound.write(data)
        with self._index.open("a") as index:
            index.write(_line(clip) + "\n")
        self._size += len(data)
        self.num_clips += 1


def make_bank(folder: Path, num_clips: int, say: Callable[[Clip], np.ndarray], apply: Callable = map) -> int:
    """Make a bank, or make it longer, until it holds `num_clips`; returns how many it holds.

    Args:
        say: speaks one clip, `(num_samples,)` float32 at 24 kHz.
        apply: `map`, or `imap` of a pool of processes: results in order.

    Raises:
        ValueError: the bank there was made by another plan.
    """
    bank = BankWriter(folder)
    missing = range(bank.num_clips, num_clips)
    first, again = (itertools.islice(planned(), missing.start, missing.stop) for _ in range(2))
    for clip, wave in track(zip(first, apply(say, again), strict=True), "speaking", len(missing)):
        bank.append(clip, trimmed(wave))
    return bank.num_clips


def _line(clip: Clip) -> str:
    return json.dumps(asdict(clip), ensure_ascii=False)


def read_index(folder: Path) -> list[Clip]:
    """All whole clips of a bank, in order; none where there is no bank. A last line cut short is not whole."""
    path = folder / "index.jsonl"
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    clips = []
    for line in lines:
        fields = json.loads(line)
        fields["phonemes"] = [PhonemeSpan(*span) for span in fields["phonemes"]]
        clips.append(Clip(**fields | {"slots": tuple(fields["slots"])}))
    return clips


class VoiceBank:
    """The clips of one split of a bank.

    Raises:
        ValueError: the bank has no clip of this split.
    """

    def __init__(self, folder: Path, split: str) -> None:
        self.clips = [clip for clip in read_index(folder) if clip.split == split]
        if not self.clips:
            raise ValueError(f"{folder} holds no clip of split {split!r}; make more with make_voice_bank.py")
        self._sound = folder / "clips.opus"
        self._by_content: dict[tuple, list[Clip]] = {}
        for clip in self.clips:
            self._by_content.setdefault((clip.request, clip.slots), []).append(clip)

    def of(self, request: str, slots: tuple[str, ...] = ()) -> list[Clip]:
        """Every clip that puts `request` with these slots."""
        return self._by_content.get((request, slots), [])

    def wave(self, clip: Clip) -> np.ndarray:
        """`(num_samples,)` float32 at 24 kHz."""
        with self._sound.open("rb") as sound:
            sound.seek(clip.offset)
            return decoded(sound.read(clip.num_bytes), round(clip.seconds * SAMPLE_RATE))
