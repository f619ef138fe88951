"""Did the agent say the right thing? By its words, and by what an independent recogniser hears in its sound."""

from dataclasses import dataclass

import numpy as np
from streamer_pipeline.evaluation.recorded_conversation import RecordedConversation
from streamer_pipeline.evaluation.sound import PIECES_PER_UNIT, bursts, excerpt
from streamer_pipeline.evaluation.statistics import Score, rate
from streamer_pipeline.units import UNIT_MS

from ..speech_judge import SpeechJudge, Verdict

_ANSWER_GAP = 3 * PIECES_PER_UNIT  # a longer silence ends the answer that is judged


@dataclass(frozen=True)
class Answer:
    """One owed answer and whether it came. `heard`: understood and surely so; `words`: understood, however unsurely.

    kind: "reply" to speech, or "greeting" of a wave.
    """

    scenario: str
    kind: str
    owed: str
    needs_vision: bool
    said: bool
    heard: bool
    words: bool


class PhraseRecogniser:
    """Knows the agent's phrases: their grammar, and the margin each must reach. Remembers what it has heard."""

    def __init__(self, info: dict) -> None:
        self._judge, self._thresholds = SpeechJudge(info["grammar"]), info["thresholds"]
        self._verdicts: dict[bytes, Verdict] = {}

    def __call__(self, wave: np.ndarray) -> Verdict:
        key = wave.tobytes()
        if key not in self._verdicts:
            self._verdicts[key] = self._judge(wave)
        return self._verdicts[key]

    def is_sure(self, verdict: Verdict) -> bool:
        """Whether this was rather the phrase than any other sound."""
        return verdict.margin >= self._thresholds.get(verdict.text, 0.0)


def judge_answers(conversation: RecordedConversation, recogniser: PhraseRecogniser) -> list[Answer]:
    """Every owed answer of a dyad.

    The window of an answer opens with its expectation's first unit. All words in it must be the answer's, in order and
    none else. Of the sound, what begins in the window counts, up to a silence of half a second.
    """
    labels, answers = conversation.labels, []
    ends = [segment["end"] for segment in labels["user"]["segments"]]
    for owed in labels["expect"]:
        if owed["kind"] != "say":
            continue
        is_reply = any(abs(end - owed["after"]) < UNIT_MS / 1e6 for end in ends)
        heard = _hear(conversation, owed["first_unit"], owed["end_unit"], recogniser)
        words = heard is not None and heard.text == owed["text"]
        answers.append(
            Answer(
                scenario=labels["scenario"],
                kind="reply" if is_reply else "greeting",
                owed=owed["text"],
                needs_vision=owed["needs_vision"],
                said=conversation.said(owed["first_unit"], owed["end_unit"]) == owed["text"],
                heard=words and recogniser.is_sure(heard),
                words=words,
            )
        )
    return answers


def _hear(
    conversation: RecordedConversation, first_unit: int, end_unit: int, recogniser: PhraseRecogniser
) -> Verdict | None:
    """What is heard of the sound that begins in units [first_unit, end_unit); None if there is none."""
    first_piece, end_piece = first_unit * PIECES_PER_UNIT, end_unit * PIECES_PER_UNIT
    begun = [(start, end) for start, end in bursts(conversation.wave) if first_piece <= start < end_piece]
    if not begun:
        return None
    start, end = begun[0]
    for following, its_end in begun[1:]:
        if following - end > _ANSWER_GAP:
            break
        end = its_end
    return recogniser(excerpt(conversation.wave, start, end))


def answer_scores(answers: list[Answer]) -> dict[str, Score]:
    """Rates of right answers: all of them, those that need eyes, greetings of a wave, and names remembered."""
    sight = [a for a in answers if a.needs_vision and a.kind == "reply"]
    recall = [a for a in answers if a.scenario == "recall" and a.owed.startswith("your name")]
    return {
        "answers.text": rate([a.said for a in answers]),
        "answers.heard": rate([a.heard for a in answers]),
        "answers.words": rate([a.words for a in answers]),
        "sight.text": rate([a.said for a in sight]),
        "sight.heard": rate([a.heard for a in sight]),
        "proactive.greets": rate([a.said for a in answers if a.kind == "greeting"]),
        "memory.text": rate([a.said for a in recall]),
    }


def answers_by_scenario(answers: list[Answer]) -> dict[str, dict[str, Score]]:
    """Scenario -> rates by text and by sound."""
    names = sorted({a.scenario for a in answers})
    rows = {name: [a for a in answers if a.scenario == name] for name in names}
    return {
        name: {"text": rate([a.said for a in row]), "heard": rate([a.heard for a in row])} for name, row in rows.items()
    }


def sight_by_chance(answers: list[Answer]) -> float | None:
    """How often the answer to a question of sight equals that of another dyad's question of the same scenario."""
    owed: dict[str, list[str]] = {}
    for answer in answers:
        if answer.needs_vision and answer.kind == "reply":
            owed.setdefault(answer.scenario, []).append(answer.owed)
    chances = [
        (texts.count(text) - 1) / (len(texts) - 1) for texts in owed.values() if len(texts) > 1 for text in texts
    ]
    return float(np.mean(chances)) if chances else None
