"""Conversations of the world as folders of Full-Duplex-Bench, for `wan-streamer eval --benchmark full-duplex-bench`.

Sound alone: questions that need eyes are left out. Speech is synthetic, whatever the benchmark calls a subset. Nobody
here gives back-channels while listening, so there is no icc_backchannel.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from streamer_pipeline.data.words import Word

from .agent_voice import AgentVoice
from .clock import SAMPLE_RATE, UNIT_SECONDS
from .dyad import Dyad, build_dyad
from .script import UserSegment
from .splits import SPLIT_SIZE, SPLITS

_HEARD_BY_EAR = ("greet", "name", "plus", "bye", "myname")
_FIRST_SEED = SPLITS.index("test") * SPLIT_SIZE + 600_000  # unseen people, not those of the score card
_INTO_THE_COUNT = 5 * UNIT_SECONDS  # after the agent began to count, somebody else is heard
_FAR_AWAY = 0.25  # of the amplitude of who speaks to the microphone


@dataclass(frozen=True, eq=False)
class BenchmarkSample:
    """One folder: what is heard, what its annotation says, and what the recorded agent does.

    user, clean, agent: `(N,)` at 24 kHz; `clean` is without what happens in `user`, None in v1.0. annotation: name of
    its file, and what it holds. words: of the agent.
    """

    version: str
    subset: str
    user: np.ndarray
    clean: np.ndarray | None
    annotation: tuple[str, Any]
    agent: np.ndarray
    words: list[Word]

    def write(self, folder: Path) -> None:
        """`input.wav`, the annotation, and `clean_input.wav` if there is one."""
        folder.mkdir(parents=True, exist_ok=True)
        soundfile.write(folder / "input.wav", self.user, SAMPLE_RATE)
        if self.clean is not None:
            soundfile.write(folder / "clean_input.wav", self.clean, SAMPLE_RATE)
        name, content = self.annotation
        (folder / name).write_text(json.dumps(content, indent=1) + "\n")


def export_full_duplex_bench(folder: Path, num_samples: int, voice: AgentVoice | None = None) -> int:
    """Write so many samples of every subset that the world has; how many in all."""
    samples = list(benchmark_samples(num_samples, voice))
    for index, sample in enumerate(samples):
        sample.write(folder / sample.version / sample.subset / str(1 + index % num_samples))
    return len(samples)


def benchmark_samples(num_samples: int, voice: AgentVoice | None = None) -> Iterator[BenchmarkSample]:
    """`num_samples` of every subset, one subset after the other; the same arguments always give the same."""
    voice = voice or AgentVoice()
    for make in (_pause, _turn, _interruption, _overlap("interrupt"), _overlap("backchannel"), *_SOMEBODY_ELSE):
        for index in range(num_samples):
            yield make(_FIRST_SEED + index, voice)


def _pause(seed: int, voice: AgentVoice) -> BenchmarkSample:
    """It ends with the user's words, so that whatever the agent says is said too early."""
    dyad = build_dyad(seed, "pause", voice)
    part, question = dyad.user_segments
    pause = [{"text": part.text, "timestamp": [part.end, question.start]}]
    return _cut(dyad, "synthetic_pause_handling", ("pause.json", pause), question.end)


def _turn(seed: int, voice: AgentVoice) -> BenchmarkSample:
    dyad = build_dyad(seed, _HEARD_BY_EAR[seed % len(_HEARD_BY_EAR)], voice)
    said = dyad.user_segments[0]
    turn = [{"text": said.text, "timestamp": [said.end, said.end]}]
    return _cut(dyad, "candor_turn_taking", ("turn_taking.json", turn))


def _interruption(seed: int, voice: AgentVoice) -> BenchmarkSample:
    dyad = build_dyad(seed, "interrupt", voice)
    asked, stop = dyad.user_segments
    said = [{"context": asked.text, "interrupt": stop.text, "timestamp": [stop.start, stop.end]}]
    return _cut(dyad, "synthetic_user_interruption", ("interrupt.json", said))


def _cut(dyad: Dyad, subset: str, annotation: tuple[str, Any], end: float | None = None) -> BenchmarkSample:
    length = len(dyad.user_audio) if end is None else round(end * SAMPLE_RATE)
    words = [word for word in dyad.agent_transcript if word.start < length / SAMPLE_RATE]
    return BenchmarkSample("v1_0", subset, dyad.user_audio[:length], None, annotation, dyad.agent_audio[:length], words)


def _overlap(scenario: str) -> Callable[[int, AgentVoice], BenchmarkSample]:
    """The user says something while the agent counts."""

    def make(seed: int, voice: AgentVoice) -> BenchmarkSample:
        dyad = build_dyad(seed, scenario, voice)
        said = dyad.user_segments[1]
        clean = dyad.user_audio.copy()
        clean[_samples(said)] = 0
        subset = {"interrupt": "user_interruption", "backchannel": "user_backchannel"}[scenario]
        return _happening(dyad, subset, dyad.user_audio, clean, (said.start, said.end))

    return make


def _somebody_else(subset: str, level: float) -> Callable[[int, AgentVoice], BenchmarkSample]:
    """Words that are not for the agent are heard while it counts; it goes on."""

    def make(seed: int, voice: AgentVoice) -> BenchmarkSample:
        dyad, other = build_dyad(seed, "count", voice), build_dyad(seed, "overheard", voice)
        start = dyad.agent_segments[0].first_unit * UNIT_SECONDS + _INTO_THE_COUNT
        said = level * other.user_audio[_samples(other.user_segments[0])]
        heard, first = dyad.user_audio.copy(), round(start * SAMPLE_RATE)
        room = heard[first : first + len(said)]
        room += said[: len(room)]
        end = (first + len(room)) / SAMPLE_RATE
        return _happening(dyad, subset, heard.clip(-1, 1), dyad.user_audio, (first / SAMPLE_RATE, end))

    return make


_SOMEBODY_ELSE = (_somebody_else("talking_to_other", 1.0), _somebody_else("background_speech", _FAR_AWAY))


def _happening(
    dyad: Dyad, subset: str, heard: np.ndarray, clean: np.ndarray, when: tuple[float, float]
) -> BenchmarkSample:
    metadata = {"timestamps": list(when)}
    return BenchmarkSample(
        "v1_5", subset, heard, clean, ("metadata.json", metadata), dyad.agent_audio, dyad.agent_transcript
    )


def _samples(said: UserSegment) -> slice:
    return slice(round(said.start * SAMPLE_RATE), round(said.end * SAMPLE_RATE))
