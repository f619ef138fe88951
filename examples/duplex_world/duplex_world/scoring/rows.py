"""What the duplex world adds to a score card: its questions and answers, its turns, its drawn face."""

from streamer_pipeline.data.dyads import StoredDyad
from streamer_pipeline.evaluation.recorded_conversation import RecordedConversation
from streamer_pipeline.evaluation.row_set import Control
from streamer_pipeline.evaluation.scorecard import Aim, Row, Scores, percent_row
from streamer_pipeline.evaluation.statistics import Score, mean

from .answers import Answer, PhraseRecogniser, answer_scores, answers_by_scenario, judge_answers, sight_by_chance
from .baselines import blank_video, copy_previous, other_video
from .drawn_face import DrawnFaceMeter, agreement
from .turns import turn_scores

ROWS = (
    percent_row("answers.text", "right by its words", low=0.95),
    percent_row("answers.heard", "right by recogniser, surely"),
    percent_row("answers.words", "right by recogniser, words only"),
    percent_row("answers.relative", "surely right, relative to recordings", low=0.90),
    percent_row("sight.text", "right on questions that need eyes", low=0.95),
    percent_row("sight.heard", "the same by recogniser"),
    Row("sight.blank", "with blank video", "%", 1, Aim(by_chance=True)),
    Row("sight.other", "with another dyad's video", "%", 1, Aim(by_chance=True)),
    percent_row("turns.replied", "finished questions replied to", low=0.97),
    Row("turns.latency_median", "response latency, median", "ms", 0, Aim(high=480)),
    Row("turns.latency_p90", "response latency, 90th percentile", "ms", 0),
    percent_row("turns.pause_taken", "turns taken inside pauses", high=0.05),
    Row("turns.false_starts", "false starts per minute of silence", "", 2, Aim(high=0.2)),
    percent_row("loop.text", "right by its words, hearing itself", low=0.95),
    Row("loop.false_starts", "false starts per minute, hearing itself", "", 2, Aim(high=0.2)),
    percent_row("interruption.stops", 'stops within 3 units of "stop"', low=0.95),
    percent_row("interruption.goes_on", "goes on through a back-channel", low=0.95),
    percent_row("proactive.greets", "greets a wave", low=0.95),
    percent_row("proactive.quiet", "greets nothing else", low=0.98),
    percent_row("memory.text", "knows the name told before", low=0.90),
    Row("judges.mouth", "measured mouth and drawn truth, r", "", 2),
    Row("judges.eyes", "measured eyes and drawn truth, r", "", 2),
)
_RECORDED = ("recordings", "ceiling")  # columns whose face moves as the labels say


class WorldRows:
    """A `RowSet` for dyads of the duplex world.

    Args:
        info: their `dataset_info.json`: grammar and thresholds of the agent's phrases, boxes of its face.
    """

    rows = ROWS

    def __init__(self, info: dict) -> None:
        self.face_meter = DrawnFaceMeter(info["agent"])
        self.controls = {
            "blank video": Control(blank_video, needs_eyes),
            "other video": Control(other_video, needs_eyes),
        }
        self._recogniser = PhraseRecogniser(info)
        self._ceiling: float | None = None

    def begin(self, references: list[RecordedConversation]) -> float | None:
        answers = self._answers(references)
        self._ceiling = answer_scores(answers)["answers.heard"].value
        return sight_by_chance(answers)

    def scores(self, column: str, conversations: list[RecordedConversation]) -> Scores:
        scores = answer_scores(self._answers(conversations)) | turn_scores(conversations)
        scores["answers.relative"] = self._relative(scores["answers.heard"])
        if column in _RECORDED:
            drawn = [(c.face, c.labels["agent"].get("motion")) for c in conversations if c.face is not None]
            found = [agreement(face, motion) for face, motion in drawn if motion is not None]
            for name in ("mouth", "eyes"):
                scores[f"judges.{name}"] = mean([a[name] for a in found if name in a])
        return scores

    def by_scenario(self, conversations: list[RecordedConversation]) -> dict[str, Scores]:
        return answers_by_scenario(self._answers(conversations))

    def baselines(self, references: list[RecordedConversation]) -> dict[str, list[RecordedConversation]]:
        return {"copy previous": copy_previous(references)}

    def across(self, columns: dict[str, Scores]) -> Scores:
        """Blind and hearing itself: scores of the agent under those conditions."""
        sources = {
            "sight.blank": ("blank video", "sight.text"),
            "sight.other": ("other video", "sight.text"),
            "loop.text": ("hears itself", "answers.text"),
            "loop.false_starts": ("hears itself", "turns.false_starts"),
        }
        return {key: columns[column][row] for key, (column, row) in sources.items() if column in columns}

    def _answers(self, conversations: list[RecordedConversation]) -> list[Answer]:
        return [answer for c in conversations for answer in judge_answers(c, self._recogniser)]

    def _relative(self, heard: Score) -> Score:
        """Surely heard answers as a share of those that are surely heard on the recordings."""
        if heard.value is None or not self._ceiling:
            return Score(None)
        return Score(*(x / self._ceiling for x in (heard.value, heard.low, heard.high)), heard.n)


def needs_eyes(dyad: StoredDyad) -> bool:
    """Whether the user asks for something that has to be seen."""
    return any(expected["needs_vision"] for expected in dyad.labels["expect"])
