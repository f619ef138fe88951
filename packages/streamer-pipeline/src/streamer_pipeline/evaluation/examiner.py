"""Scores conversations with one recogniser, against the recorded agent."""

from __future__ import annotations

from .answers import Ear, answer_scores, answers_by_scenario, judge_answers, sight_by_chance
from .lips import lip_scores
from .liveliness import idle_scores, listening_scores
from .recorded_conversation import RecordedConversation
from .scorecard import Scores
from .statistics import Score
from .turns import turn_scores


class Examiner:
    """Scores conversations with one recogniser, against the recorded agent."""

    def __init__(self, ear: Ear, references: list[RecordedConversation]) -> None:
        self._ear, self.references = ear, references
        self.chance = sight_by_chance([a for p in references for a in judge_answers(p, ear)])
        self._ceiling = self.scores(references)["answers.heard"].value

    def scores(self, conversations: list[RecordedConversation]) -> Scores:
        """Every row that these conversations allow. Rows of the face need `face`."""
        answers = [answer for p in conversations for answer in judge_answers(p, self._ear)]
        scores = answer_scores(answers) | turn_scores(conversations)
        if any(p.face is not None for p in conversations):
            scores |= lip_scores(conversations) | listening_scores(conversations)
            scores |= idle_scores(conversations, self.references)
        return scores

    def relative(self, scores: Scores) -> Score:
        """Surely heard answers as a share of those that are surely heard on the recordings."""
        heard = scores["answers.heard"]
        if heard.value is None or not self._ceiling:
            return Score(None)
        return Score(*(x / self._ceiling for x in (heard.value, heard.low, heard.high)), heard.n)

    def by_scenario(self, conversations: list[RecordedConversation]) -> dict[str, Scores]:
        return answers_by_scenario([answer for p in conversations for answer in judge_answers(p, self._ear)])
