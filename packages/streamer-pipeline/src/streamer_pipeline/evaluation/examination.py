"""The whole examination of a checkpoint: which agents and which users are run, and on what they are scored."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from ..pipeline import StreamerPipeline
from . import controls
from .answers import Ear
from .closed_loop import CountingSolver, SeparateSolver, converse, through_vaes, with_solver, without_picture
from .endurance import as_records, endurance_scores, live_on, mean_silent_face
from .examiner import Examiner
from .face import FaceMeter
from .fidelity import Fidelity
from .recorded_conversation import RecordedConversation, copy_previous, reference, silent
from .rows import ROWS
from .scorecard import ScoreCard, Scores
from .sight import DrawnFaceMeter, agreement
from .statistics import Score, mean

if TYPE_CHECKING:
    from ..data.dyads import StoredDyad

FEW = 3  # dyads of every scenario for what needs no more: ceiling, ablation, users without a question to see

Dyads = Callable[[], Iterable["StoredDyad"]]  # read anew for every pass: all frames of a test set do not fit in memory
CONTROLS = {
    "blank video": controls.blank_video,
    "other video": controls.other_video,
    "muted": controls.muted,
    "shuffled user": controls.shuffled_user,
}
_OF_SIGHT = ("blank video", "other video")


@dataclass(frozen=True)
class Options:
    """per_scenario: dyads of each. num_steps: solver steps, None for the checkpoint's own. minutes: of the long
    session, 0 leaves it out. batch_size: conversations at once."""

    per_scenario: int = 10
    num_steps: int | None = None
    seed: int = 0
    minutes: float = 3.0
    batch_size: int = 8


def select(dyads: Iterable[StoredDyad], per_scenario: int, at_most: int | None = None) -> Iterator[StoredDyad]:
    """The first so many dyads of every scenario, in order; `at_most` saves reading on when all are found."""
    seen: Counter[str] = Counter()
    for dyad in dyads:
        seen[dyad.labels["scenario"]] += 1
        if seen[dyad.labels["scenario"]] <= per_scenario:
            yield dyad
        if sum(min(num, per_scenario) for num in seen.values()) == at_most:
            return


class Examination:
    """Runs a checkpoint against a test set and fills a `ScoreCard`.

    Args:
        dyads: gives the test set, from its beginning, at every call.
        world: the data set's `dataset_info.json`: grammar, thresholds, boxes of the agent's face.
    """

    def __init__(self, dyads: Dyads, world: dict, options: Options, console: Console) -> None:
        self._all, self._options, self._console = dyads, options, console
        self._meter = DrawnFaceMeter(world["agent"])
        self._num_dyads: int | None = None  # known once all have been read
        self._references = self._look_at_recordings()
        self._num_dyads = len(self._references)
        if not self._references:
            raise ValueError("the test set is empty: check its folder and split")
        self._conversations: dict[str, list[RecordedConversation]] = {}  # of agents seen and heard on every dyad
        self._examiner = Examiner(Ear(world), self._references)
        self.card = ScoreCard(ROWS, chance=self._examiner.chance, run=asdict(options))
        self._fill("recordings", self._references)
        self.card.columns["recordings"] |= _means(self._agreements)
        self._fill("silent", [silent(p) for p in self._references])
        self._fill("copy previous", copy_previous(self._references))

    def _dyads(self) -> Iterator[StoredDyad]:
        return select(self._all(), self._options.per_scenario, self._num_dyads)

    def _look_at_recordings(self) -> list[RecordedConversation]:
        self._agreements: list[dict[str, float]] = []
        conversations = []
        for dyad in self._track("recordings", self._dyads(), None):
            conversations.append(reference(dyad, self._meter))
            if "motion" in dyad.labels["agent"]:
                self._agreements.append(agreement(conversations[-1].face, dyad.labels["agent"]["motion"]))
        return conversations

    def _fill(self, column: str, conversations: list[RecordedConversation]) -> Scores:
        scores = self._examiner.scores(conversations)
        scores["answers.relative"] = self._examiner.relative(scores)
        self.card.columns[column] = scores
        self.card.by_scenario[column] = self._examiner.by_scenario(conversations)
        return scores

    # ---- the parts of the examination ----

    def agent(self, pipeline: StreamerPipeline, column: str = "agent", num_steps: int | None = None) -> None:
        """The checkpoint itself, seen and heard on every dyad."""
        solver = CountingSolver(pipeline.scheduler)
        steps = self._options.num_steps if num_steps is None else num_steps
        conversations = self._converse(with_solver(pipeline, solver), column, self._dyads(), self._meter, steps)
        self._conversations[column] = conversations
        self._fill(column, conversations)["cost.passes"] = Score(solver.passes_per_unit, n=solver.num_units)

    def ceiling(self, pipeline: StreamerPipeline) -> None:
        """The recorded agent through the VAEs: the best that its latents allow, and how much they keep."""
        fidelity, agreements, conversations = Fidelity(), [], []
        for dyad in self._track("ceiling", self._few(), None):
            audio, video = through_vaes(pipeline, dyad)
            fidelity.add(dyad.agent_audio, audio, dyad.agent_video, video)
            recorded = reference(dyad)
            face = self._meter(video)
            conversations.append(RecordedConversation(dyad.key, dyad.labels, audio[0].numpy(), recorded.texts, face))
            if "motion" in dyad.labels["agent"]:
                agreements.append(agreement(face, dyad.labels["agent"]["motion"]))
        scores = self._fill("ceiling", conversations) | fidelity.scores()
        self.card.columns["ceiling"] = scores | _means(agreements)

    def separate_denoising(self, pipeline: StreamerPipeline) -> None:
        """Sound and picture solved without each other."""
        apart = with_solver(pipeline, SeparateSolver(pipeline.scheduler))
        conversations = self._converse(apart, "separate", self._few(), self._meter, self._options.num_steps)
        self._fill("separate", conversations)

    def controls(self, pipeline: StreamerPipeline) -> None:
        """Users that a fair agent must fail, in the scenarios that they concern; nobody looks at the agent."""
        blind = without_picture(pipeline)
        for column, control in CONTROLS.items():
            concerned = filter(_needs_eyes, self._dyads()) if column in _OF_SIGHT else self._few()
            conversations = self._converse(blind, column, control(concerned), None, self._options.num_steps)
            self._fill(column, conversations)
        agent = self.card.columns["agent"]
        for column in _OF_SIGHT:
            agent[f"sight.{column.split()[0]}"] = self.card.columns[column]["sight.text"]

    def acoustic_loop(self, pipeline: StreamerPipeline) -> None:
        """The agent's own sound in the user's microphone; beside it the same dyads of the agent's run without."""
        blind, steps = without_picture(pipeline), self._options.num_steps
        conversations = self._converse(blind, "hears itself", self._few(), None, steps, hears_itself=True)
        seeds = {p.labels["seed"] for p in conversations}
        self._fill(
            "without loop", [replace(p, face=None) for p in self._conversations["agent"] if p.labels["seed"] in seeds]
        )
        scores = self._fill("hears itself", conversations)
        self.card.columns["agent"] |= {
            "loop.text": scores["answers.text"],
            "loop.false_starts": scores["turns.false_starts"],
        }

    def long_session(self, pipeline: StreamerPipeline) -> None:
        """One conversation of many minutes, if there is to be one."""
        options = self._options
        if options.minutes <= 0:
            return
        face = mean_silent_face(self._few(), self._meter)
        passing = live_on(pipeline, self._dyads, options.minutes, self._meter, face, options.seed, options.num_steps)
        minutes = list(self._track("long session (minutes)", passing, int(options.minutes)))
        self.card.minutes = as_records(minutes)
        self.card.columns["agent"] |= endurance_scores(minutes)

    # ---- how they are run ----

    def _few(self) -> Iterator[StoredDyad]:
        few = min(FEW, self._options.per_scenario)
        scenarios = Counter(p.labels["scenario"] for p in self._references)
        return select(self._all(), few, sum(min(num, few) for num in scenarios.values()))

    def _converse(
        self,
        pipeline: StreamerPipeline,
        what: str,
        dyads: Iterable[StoredDyad],
        meter: FaceMeter | None,
        num_steps: int | None,
        hears_itself: bool = False,
    ) -> list[RecordedConversation]:
        options = self._options
        talking = converse(pipeline, dyads, meter, options.seed, num_steps, options.batch_size, hears_itself)
        conversations = self._track(what, talking, len(self._references))
        return sorted(conversations, key=lambda p: p.labels["seed"])

    def _track(self, what: str, things: Iterable, total: int | None) -> Iterator:
        columns = TextColumn("{task.description:>24}"), BarColumn(), MofNCompleteColumn()
        with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=self._console) as progress:
            yield from progress.track(things, total=total, description=what)


def _needs_eyes(dyad: StoredDyad) -> bool:
    return any(expected["needs_vision"] for expected in dyad.labels["expect"])


def _means(agreements: list[dict[str, float]]) -> Scores:
    return {f"judges.{name}": mean([a[name] for a in agreements if name in a]) for name in ("mouth", "eyes")}
