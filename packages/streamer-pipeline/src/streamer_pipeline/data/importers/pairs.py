"""A folder of pairs: `NAME.user.*` and `NAME.agent.*`, media of any kind and a file of words for each side."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from .conversation import Conversation, Side, Skipped
from .transcripts import SUFFIXES, read_transcript

LOOKED_FOR = (
    f"files NAME.user.* and NAME.agent.*: a recording of each side, and perhaps its words ({', '.join(SUFFIXES[:4])})"
)
_ROLES = ("user", "agent")


def matches(source: Path) -> bool:
    return any(set(sides) >= set(_ROLES) for sides in _sides(source).values())


def read(source: Path) -> Iterator[Conversation | Skipped]:
    for key, sides in sorted(_sides(source).items()):
        missing = [role for role in _ROLES if role not in sides]
        if missing:
            yield Skipped(key, f"there is no file {key}.{missing[0]}.* beside those of the other side")
            continue
        try:
            yield Conversation(key, user=_side(sides["user"]), agent=_side(sides["agent"]))
        except (ValueError, OSError) as error:
            yield Skipped(key, str(error))


def _sides(source: Path) -> dict[str, dict[str, list[Path]]]:
    """Files by name and role."""
    found: dict[str, dict[str, list[Path]]] = {}
    for path in sorted(source.rglob("*")) if source.is_dir() else ():
        name, _, role = path.stem.rpartition(".")
        if name and role in _ROLES and path.is_file():
            key = str(path.parent.relative_to(source) / name)
            found.setdefault(key, {}).setdefault(role, []).append(path)
    return found


def _side(paths: list[Path]) -> Side:
    transcripts = [path for path in paths if path.suffix in SUFFIXES]
    media = tuple(path for path in paths if path.suffix not in (*SUFFIXES, ".txt"))
    if len(transcripts) > 1:
        raise ValueError(f"{' and '.join(map(str, transcripts))} both give the words of one side: leave one of them")
    if not media:
        raise ValueError(f"{paths[0]} has no recording beside it")
    if not transcripts:
        return Side(media)
    transcript = read_transcript(transcripts[0])
    return Side(media, words=transcript.words, speaker=transcript.speaker, start=-transcript.offset)
