"""Dyads as webdataset shards: what `streamer_pipeline.read_dyads` streams. Same arguments, same bytes."""

import json
import tarfile
from collections.abc import Iterable
from pathlib import Path

from streamer_pipeline.data import shards

from .agent_voice import AgentVoice
from .dyad import Dyad
from .face import eye_boxes, face_box, mouth_box
from .grammar import agent_jsgf, agent_phrases
from .render import render_frames
from .speech_judge import SpeechJudge, reference_thresholds

_TRUTH = ("mouth_open", "blink", "pitch")  # of the agent's motion, to validate judges of pictures with


def members(dyad: Dyad) -> dict[str, bytes]:
    """A dyad's files by extension."""
    labels = dyad.labels()
    labels["held_out_combination"] = dyad.is_held_out_combination
    labels["agent"]["motion"] = {name: [round(float(x), 3) for x in dyad.agent_motion[name]] for name in _TRUTH}
    return {
        "json": json.dumps(labels).encode(),
        "user.flac": shards.encode_sound(dyad.user_audio),
        "agent.flac": shards.encode_sound(dyad.agent_audio),
        "user.mp4": shards.encode_video(render_frames(dyad.user_motion, dyad.user_identity)),
        "agent.mp4": shards.encode_video(render_frames(dyad.agent_motion, dyad.agent_identity)),
    }


def write_shard(path: Path, dyads: Iterable[Dyad]) -> None:
    """Write one shard; it appears under its name only when it is complete."""
    shards.write_shard(path, ((f"{dyad.seed:07d}", members(dyad)) for dyad in dyads))


def shard_contents(path: Path) -> list[tuple[int, str, int]]:
    """(seed, scenario, response_delay) of every dyad in a shard, in order; those without `transcript` are too old."""
    with tarfile.open(path) as tar:
        labels = [json.load(tar.extractfile(member)) for member in tar if member.name.endswith(".json")]
    current = [label for label in labels if "transcript" in label["user"]]
    return [(label["seed"], label["scenario"], label["response_delay"]) for label in current]


def is_built(path: Path, wanted: list[tuple[int, str, int]]) -> bool:
    """Whether a shard is there with all the dyads wanted in it; one that was made for fewer, or is too old, has to be
    built again.

    Raises:
        ValueError: it holds other dyads, from other scenarios or another response delay.
    """
    if not path.exists():
        return False
    there = shard_contents(path)
    if any(have != want for have, want in zip(there, wanted, strict=False)):
        raise ValueError(f"{path} was built with other scenarios or response_delay; build into another folder")
    return len(there) >= len(wanted)


def describe_world(voice: AgentVoice, response_delay: int) -> dict:
    """What is true of every dyad: the judge's grammar and thresholds, and where the agent's face is, who scores it."""
    thresholds = reference_thresholds(SpeechJudge(agent_jsgf()), agent_phrases(), lambda text: voice(text).wave)
    return {
        "grammar": agent_jsgf(),
        "thresholds": thresholds,
        "agent": {"mouth_box": mouth_box(), "face_box": face_box(), "eye_boxes": eye_boxes()},
        "response_delay": response_delay,
        "voice_fingerprint": voice.fingerprint(),
        "rows": "duplex_world.scoring:WorldRows",
    }
