"""Why a row that every data set could have is not on this score card."""

from __future__ import annotations

from .dialogue import spoken_runs
from .face import FaceTracks, is_there
from .recorded_conversation import RecordedConversation
from .speech import said_by_user

_NEEDS_BOTH_SIDES = ("dialogue.taken", "dialogue.latency_median", "dialogue.latency_p90", "dialogue.pause_taken")
_READ_FROM_THE_FACE = {
    "lips.in_step": "mouth",
    "lips.zero_lag": "mouth",
    "listening.brows": "brows",
    "idle.blinks": "eyes",
    "face.found": "found",
    "face.kept": "identity",
    "face.recorded": "identity",
    "endurance.identity": "identity",
}
_NAMES = {
    "mouth": "the mouth",
    "brows": "the brows",
    "eyes": "the eyes",
    "found": "a face",
    "identity": "whose face it is",
}


def why_absent(key: str, references: list[RecordedConversation], is_heard: bool, faces: list[FaceTracks]) -> str:
    """The reason, to follow "not measured, for".

    Args:
        references: the recorded agents. is_heard: whether a recogniser listens. faces: of the agent.
    """
    group = key.partition(".")[0]
    name = _READ_FROM_THE_FACE.get(key)
    tracks = [track for face in faces if name and (track := getattr(face, name)) is not None]
    reasons = (
        (key == "speech.wer" and not is_heard, "nobody listens: name somebody with --recogniser"),
        (
            key == "hearing.wer" and any(said_by_user(c) for c in references),
            "the agent does not write down what it hears: its checkpoint was not trained to (hears_words)",
        ),
        (
            key == "hearing.wer",
            "the data set has no words of the user",
        ),
        (
            group in ("dialogue", "listening")
            and not any("transcript" in c.labels.get("user", {}) for c in references),
            "the dyads have no label transcript, as those made before it was stored: make the data set again",
        ),
        (
            group in ("dialogue", "listening") and not any(spoken_runs(c.labels, "user") for c in references),
            "the data set has no words of the user with times",
        ),
        (
            key in _NEEDS_BOTH_SIDES and not any(spoken_runs(c.labels, "agent") for c in references),
            "the data set has no words of the recorded agent with times",
        ),
        (
            name is not None and not tracks,
            f"nobody reads {_NAMES.get(name or '')} in the picture: name somebody with --face or --rows",
        ),
        (
            name is not None and not any(is_there(track) for track in tracks),
            "no conversation of the agent shows a face in nine of ten frames",
        ),
        (
            group in ("idle", "face") and all(c.face is None for c in references),
            "the recorded agent was not filmed",
        ),
        (group == "endurance", "the long session has fewer than two minutes (--minutes), or nothing to measure"),
        (
            group == "media",
            "the checkpoint encodes no such track, the data set has none, or a package is missing",
        ),
    )
    return next((reason for holds, reason in reasons if holds), "nothing of the kind happened")
