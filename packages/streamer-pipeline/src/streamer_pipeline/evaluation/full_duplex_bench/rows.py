"""The rows of Full-Duplex-Bench, and the scores of many samples."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from ...data.words import Word
from ..scorecard import Row, Scores
from ..statistics import Score, mean, rate
from . import metrics
from .layout import Sample

_HAPPENINGS = {
    "user_interruption": "the user interrupts",
    "user_backchannel": "a back-channel of the user",
    "talking_to_other": "the user talks to somebody else",
    "background_speech": "somebody talks in the background",
}
ROWS = (
    Row("fdb.candor_pause_tor", "takes over in a pause, real speech (low is good)", "%"),
    Row("fdb.synthetic_pause_tor", "takes over in a pause, synthetic speech (low is good)", "%"),
    Row("fdb.turn_tor", "takes its turn (high is good)", "%"),
    Row("fdb.turn_latency", "onset after the user's turn, mean", "ms", 0),
    Row("fdb.interruption_tor", "answers an interruption (high is good)", "%"),
    Row("fdb.interruption_latency", "onset after the interruption, mean", "ms", 0),
    Row("fdb.backchannel_tor", "takes over while the user talks on (low is good)", "%"),
    Row("fdb.backchannel_frequency", "back-channels per second", "", 3),
    Row("fdb.backchannel_divergence", "back-channels, divergence from people (low is good)", "", 3),
    *(
        row
        for subset, what in _HAPPENINGS.items()
        for row in (
            Row(f"fdb15.{subset}_stop", f"{what}: both are heard for, mean", "ms", 0),
            Row(f"fdb15.{subset}_responds", f"{what}: the agent begins to speak afterwards", "%"),
            Row(f"fdb15.{subset}_response", f"{what}: onset afterwards, mean", "ms", 0),
        )
    ),
)
_SUBSET_OF = {
    "fdb.candor_pause_tor": "v1_0/candor_pause_handling",
    "fdb.synthetic_pause_tor": "v1_0/synthetic_pause_handling",
    "fdb.turn": "v1_0/candor_turn_taking",
    "fdb.interruption": "v1_0/synthetic_user_interruption",
    "fdb.backchannel": "v1_0/icc_backchannel",
    **{f"fdb15.{subset}": f"v1_5/{subset}" for subset in _HAPPENINGS},
}


def subset_of(row: Row) -> str:
    """The samples that a row is measured on."""
    return next(subset for prefix, subset in _SUBSET_OF.items() if row.key.startswith(prefix))


@dataclass(frozen=True)
class Output:
    """What an agent did in a sample. moments: what the sample's annotation says, as `rows.scores` wants it; seconds.

    words: with times. segments: where its sound is heard. seconds: how long the input is.
    """

    sample: Sample
    moments: tuple[float, ...]
    words: Sequence[Word]
    segments: Sequence[metrics.Span]
    seconds: float


def scores(outputs: Iterable[Output], truth: dict[str, list[float]]) -> Scores:
    """Every row whose samples are there.

    Args:
        outputs: `moments` holds the end of the user's turn in candor_turn_taking, of the interruption in
            synthetic_user_interruption, and start and end of what happens in v1.5.
        truth: of icc_backchannel, by sample; {} where nobody knows it.
    """
    of: dict[str, list[Output]] = {}
    for output in outputs:
        of.setdefault(f"{output.sample.version}/{output.sample.subset}", []).append(output)

    def some(subset: str) -> list[Output]:
        return of.get(subset, [])

    found = {
        "fdb.candor_pause_tor": _takeover_rate(some("v1_0/candor_pause_handling")),
        "fdb.synthetic_pause_tor": _takeover_rate(some("v1_0/synthetic_pause_handling")),
        "fdb.turn_tor": _takeover_rate(some("v1_0/candor_turn_taking")),
        "fdb.turn_latency": _latency(some("v1_0/candor_turn_taking"), lambda output: output.words),
    }
    interrupted = some("v1_0/synthetic_user_interruption")
    found["fdb.interruption_tor"] = rate([metrics.takes_over(_afterwards(output)) for output in interrupted])
    found["fdb.interruption_latency"] = _latency(interrupted, _afterwards)
    found |= _backchannel_scores(some("v1_0/icc_backchannel"), truth)
    for subset in _HAPPENINGS:
        found |= _overlap_scores(subset, some(f"v1_5/{subset}"))
    return found


def _takeover_rate(outputs: list[Output]) -> Score:
    return rate([metrics.takes_over(output.words) for output in outputs])


def _afterwards(output: Output) -> list[Word]:
    return metrics.words_after(output.words, output.moments[0])


def _latency(outputs: list[Output], words_of: Callable[[Output], Sequence[Word]]) -> Score:
    """Mean over the samples in which the agent takes over."""
    spoken = [(words_of(output), output.moments[0]) for output in outputs]
    return mean([1000 * metrics.latency(words, moment) for words, moment in spoken if metrics.takes_over(words)])


def _backchannel_scores(outputs: list[Output], truth: dict[str, list[float]]) -> Scores:
    found = [metrics.backchannels(output.segments, output.words) for output in outputs]
    pairs = [(did.times, truth.get(output.sample.folder.name)) for did, output in zip(found, outputs, strict=True)]
    frequencies = [len(did.times) / output.seconds for did, output in zip(found, outputs, strict=True)]
    return {
        "fdb.backchannel_tor": rate([did.takes_over for did in found]),
        "fdb.backchannel_frequency": mean(frequencies),
        "fdb.backchannel_divergence": mean([metrics.divergence(times, w) for times, w in pairs if w is not None]),
    }


def _overlap_scores(subset: str, outputs: list[Output]) -> Scores:
    stops = [metrics.stop_latency(output.segments, (output.moments[0], output.moments[1])) for output in outputs]
    responses = [metrics.response_latency(output.segments, output.moments[1]) for output in outputs]
    return {
        f"fdb15.{subset}_stop": mean([1000 * stop for stop in stops if stop is not None]),
        f"fdb15.{subset}_responds": rate([response is not None for response in responses]),
        f"fdb15.{subset}_response": mean([1000 * response for response in responses if response is not None]),
    }
