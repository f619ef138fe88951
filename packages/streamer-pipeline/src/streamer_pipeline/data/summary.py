"""What a set of dyads holds: hours, turns, overlaps, words, share of speech; and two plots of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypedDict

from .words import UNIT_SECONDS, Word, utterances

ROLES = ("user", "agent")


class DyadNumbers(TypedDict):
    """Of one dyad. words, speech (seconds): by role, None where nobody wrote down the words. The rest counts what is
    known of both sides. turns: utterances that begin after the other side was heard. gaps: seconds from the end of one
    side's utterance to the beginning of the other's turn, by who begins; below 0 they overlap. overlaps: how often both
    speak at once, overlap_seconds: how long."""

    key: str
    conversation: str
    split: str
    seconds: float
    words: dict[str, int | None]
    speech: dict[str, float | None]
    turns: int
    gaps: dict[str, list[float]]
    overlaps: int
    overlap_seconds: float


def measure(key: str, labels: dict[str, Any]) -> DyadNumbers:
    """The numbers of a dyad, from the labels that are stored with it."""
    transcripts = {role: labels[role]["transcript"] for role in ROLES}
    spans = {
        role: [
            (run[0].start, max(word.end for word in run))
            for run in utterances(Word(*word) for word in transcript or ())
        ]
        for role, transcript in transcripts.items()
    }
    speech = {role: None if transcripts[role] is None else sum(e - s for s, e in spans[role]) for role in ROLES}
    overlaps = [
        min(user[1], agent[1]) - max(user[0], agent[0])
        for user in spans["user"]
        for agent in spans["agent"]
        if min(user[1], agent[1]) > max(user[0], agent[0])
    ]
    gaps: dict[str, list[float]] = {role: [] for role in ROLES}
    turns, last_role, last_end = 0, "", 0.0
    for start, end, side in sorted((*span, role) for role in ROLES for span in spans[role]):
        if side != last_role:
            turns += 1
            if last_role:
                gaps[side].append(round(start - last_end, 3))
            last_role, last_end = side, end
        last_end = max(last_end, end)
    return DyadNumbers(
        key=key,
        conversation=labels["conversation"],
        split=labels["split"],
        seconds=labels["num_units"] * UNIT_SECONDS,
        words={role: None if transcripts[role] is None else len(transcripts[role]) for role in ROLES},
        speech=speech,
        turns=turns,
        gaps=gaps,
        overlaps=len(overlaps),
        overlap_seconds=sum(overlaps),
    )


def summarize(dyads: Sequence[DyadNumbers]) -> dict[str, float | int | None]:
    """The numbers of many dyads as one."""
    seconds = sum(dyad["seconds"] for dyad in dyads)
    summary: dict[str, float | int | None] = {
        "conversations": len({dyad["conversation"] for dyad in dyads}),
        "dyads": len(dyads),
        "hours": round(seconds / 3600, 3),
        "turns": sum(dyad["turns"] for dyad in dyads),
        "overlaps": sum(dyad["overlaps"] for dyad in dyads),
        "overlap_share": round(sum(dyad["overlap_seconds"] for dyad in dyads) / seconds, 4) if seconds else None,
    }
    for role in ROLES:
        known = [dyad for dyad in dyads if dyad["words"][role] is not None]
        known_seconds = sum(dyad["seconds"] for dyad in known)
        summary[f"{role}_words"] = sum(dyad["words"][role] or 0 for dyad in known) if known else None
        speech = sum(dyad["speech"][role] or 0 for dyad in known)
        summary[f"{role}_speech_share"] = round(speech / known_seconds, 4) if known_seconds else None
    return summary


def plot_summary(dyads: Iterable[DyadNumbers], path: Path) -> None:
    """Two plots in one picture: how long after the other each side begins its turns, and how much each side speaks."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    dyads = list(dyads)
    figure = Figure(figsize=(10, 3.6), layout="constrained")
    FigureCanvasAgg(figure)  # no global state
    gaps, shares = figure.subplots(1, 2)
    for role in ROLES:
        found = [min(max(gap, -2.0), 4.0) for dyad in dyads for gap in dyad["gaps"][role]]
        gaps.hist(found, bins=[-2 + 0.16 * i for i in range(39)], alpha=0.6, label=f"{role} begins")
        spoken = [dyad["speech"][role] for dyad in dyads]
        heard = [s / dyad["seconds"] for s, dyad in zip(spoken, dyads, strict=True) if s is not None]
        shares.hist(heard, bins=[0.05 * i for i in range(21)], alpha=0.6, label=role)
    gaps.axvline(0, color="black", linewidth=0.8)
    gaps.set(xlabel="seconds after the other side's last word; below 0 they overlap", ylabel="turns")
    shares.set(xlabel="share of a dyad in which the side speaks", ylabel="dyads")
    for panel in (gaps, shares):
        panel.legend(fontsize="small")
    figure.savefig(path, dpi=110)
