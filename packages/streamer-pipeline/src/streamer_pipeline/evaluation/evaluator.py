"""The whole evaluation of a checkpoint: which agents and which users are run, and on what they are scored."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from ..clock import HEIGHT, WIDTH
from ..pipeline import StreamerPipeline
from .absent import why_absent
from .closed_loop import CountingSolver, SeparateSolver, black, converse, through_vaes, with_solver, without_picture
from .controls import muted, shuffled_user
from .conversation_store import ConversationStore
from .dialogue import dialogue_scores
from .endurance import as_records, endurance_scores, live_on, mean_silent_face
from .face import FaceMeter, PictureMeter
from .fidelity import Fidelity
from .identity import identity_scores
from .lips import lip_scores
from .liveliness import idle_scores, listening_scores
from .recognisers import Recogniser
from .recorded_conversation import RecordedConversation, reference, silent
from .row_set import Control, RowSet
from .rows import ROWS
from .scorecard import ScoreCard, Scores
from .speech import hearing_scores, level_scores, understood, word_error_rate
from .statistics import Score

if TYPE_CHECKING:
    from ..data.dyads import StoredDyad

FEW = 3  # dyads of every scenario for what needs no more: ceiling, ablation, most controls

Dyads = Callable[[], Iterable["StoredDyad"]]  # read anew for every pass: all frames of a test set do not fit in memory
CONTROLS = {"muted": Control(muted), "shuffled user": Control(shuffled_user)}
_LISTENED_TO = ("agent", "teacher", "recordings", "ceiling")  # columns whose sound is written down


@dataclass(frozen=True)
class Options:
    """per_scenario: dyads of each; of a data set without scenarios so many in all. num_steps: solver steps, None for
    the checkpoint's own. minutes: of the long session, 0 leaves it out. batch_size: conversations at once."""

    per_scenario: int = 10
    num_steps: int | None = None
    seed: int = 0
    minutes: float = 3.0
    batch_size: int = 8


def scenario_of(labels: dict[str, Any]) -> str:
    """ "" where a data set has no scenarios."""
    return labels.get("scenario", "")


def select(dyads: Iterable[StoredDyad], per_scenario: int, at_most: int | None = None) -> Iterator[StoredDyad]:
    """The first so many dyads of every scenario, in order; `at_most` saves reading on when all are found."""
    seen: Counter[str] = Counter()
    for dyad in dyads:
        seen[scenario_of(dyad.labels)] += 1
        if seen[scenario_of(dyad.labels)] <= per_scenario:
            yield dyad
        if sum(min(num, per_scenario) for num in seen.values()) == at_most:
            return


def _size(info: dict[str, Any]) -> tuple[int, int]:
    size = info.get("size", [HEIGHT, WIDTH])
    if isinstance(size, list) and len(size) == 2 and all(isinstance(side, int) and side > 0 for side in size):
        return size[0], size[1]
    raise ValueError(f"size in dataset_info.json should be [height, width] in pixels; got {size!r}")


