"""Silent and speaking units apart: what a unit costs depends on what is said in it.

A unit is *speaking* where the agent's state is "speak" or it has words, else *silent*. It is *revised*, whichever of
the two it is, where its language came out otherwise than drafted (the state of the unit before, no word), so that the
Transformer passed over the language slots again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from streamer_core import StreamerConfig, StreamerModel
from streamer_pipeline import AgentUnit, StreamerSession, UserUnit

WARM_UP = 10  # units


@dataclass(frozen=True)
class Lived:
    """What is kept of an answered unit.

    latency: stage -> milliseconds. language_passes: passes of the Transformer that chose its language, 1 where it came
    out as drafted; None where they were not counted.
    """

    latency: dict[str, float]
    speaks: bool
    revised: bool
    language_passes: int | None = None


@contextmanager
def count_passes(streamer: StreamerModel) -> Iterator[list[int]]:
    """While this lasts, the one number of the list counts the Transformer's passes in this process."""
    count = [0]

    def add(*_: Any) -> None:
        count[0] += 1

    hook = streamer.model.register_forward_pre_hook(add)
    try:
        yield count
    finally:
        hook.remove()


def live(session: StreamerSession, units: Iterable[UserUnit]) -> list[Lived]:
    """Step a session of this process through units, and count the language passes of each."""
    found, num_others = [], session.options.num_inference_steps + 1  # the solver's, and the one that commits
    with count_passes(session.pipeline.streamer) as count:
        for unit in units:
            count[0] = 0
            answer = session.step(unit)
            passes = count[0] - num_others
            found.append(Lived(answer.latency, speaks(answer), passes > 1, passes))
    return found


def speaks(answer: AgentUnit) -> bool:
    return answer.state == "speak" or bool(answer.text)


def told_by_words(answers: Iterable[AgentUnit], config: StreamerConfig) -> list[Lived]:
    """A conversation's answers from its first unit on, where passes cannot be counted: what they say tells as much."""
    found, state = [], config.state_token_ids[0]
    for answer in answers:
        draft = state, *[config.pad_token_id] * config.agent_text_slots
        state = answer.language[0]
        found.append(Lived(answer.latency, speaks(answer), answer.language != draft))
    return found


def by_kind(values: Sequence[float], units: Sequence[Lived]) -> dict[str, dict[str, float]]:
    """Milliseconds of so many units -> kind -> its units, their share, p50, p99, and language passes where counted.

    Kinds that no unit is of are left out.

    Raises:
        RuntimeError: the agent speaks in none of them.
    """
    if not any(unit.speaks for unit in units):
        raise RuntimeError(
            f"the agent spoke in none of {len(units)} units: give more of them or a checkpoint that answers, or this "
            f"would say what silence costs"
        )
    masks = {
        "all": [True for _ in units],
        "silent": [not unit.speaks for unit in units],
        "speaking": [unit.speaks for unit in units],
        "revised": [unit.revised for unit in units],
    }
    values, passes = np.asarray(values), [unit.language_passes for unit in units]
    found = {}
    for kind, mask in masks.items():
        if not any(mask):
            continue
        p50, p99 = np.percentile(values[mask], (50, 99)).round(2).tolist()
        found[kind] = {"units": sum(mask), "share": round(sum(mask) / len(units), 3), "p50": p50, "p99": p99}
        if None not in passes:
            found[kind]["language_passes"] = round(float(np.mean(np.asarray(passes)[mask])), 3)
    return found
