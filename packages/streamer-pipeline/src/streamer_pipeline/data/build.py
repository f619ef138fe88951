"""One conversation, as an importer found it, on the clock: dyads of both sides, checked, in files ready for a shard."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np

from ..clock import FRAME_RATE, FRAMES_PER_UNIT, HEIGHT, SAMPLE_RATE, SAMPLES_PER_UNIT, WIDTH
from ..media.recordings import RecordingReader
from .importers.conversation import Conversation, ShardMember, Side
from .shards import VideoEncoder, encode_sound
from .timing import SILENCE_DB, audible_share, loudest_db, measure_leak, stretched
from .transcription import transcribe
from .words import UNIT_SECONDS, Word, agent_language, unit_at

_LARGEST_OFFSET = 0.5  # seconds between two recordings of one conversation: more is no room and no line
_LARGEST_RATE = 0.01  # clocks differ by far less; what differs by more did not run at the same time
_MOST_OVERHANG = 1.0  # seconds that a word may end after the recording
_FEWEST_WORDS, _AUDIBLE_SHARE = 5, 0.5


@dataclass(frozen=True)
class BuildOptions:
    """How conversations become dyads.

    size: height and width of every picture.
    piece_seconds: longer conversations are cut where nobody speaks; 0 keeps them whole.
    max_drift_ms: by how much the two recordings of a conversation, or sound and picture of one side, may run apart.
    drift: what happens to those above: "refuse", "stretch" to the user's clock, or "trim" to what both have.
    swap_roles, both_directions: who is the agent. transcribe, device: a recogniser for words that nobody wrote down.
    """

    size: tuple[int, int] = (HEIGHT, WIDTH)
    piece_seconds: float = 30.0
    max_drift_ms: float = 100.0
    drift: Literal["refuse", "stretch", "trim"] = "refuse"
    swap_roles: bool = False
    both_directions: bool = False
    transcribe: str | None = None
    device: str = "cpu"


@dataclass(frozen=True)
class BuiltDyad:
    """What goes into a shard: files by extension, and what the JSON among them says."""

    key: str
    members: dict[str, Path]
    labels: dict[str, Any]


@dataclass
class _Take:
    """A side in memory: sound (N,) from the conversation's beginning on, and where its picture is to be read."""

    wave: np.ndarray
    words: tuple[Word, ...] | None
    speaker: str | None
    files: list[Path]
    pictures: RecordingReader | None
    start: float
    picture_rate: float = 0.0  # seconds that the picture is late after every second

    @property
    def seconds(self) -> float:
        return len(self.wave) / SAMPLE_RATE

    def stretch(self, offset: float, rate: float) -> None:
        """Onto a clock from whose beginning it is `offset` seconds late, and later by `rate` after every second."""
        first = round(offset * SAMPLE_RATE)
        late = self.wave[first:] if first >= 0 else np.pad(self.wave, (-first, 0))
        self.wave = stretched(late, rate)
        self.start += offset * (1 + self.picture_rate)
        self.picture_rate = (1 + self.picture_rate) * (1 + rate) - 1
        if self.words is not None:
            self.words = tuple(
                Word(w.text, (w.start - offset) / (1 + rate), (w.end - offset) / (1 + rate)) for w in self.words
            )


def build_dyads(conversation: Conversation, options: BuildOptions, folder: Path) -> list[BuiltDyad]:
    """Read, check, align and encode one conversation.

    Args:
        folder: exists; the members of the dyads are written there.

    Raises:
        ValueError: a file cannot be read, is silent or mis-timed; the message is the reason.
    """
    with TemporaryDirectory(dir=folder) as unpacked:
        takes = {
            "user": _load(conversation.user, options, Path(unpacked) / "user"),
            "agent": _load(conversation.agent, options, Path(unpacked) / "agent"),
        }
        timing = _align(takes["user"], takes["agent"], options)
        return list(_write(conversation, takes, timing, options, folder))


def _load(side: Side, options: BuildOptions, unpacked: Path) -> _Take:
    files = [item.extract(unpacked) if isinstance(item, ShardMember) else item for item in side.media]
    readers = [RecordingReader(path, *options.size) for path in files]
    sounds = sorted((r for r in readers if "audio" in r.spans), key=lambda reader: len(reader.spans))
    pictures = [reader for reader in readers if "video" in reader.spans]
    if not sounds:
        raise ValueError(f"{files[0]} has no sound")
    if len(pictures) > 1 or (len(sounds) > 1 and len(sounds[0].spans) == len(sounds[1].spans)):
        raise ValueError(f"{' and '.join(map(str, files))} are two recordings of one side: leave one of them")
    take = _Take(
        _read_sound(sounds[0], side), side.words, side.speaker, files, pictures[0] if pictures else None, side.start
    )
    if side.words is not None:
        take.words = tuple(Word(w.text, w.start - side.start, w.end - side.start) for w in side.words)
    if not len(take.wave):
        raise ValueError(f"{sounds[0].path} ends before second {side.start:.1f}, where the conversation begins")
    if not side.may_be_silent and (level := loudest_db(take.wave)) < SILENCE_DB:
        raise ValueError(f"{sounds[0].path} is silent: its loudest moment is {-level:.0f} dB below full scale")
    if take.pictures is not None and take.pictures is not sounds[0]:
        _match_picture(take, sounds[0], options)
    if take.words is None and options.transcribe is not None:
        take.words = transcribe(take.wave, options.transcribe, options.device)
    _check_words(take, sounds[0].path)
    return take