class Evaluator:
    """Runs a checkpoint against a test set and fills a `ScoreCard`.

    Args:
        dyads: gives the test set, from its beginning, at every call.
        info: the data set's `dataset_info.json`.
        row_set: what the data set brings of its own.
        recogniser: writes down what the agent's sound says; without one there is no word error rate.
        face_meter: reads the agent's face, instead of the row set's.
        store: where conversations are kept as they end, and those that it holds are not held again.
        part: (i, n), for a process that fills the store beside others: talks to every n-th dyad from the i-th on, and
            scores nothing.

    Raises:
        ValueError: the test set is empty, or its labels or its dataset_info.json are not as they should be.
    """

    def __init__(
        self,
        dyads: Dyads,
        info: dict[str, Any],
        options: Options,
        console: Console,
        row_set: RowSet | None = None,
        recogniser: Recogniser | None = None,
        face_meter: FaceMeter | None = None,
        store: ConversationStore | None = None,
        part: tuple[int, int] | None = None,
    ) -> None:
        self._all, self._options, self._console = dyads, options, console
        self._row_set, self._recogniser, self._store, self._part = row_set, recogniser, store, part
        self._meter = face_meter or (row_set and row_set.face_meter) or PictureMeter()
        self._unseen = black(*_size(info))
        self._num_dyads: int | None = None  # known once all have been read
        recorded = self._track("recordings", self._dyads(), None)
        self._references = [self._reference(dyad) for dyad in recorded]
        self._num_dyads = len(self._references)
        if not self._references:
            raise ValueError("the test set is empty: check its folder and split")
        self._conversations: dict[str, list[RecordedConversation]] = {}  # of agents seen and heard on every dyad
        self.card = ScoreCard((*(row_set.rows if row_set else ()), *ROWS), run=asdict(options))
        baselines = {"silent": [silent(c) for c in self._references]}
        if row_set is not None:
            self.card.chance = row_set.begin(self._references)
            baselines |= row_set.baselines(self._references)
        for column, conversations in {"recordings": self._references, **baselines}.items():
            self._fill(column, conversations)

    def _dyads(self) -> Iterator[StoredDyad]:
        return select(self._all(), self._options.per_scenario, self._num_dyads)

    def _reference(self, dyad: StoredDyad) -> RecordedConversation:
        """The recorded agent; what the recogniser makes of the user's words stands for what it made out."""
        if self._part is not None:
            return reference(dyad)
        recorded = reference(dyad, self._meter)
        if self._recogniser is None:
            return recorded
        return replace(recorded, heard=[understood(dyad.user_audio[0].numpy(), self._recogniser)])

    def _fill(self, column: str, conversations: list[RecordedConversation]) -> Scores:
        if self._part is not None:
            return {}
        scores = dialogue_scores(conversations) | level_scores(conversations) | hearing_scores(conversations)
        if self._recogniser is not None and column in _LISTENED_TO:
            scores["speech.wer"] = word_error_rate(conversations, self._recogniser)
        if any(c.face is not None for c in conversations):
            scores |= lip_scores(conversations) | listening_scores(conversations)
            scores |= idle_scores(conversations, self._references)
            scores |= identity_scores(conversations, self._references)
        if self._row_set is not None:
            scores |= self._row_set.scores(column, conversations)
            if by_scenario := self._row_set.by_scenario(conversations):
                self.card.by_scenario[column] = by_scenario
        self.card.columns[column] = scores
        return scores

    # ---- the parts of the evaluation ----

    def agent(self, pipeline: StreamerPipeline, column: str = "agent", num_steps: int | None = None) -> None:
        """The checkpoint itself, seen and heard on every dyad."""
        solver = CountingSolver(pipeline.scheduler)
        steps = self._options.num_steps if num_steps is None else num_steps
        conversations = self._converse(with_solver(pipeline, solver), column, self._dyads(), self._meter, steps)
        self._conversations[column] = conversations
        passes, units = solver.num_passes, solver.num_units
        if self._store is not None:
            self._store.add_cost(column, passes, units)
            passes, units = self._store.cost(column)
        self._fill(column, conversations)["cost.passes"] = Score(passes / max(1, units), n=units)

    def ceiling(self, pipeline: StreamerPipeline) -> None:
        """The recorded agent through the VAEs: the best that its latents allow, and how much they keep."""
        if self._part is not None:
            return
        fidelity, conversations = Fidelity(), []
        for dyad in self._track("ceiling", self._few(), None):
            audio, video = through_vaes(pipeline, dyad)
            fidelity.add(dyad.agent_audio, audio, dyad.agent_video, video)
            face = None if video is None else self._meter(video)
            conversations.append(replace(reference(dyad), wave=audio[0].numpy(), face=face))
        self.card.columns["ceiling"] = self._fill("ceiling", conversations) | fidelity.scores()

    def separate_denoising(self, pipeline: StreamerPipeline) -> None:
        """Sound and picture solved without each other."""
        apart = with_solver(pipeline, SeparateSolver(pipeline.scheduler))
        conversations = self._converse(apart, "separate", self._few(), self._meter, self._options.num_steps)
        self._fill("separate", conversations)

    def controls(self, pipeline: StreamerPipeline) -> None:
        """Users that a fair agent must fail; nobody looks at the agent."""
        blind = without_picture(pipeline)
        for column, control in {**CONTROLS, **(self._row_set.controls if self._row_set else {})}.items():
            concerned = self._few() if control.concerns is None else filter(control.concerns, self._dyads())
            conversations = self._converse(blind, column, control.change(concerned), None, self._options.num_steps)
            self._fill(column, conversations)

    def acoustic_loop(self, pipeline: StreamerPipeline) -> None:
        """The agent's own sound in the user's microphone; beside it the same dyads of the agent's run without."""
        blind, steps = without_picture(pipeline), self._options.num_steps
        conversations = self._converse(blind, "hears itself", self._few(), None, steps, hears_itself=True)
        keys = {c.key for c in conversations}
        self._fill("without loop", [replace(c, face=None) for c in self._conversations["agent"] if c.key in keys])
        self._fill("hears itself", conversations)

    def long_session(self, pipeline: StreamerPipeline) -> None:
        """One conversation of many minutes, if there is to be one."""
        options = self._options
        if options.minutes <= 0:
            return
        face = mean_silent_face(self._few(), self._meter)
        passing = live_on(
            pipeline, self._dyads, options.minutes, self._meter, face, options.seed, options.num_steps, self._unseen
        )
        minutes = list(self._track("long session (minutes)", passing, int(options.minutes)))
        self.card.minutes = as_records(minutes)
        self.card.columns["agent"] |= endurance_scores(minutes)

    def finish(self) -> ScoreCard:
        """Rows that come from other columns; why rows are missing."""
        if self._row_set is not None:
            self.card.columns["agent"] |= self._row_set.across(self.card.columns)
        for row in ROWS:
            faces = [c.face for c in self._conversations["agent"] if c.face is not None]
            reason = why_absent(row.key, self._references, self._recogniser is not None, faces)
            self.card.say_why_absent([row.key], reason)
        return self.card

    # ---- how they are run ----

    def _few(self) -> Iterator[StoredDyad]:
        few = min(FEW, self._options.per_scenario)
        scenarios = Counter(scenario_of(c.labels) for c in self._references)
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
        options, store = self._options, self._store
        found: dict[str, RecordedConversation] = {}
        held: list[str] = []

        def to_be_held() -> Iterator[StoredDyad]:
            first, step = self._part or (0, 1)
            for dyad in islice(dyads, first, None, step):
                if store is not None and store.has(what, dyad.key):
                    held.append(dyad.key)
                else:
                    yield dyad

        talking = converse(
            pipeline, to_be_held(), meter, options.seed, num_steps, options.batch_size, hears_itself, self._unseen
        )
        for conversation in self._track(what, talking, len(self._references)):
            found[conversation.key] = conversation
            if store is not None:
                store.write(what, conversation)
        found |= {key: store.read(what, key) for key in held if store is not None}
        return [found[key] for key in sorted(found)]

    def _track(self, what: str, things: Iterable[Any], total: int | None) -> Iterator[Any]:
        columns = TextColumn("{task.description:>24}"), BarColumn(), MofNCompleteColumn()
        with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=self._console) as progress:
            yield from progress.track(things, total=total, description=what)
