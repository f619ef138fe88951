"""Why a row that every data set could have is not on this score card."""

from __future__ import annotations

from .dialogue import spoken_runs
from .face import FaceMeter, PictureMeter
from .recorded_conversation import RecordedConversation

_NEEDS_BOTH_SIDES = ("dialogue.taken", "dialogue.latency_median", "dialogue.latency_p90", "dialogue.pause_taken")
_NEEDS_A_FACE = ("lips.in_step", "lips.zero_lag", "listening.brows", "idle.blinks")


def why_absent(key: str, references: list[RecordedConversation], is_heard: bool, meter: FaceMeter) -> str:
    """The reason, to follow "not measured, for".

    Args:
        references: the recorded agents. is_heard: whether a recogniser listens. meter: who reads the agent's face.
    """
    group = key.partition(".")[0]
    reasons = (
        (key == "speech.wer" and not is_heard, "nobody listens: name somebody with --recogniser"),
        (
            group in ("dialogue", "listening") and not any(spoken_runs(c.labels, "user") for c in references),
            "the data set has no words of the user with times",
        ),
        (
            key in _NEEDS_BOTH_SIDES and not any(spoken_runs(c.labels, "agent") for c in references),
            "the data set has no words of the recorded agent with times",
        ),
        (
            key in _NEEDS_A_FACE and isinstance(meter, PictureMeter),
            "nobody finds mouth, eyes and brows in the picture: name somebody with --face or --rows",
        ),
        (group == "idle" and all(c.face is None for c in references), "the recorded agent was not filmed"),
        (group == "endurance", "the long session has fewer than two minutes (--minutes), or nothing to measure"),
        (
            group == "media",
            "the checkpoint encodes no such track, the data set has none, or a package is missing",
        ),
    )
    return next((reason for holds, reason in reasons if holds), "nothing of the kind happened")