def _read_sound(reader: RecordingReader, side: Side) -> np.ndarray:
    if side.channel is not None and side.channel >= reader.num_channels:
        raise ValueError(
            f"{reader.path} has {reader.num_channels} channel, and each side needs its own: from a track in which both "
            "speakers are mixed neither voice can be learned, even if the words say who speaks; record or separate the "
            "speakers into two channels or two files"
        )
    first = round(side.start * SAMPLE_RATE)
    end = None if side.duration is None else first + round(side.duration * SAMPLE_RATE)
    pieces, length = [np.zeros(max(0, -first), np.float32)], 0
    for piece in reader.sound(side.channel):
        pieces.append(piece[0].numpy())
        length += piece.shape[1]
        if end is not None and length >= end:
            break
    return np.concatenate(pieces)[max(0, first) : None if end is None else end + max(0, -first)]


def _match_picture(take: _Take, sound: RecordingReader, options: BuildOptions) -> None:
    """Sound and picture of one side in two files."""
    assert take.pictures is not None
    heard, seen = sound.spans["audio"][1], take.pictures.spans["video"][1]
    if abs(seen - heard) * 1000 <= options.max_drift_ms:
        return
    if options.drift == "refuse":
        raise ValueError(
            f"{take.pictures.path} lasts {seen:.2f} s and {sound.path} {heard:.2f} s: sound and picture do not run on "
            "one clock, or one of them broke off"
        )
    if options.drift == "stretch":
        take.picture_rate = seen / heard - 1
    else:
        take.wave = take.wave[: max(0, round((seen - take.start) * SAMPLE_RATE))]


def _check_words(take: _Take, path: Path) -> None:
    if not take.words:
        return
    if (end := max(word.end for word in take.words)) > take.seconds + _MOST_OVERHANG:
        raise ValueError(f"{path} lasts {take.seconds:.1f} s, but its words end after {end:.1f} s: they are mis-timed")
    share = audible_share(take.words, take.wave)
    if len(take.words) >= _FEWEST_WORDS and share < _AUDIBLE_SHARE:
        raise ValueError(f"{path} is mis-timed: something is heard at {share:.0%} of the times of its words only")


