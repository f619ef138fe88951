"""What can be had without perceiving the user: agents that copy, and users that are shown in the dark or as another."""

from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np
import torch
from streamer_pipeline.clock import FRAMES_PER_UNIT, SAMPLES_PER_UNIT
from streamer_pipeline.data.dyads import StoredDyad
from streamer_pipeline.evaluation.controls import UserMedia
from streamer_pipeline.evaluation.recorded_conversation import RecordedConversation


def blank_video(dyads: Iterable[StoredDyad]) -> Iterator[StoredDyad]:
    """The user is heard in the dark."""
    return (replace(dyad, user_video=torch.full_like(dyad.user_video, -1.0)) for dyad in dyads)


def other_video(dyads: Iterable[StoredDyad]) -> Iterator[StoredDyad]:
    """The user is seen as in the dyad before of the same scenario. The first of each scenario is left out."""
    latest: dict[str, UserMedia] = {}
    for dyad in dyads:
        if (other := latest.get(dyad.labels["scenario"])) is not None:
            yield replace(dyad, user_video=other.video(FRAMES_PER_UNIT * dyad.num_units))
        latest[dyad.labels["scenario"]] = UserMedia.of(dyad)


def copy_previous(conversations: list[RecordedConversation]) -> list[RecordedConversation]:
    """An agent that answers in time, but what was right in the dyad before (of the same scenario, where there is one).

    What it gets right by this is what can be had without perceiving the user.
    """
    latest: dict[str, RecordedConversation] = {}
    copies = []
    for conversation in conversations:
        scenario = conversation.labels["scenario"]
        if scenario in latest:
            copies.append(_with_speech_of(conversation, latest[scenario]))
        latest[scenario] = conversation
    return copies


def _with_speech_of(conversation: RecordedConversation, other: RecordedConversation) -> RecordedConversation:
    """`other`'s utterances at the times of `conversation`'s; the last utterances correspond."""
    wave, texts = np.zeros_like(conversation.wave), [""] * len(conversation.texts)
    segments = conversation.labels["agent"]["segments"], other.labels["agent"]["segments"]
    for mine, theirs in zip(*(reversed(segment) for segment in segments), strict=False):
        first, source = mine["first_unit"], slice(theirs["first_unit"], theirs["end_unit"])
        spoken = other.wave[source.start * SAMPLES_PER_UNIT : source.stop * SAMPLES_PER_UNIT]
        room = wave[first * SAMPLES_PER_UNIT :][: len(spoken)]
        room += spoken[: len(room)]
        words = other.texts[source][: len(texts) - first]
        texts[first : first + len(words)] = words
    return RecordedConversation(conversation.key, conversation.labels, wave, texts)
