"""The rows of the score card: what is measured, what it should be, and whether it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from .answers import Ear, answer_scores, answers_by_scenario, judge_answers, sight_by_chance
from .lips import lip_scores
from .liveliness import idle_scores, listening_scores
from .performance import Performance
from .statistics import Score
from .turns import turn_scores

Scores = dict[str, Score]


@dataclass(frozen=True)
class Row:
    """One line of the card. `show` writes a value; `aim` in words; `met` of a score, None where there is no aim."""

    key: str
    name: str
    show: Callable[[float], str]
    aim: str = ""
    met: Callable[[Score], bool] | None = None

    @property
    def group(self) -> str:
        return self.key.partition(".")[0]


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _plain(digits: int, unit: str = "") -> Callable[[float], str]:
    return lambda value: f"{value:.{digits}f}{unit}"


def _at_least(aim: float, show: Callable[[float], str] = _percent) -> tuple[str, Callable[[Score], bool]]:
    return f">= {show(aim)}", lambda score: score.value >= aim


def _at_most(aim: float, show: Callable[[float], str] = _percent) -> tuple[str, Callable[[Score], bool]]:
    return f"<= {show(aim)}", lambda score: score.value <= aim


def _within(share: float) -> tuple[str, Callable[[Score], bool]]:
    return f"1 +- {share}", lambda score: abs(score.value - 1) <= share


_MS, _DB, _TIMES, _P = _plain(0, " ms"), _plain(1, " dB"), _plain(2, " x"), _plain(3)

ROWS = (
    Row("answers.text", "right by its words", _percent, *_at_least(0.95)),
    Row("answers.heard", "right by recogniser, surely", _percent),
    Row("answers.words", "right by recogniser, words only", _percent),
    Row("answers.relative", "surely right, relative to recordings", _percent, *_at_least(0.90)),
    Row("sight.text", "right on questions that need eyes", _percent, *_at_least(0.95)),
    Row("sight.heard", "the same by recogniser", _percent),
    Row("sight.blank", "with blank video", _percent, "chance"),
    Row("sight.other", "with another dyad's video", _percent, "chance"),
    Row("turns.replied", "finished questions replied to", _percent, *_at_least(0.97)),
    Row("turns.latency_median", "response latency, median", _MS, *_at_most(480, _MS)),
    Row("turns.latency_p90", "response latency, 90th percentile", _MS),
    Row("turns.pause_taken", "turns taken inside pauses", _percent, *_at_most(0.05)),
    Row("turns.false_starts", "false starts per minute of silence", _plain(2), *_at_most(0.2, _plain(1))),
    Row("loop.text", "right by its words, hearing itself", _percent, *_at_least(0.95)),
    Row("loop.false_starts", "false starts per minute, hearing itself", _plain(2), *_at_most(0.2, _plain(1))),
    Row("interruption.stops", 'stops within 3 units of "stop"', _percent, *_at_least(0.95)),
    Row("interruption.goes_on", "goes on through a back-channel", _percent, *_at_least(0.95)),
    Row("proactive.greets", "greets a wave", _percent, *_at_least(0.95)),
    Row("proactive.quiet", "greets nothing else", _percent, *_at_least(0.98)),
    Row("memory.text", "knows the name told before", _percent, *_at_least(0.90)),
    Row("lips.in_step", "clips in step within one frame", _percent, *_at_least(0.95)),
    Row("lips.zero_lag", "r of mouth and sound, no lag", _plain(2), *_at_least(0.7, _plain(1))),
    Row("listening.brows", "brows follow the user's speech: p", _P, "< 0.01", lambda score: score.value < 0.01),
    Row("listening.motion", "motion follows its end: p", _P, "< 0.01", lambda score: score.value < 0.01),
    Row("idle.blinks", "blinks, relative to recordings", _TIMES, *_within(0.3)),
    Row("idle.motion", "silent motion, relative to recordings", _TIMES, *_within(0.3)),
    Row("endurance.level", "level of speech, largest drift", _DB, *_at_most(3, _DB)),
    Row("endurance.latent_mean", "latent mean, largest drift in stds", _percent, *_at_most(0.10)),
    Row("endurance.latent_std", "latent std, largest drift", _percent, *_at_most(0.10)),
    Row("endurance.face", "distance of the silent face, drift", _percent, *_at_most(0.10)),
    Row("worlds.face", "the prompt's face", _percent, *_at_least(0.95)),
    Row("worlds.voice", "the prompt's voice", _percent, *_at_least(0.95)),
    Row("worlds.words", "right words, whoever it is", _percent, *_at_least(0.95)),
    Row("directives.text", "a typed directive comes in its text", _percent, *_at_least(0.95)),
    Row("directives.waves", "waves when told", _percent, *_at_least(0.90)),
    Row("directives.nods", "nods when told", _percent, *_at_least(0.90)),
    Row("directives.onset", "onset after the typing, median", _MS),
    Row("prompt.prefill", "prefill of a world, median", _MS),
    Row("prompt.session", "session of a prepared world, median", _MS),
    Row("cost.passes", "solver passes per unit", _plain(1)),
    Row("media.psnr", "picture through the VAE, PSNR", _DB),
    Row("media.ssim", "picture through the VAE, SSIM", _plain(3)),
    Row("media.mel", "sound through the VAE, log-mel distance", _plain(3)),
    Row("media.pesq", "sound through the VAE, PESQ (wide band)", _plain(2)),
    Row("media.stoi", "sound through the VAE, STOI", _plain(3)),
    Row("judges.mouth", "measured mouth and drawn truth, r", _plain(2)),
    Row("judges.eyes", "measured eyes and drawn truth, r", _plain(2)),
)


@dataclass
class Card:
    """All that was measured. columns: performer -> row key -> score; "agent" is the checkpoint.

    chance: of right answers to questions of sight without seeing. by_scenario: performer -> scenario -> rates.
    minutes: the long session. run: what was run, for the record.
    """

    columns: dict[str, Scores] = field(default_factory=dict)
    chance: float | None = None
    by_scenario: dict[str, dict[str, Scores]] = field(default_factory=dict)
    minutes: list[dict] = field(default_factory=list)
    run: dict[str, object] = field(default_factory=dict)

    def rows(self) -> list[Row]:
        """Those with any value."""
        return [row for row in ROWS if any(self.value(row.key, name) is not None for name in self.columns)]

    def value(self, key: str, column: str = "agent") -> float | None:
        return self.columns.get(column, {}).get(key, Score(None)).value

    def aim(self, row: Row) -> str:
        """The aim in words."""
        return f"{_percent(self.chance)} by chance" if row.aim == "chance" and self.chance is not None else row.aim

    def is_met(self, row: Row, column: str = "agent") -> bool | None:
        """Whether a column's value is what it should be; None where there is no value or no aim."""
        score = self.columns.get(column, {}).get(row.key, Score(None))
        if score.value is None:
            return None
        if row.aim == "chance":  # not clearly above it
            return None if self.chance is None or score.low is None else score.low <= self.chance
        return bool(row.met(score)) if row.met else None


class Examiner:
    """Scores performances with one recogniser, against the recorded agent."""

    def __init__(self, ear: Ear, references: list[Performance]) -> None:
        self._ear, self.references = ear, references
        self.chance = sight_by_chance([a for p in references for a in judge_answers(p, ear)])
        self._ceiling = self.scores(references)["answers.heard"].value

    def scores(self, performances: list[Performance]) -> Scores:
        """Every row that these performances allow. Rows of the face need `looks`."""
        answers = [answer for p in performances for answer in judge_answers(p, self._ear)]
        scores = answer_scores(answers) | turn_scores(performances)
        if any(p.looks is not None for p in performances):
            scores |= lip_scores(performances) | listening_scores(performances)
            scores |= idle_scores(performances, self.references)
        return scores

    def relative(self, scores: Scores) -> Score:
        """Surely heard answers as a share of those that are surely heard on the recordings."""
        heard = scores["answers.heard"]
        if heard.value is None or not self._ceiling:
            return Score(None)
        return Score(*(x / self._ceiling for x in (heard.value, heard.low, heard.high)), heard.n)

    def by_scenario(self, performances: list[Performance]) -> dict[str, Scores]:
        return answers_by_scenario([answer for p in performances for answer in judge_answers(p, self._ear)])