def _align(user: _Take, agent: _Take, options: BuildOptions) -> dict[str, Any]:
    """Bring the agent to the user's clock and both to one length; what was measured, for the labels."""
    limit = options.max_drift_ms / 1000
    difference = agent.seconds - user.seconds
    timing = {"length_difference_ms": round(difference * 1000)}
    if not set(user.files) & set(agent.files):  # two channels of one file have one clock
        leak = measure_leak(user.wave, agent.wave)
        offset, rate = (0.0, difference / user.seconds) if leak is None else leak
        drift = rate * user.seconds
        if leak is not None:
            timing |= {"offset_ms": round(offset * 1000), "drift_ms": round(drift * 1000)}
        apart = abs(drift) > limit or abs(offset) > _LARGEST_OFFSET
        if apart and options.drift == "stretch" and abs(rate) <= _LARGEST_RATE:
            agent.stretch(offset, rate)
            timing["stretched"] = True
        elif apart and not (options.drift == "trim" and leak is None):
            raise ValueError(_apart(user, agent, drift, offset, leak is None))
    length = max(len(user.wave), len(agent.wave))
    if abs(len(user.wave) - len(agent.wave)) > limit * SAMPLE_RATE:
        length = min(len(user.wave), len(agent.wave))
    # A millisecond over a whole number of units is rounding, as in `RecordingReader`.
    length = max(1, ceil((length - SAMPLE_RATE // 1000) / SAMPLES_PER_UNIT)) * SAMPLES_PER_UNIT
    for take in (user, agent):
        take.wave = np.pad(take.wave[:length], (0, max(0, length - len(take.wave))))
        if take.words is not None:
            inside = [word for word in take.words if 0 <= word.start < take.seconds]
            take.words = tuple(word._replace(end=min(word.end, take.seconds)) for word in inside)
    return timing


def _apart(user: _Take, agent: _Take, drift: float, offset: float, by_length: bool) -> str:
    if by_length:
        return (
            f"{agent.files[0]} lasts {agent.seconds:.2f} s and {user.files[0]} {user.seconds:.2f} s: they did not run "
            "on one clock, or one of them broke off"
        )
    return (
        f"{agent.files[0]} is {offset * 1000:+.0f} ms off {user.files[0]} at the beginning and drifts by "
        f"{drift * 1000:+.0f} ms until the end, by the voices that are heard in both"
    )


def _write(
    conversation: Conversation, takes: dict[str, _Take], timing: dict[str, Any], options: BuildOptions, folder: Path
) -> Iterator[BuiltDyad]:
    """Encode every piece once, and name its files by the roles of every direction wanted."""
    directions = (False, True) if options.both_directions else (options.swap_roles,)
    for swapped in directions:
        agent = takes["user" if swapped else "agent"]
        if agent.words is None:
            raise ValueError(
                f"nobody wrote down the words of {agent.files[0]}, who is to be the agent: put them beside it, or let "
                f"--transcribe MODEL write them"
            )
    bounds = _piece_bounds(takes, options.piece_seconds)
    media = {role: _encode(take, role, conversation.key, bounds, folder) for role, take in takes.items()}
    for swapped in directions:
        recorded = {"user": "agent", "agent": "user"} if swapped else {"user": "user", "agent": "agent"}
        for index, (first, end) in enumerate(bounds):
            is_whole = len(bounds) == 1 and not swapped
            labels = {
                **(conversation.labels if is_whole else {}),
                "conversation": conversation.key,
                "first_unit": first,
                "num_units": end - first,
                "split": conversation.split,
                "swapped": swapped,
                "timing": timing,
            }
            for role, side in recorded.items():
                labels[role] = {**labels.get(role, {}), **_side_labels(takes[side], first, end)}
            language = agent_language((Word(*word) for word in labels["agent"]["transcript"]), end - first)
            told = {"words": language.words, "speaking": list(map(int, language.speaking))}
            labels["agent"] = told | labels["agent"]  # a source that says it itself knows better
            key = conversation.key + "-swapped" * swapped + f"-{index:03d}" * (len(bounds) > 1)
            members = {"json": folder / f"{key}.json"}
            members["json"].write_text(json.dumps(labels, ensure_ascii=False), encoding="utf-8")
            for role, side in recorded.items():
                members |= {f"{role}.{kind}": path for kind, path in media[side][index].items()}
            yield BuiltDyad(key, members, labels)


def _side_labels(take: _Take, first: int, end: int) -> dict[str, Any]:
    transcript = None
    if take.words is not None:
        begin, finish = first * UNIT_SECONDS, end * UNIT_SECONDS
        transcript = [
            [word.text, round(word.start - begin, 3), round(min(word.end, finish) - begin, 3)]
            for word in take.words
            if begin <= word.start < finish
        ]
    return {"speaker": take.speaker, "has_picture": take.pictures is not None, "transcript": transcript}


def _piece_bounds(takes: dict[str, _Take], piece_seconds: float) -> list[tuple[int, int]]:
    """[first, end) units of every piece, cut where nobody speaks if there is such a moment near."""
    num_units = len(takes["user"].wave) // SAMPLES_PER_UNIT
    longest = max(1, int(piece_seconds / UNIT_SECONDS)) if piece_seconds else num_units
    busy = np.zeros(num_units + 1, bool)
    for take in takes.values():
        for word in take.words or ():
            busy[unit_at(word.start) : unit_at(word.end) + 1] = True
    bounds, first = [], 0
    while first < num_units:
        left = num_units - first
        wanted = ceil(left / ceil(left / longest))
        cuts = range(first + max(1, wanted * 3 // 4), first + min(longest, left) + 1)
        quiet = [cut for cut in cuts if not busy[cut]]
        end = (
            num_units if left <= longest else min(quiet or [first + wanted], key=lambda cut: abs(cut - first - wanted))
        )
        bounds.append((first, end))
        first = end
    return bounds


def _encode(take: _Take, role: str, key: str, bounds: Sequence[tuple[int, int]], folder: Path) -> list[dict[str, Path]]:
    """Sound and picture of every piece, by extension."""
    frames = _frames(take)
    encoded = []
    for index, (first, end) in enumerate(bounds):
        stem = folder / f"{key}-{index:03d}.{role}"
        media = {"flac": stem.with_name(f"{stem.name}.flac")}
        media["flac"].write_bytes(encode_sound(take.wave[first * SAMPLES_PER_UNIT : end * SAMPLES_PER_UNIT]))
        if take.pictures is not None:
            encoder = VideoEncoder(take.pictures.height, take.pictures.width)
            for _ in range((end - first) * FRAMES_PER_UNIT):
                encoder.write(next(frames))
            media["mp4"] = stem.with_name(f"{stem.name}.mp4")
            media["mp4"].write_bytes(encoder.finish())
        encoded.append(media)
    return encoded


def _frames(take: _Take) -> Iterator[np.ndarray]:
    """uint8 (H, W, 3) at 25 fps from the conversation's beginning on, the last one held for ever."""
    assert take.pictures is not None
    pictures, shown = take.pictures.pictures(), -1
    frame, following = None, next(pictures, None)
    number = 0
    while True:
        wanted = round((take.start + number / FRAME_RATE * (1 + take.picture_rate)) * FRAME_RATE)
        while following is not None and (shown < wanted or frame is None):
            frame, following, shown = following, next(pictures, None), shown + 1
        if frame is None:
            raise ValueError(f"{take.pictures.path} has a picture of which no frame can be read")
        yield ((frame[:, 0] + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
        number += 1
