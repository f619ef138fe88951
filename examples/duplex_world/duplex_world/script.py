"""The script of a dyad: who says and shows what, when, and what the agent owes. No signals yet.

Times are wall clock: the user acts at any moment (seconds), the agent acts on units.
"""

from dataclasses import dataclass, field, replace

import numpy as np
from scipy.signal import resample_poly

from .agent_voice import AgentVoice
from .clock import FRAME_RATE, SAMPLE_RATE, UNIT_SECONDS, unit_at, units_for
from .espeak import speak
from .grammar import PAUSED_QUESTION, USER_PHRASINGS
from .phonemes import PhonemeSpan, arpabet_viseme, espeak_viseme, mouth_track
from .splits import USER_VOICES, other_speech, phrasing
from .voice_bank import VoiceBank

_AUDIBLE = 0.01
_OTHER_THROATS = 0.5  # share of the users whose speech is resampled, which moves its formants
_LONGEST_THROAT = 1.18
_TAIL_SAMPLES = 600  # 25 ms kept after the last audible sample of a user's phrase
SAY_SLACK_UNITS = 8  # how many units after the reference's end an answer still counts
STOP_LIMIT_UNITS = 5  # an interrupted agent is silent this many units (plus the response delay) after the onset


@dataclass(frozen=True, eq=False)
class Utterance:
    """What a user says: `text`, the sound `(num_samples,)` at 24 kHz, and where its phonemes lie."""

    text: str
    wave: np.ndarray
    phonemes: list[PhonemeSpan]
    is_natural: bool  # a recorded clip of a bank, whose phonemes are ARPABET's

    def mouth(self) -> dict[str, np.ndarray]:
        """The lips of whoever says this."""
        num_frames = int(np.ceil(len(self.wave) * FRAME_RATE / SAMPLE_RATE))
        return mouth_track(self.phonemes, num_frames, arpabet_viseme if self.is_natural else espeak_viseme)

    def resampled(self, factor: float) -> "Utterance":
        """As a throat `factor` times as long says it: lower and slower."""
        wave = resample_poly(self.wave, round(100 * factor), 100).astype(np.float32)
        spans = [span._replace(start=span.start * factor, end=span.end * factor) for span in self.phonemes]
        return Utterance(self.text, wave, spans, self.is_natural)


@dataclass(frozen=True)
class UserSegment:
    """Something the user says: audible in [start, end) seconds; `kind`: question, part, interrupt or backchannel."""

    start: float
    end: float
    text: str
    kind: str


@dataclass(frozen=True)
class VisualEvent:
    """Something the user shows in [start, end) seconds; `kind`: hold, fingers, wave or smile."""

    kind: str
    start: float
    end: float
    object: str = ""
    color: str = ""
    fingers: int = -1


@dataclass(frozen=True)
class AgentSegment:
    """Something the agent says in units [first_unit, end_unit); cut short if `end_unit` < `full_end_unit`."""

    first_unit: int
    end_unit: int
    full_end_unit: int
    text: str
    waves: bool = False


@dataclass(frozen=True)
class Behavior:
    """Something the agent does with its body from `first_unit` on; `name`: nods or waves."""

    first_unit: int
    name: str

    @property
    def text(self) -> str:
        """As the agent's text stream has it."""
        return f"({self.name})"


@dataclass(frozen=True)
class Expectation:
    """What must be true of an agent's performance in units [first_unit, end_unit).

    kind:
        say       the answer `text` begins in the window; the user was done at `after` seconds, in unit `after_unit`.
        stop      the agent, speaking when the user cut in at `first_unit`, is silent from `end_unit` on at the latest.
        continue  the agent goes on speaking through a back-channel.
        silence   the agent says nothing; `reason` says why one might.
        wave      the agent waves back.
    """

    kind: str
    first_unit: int
    end_unit: int
    text: str = ""
    after: float | None = None
    after_unit: int | None = None
    needs_vision: bool = False
    reason: str = ""


@dataclass
class Script:
    """Filled by one scenario function; read by `dyad.build_dyad`.

    The law of replies: speech that ends in unit e is answered from unit e + 1 + response_delay on. Whoever serves with
    that delay has then heard all of unit e and one more unit, in which silence shows that the speech was over.
    """

    rng: np.random.Generator
    split: str
    voice: AgentVoice
    response_delay: int
    bank: VoiceBank | None = None  # natural voices; without it users speak by espeak-ng
    varies_throats: bool = False  # half of the users speak as longer or shorter throats do
    phrasings: dict[str, tuple[str, ...]] = field(default_factory=lambda: USER_PHRASINGS)  # of users by espeak-ng
    user_voice: str = ""
    user_rate: int = 0
    user_pitch: int = 0
    start: float = 0.0  # when the user first acts, in seconds
    user_segments: list[UserSegment] = field(default_factory=list)
    user_waves: list[tuple[float, Utterance]] = field(default_factory=list)
    visual_events: list[VisualEvent] = field(default_factory=list)
    agent_segments: list[AgentSegment] = field(default_factory=list)
    directives: list[Behavior] = field(default_factory=list)  # typed in their `first_unit`, done when that is noticed
    expect: list[Expectation] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.user_voice = self.espeak_voice = self.choose(USER_VOICES[self.split])
        self.user_rate = int(self.rng.integers(140, 185))
        self.user_pitch = int(self.rng.integers(35, 70))
        self.user_throat = 1.0
        if self.varies_throats and self.rng.random() < _OTHER_THROATS:
            self.user_throat = self.rng.uniform(1 / _LONGEST_THROAT, _LONGEST_THROAT)
        self.start = self.rng.uniform(0.8, 2.0)

    def choose(self, options: tuple[str, ...]) -> str:
        """One of the options, at random."""
        return options[self.rng.integers(len(options))]

    def reaction_unit(self, seconds: float) -> int:
        """First unit in which the agent may react to what happened at `seconds` (the law of replies)."""
        return unit_at(seconds) + 1 + self.response_delay

    def utterance(self, request: str, *slots: str) -> Utterance:
        """One way to put `request`: of `phrasings`, "paused0" and "paused1", the halves of a question, or "other",
        which is not for the agent."""
        clips = self.bank.of(request, slots) if self.bank else []
        if clips:
            # One user keeps one voice as far as the bank has its clips.
            clips = [clip for clip in clips if clip.voice == self.user_voice] or clips
            clip = clips[self.rng.integers(len(clips))]
            self.user_voice = clip.voice
            said = Utterance(clip.text, self.bank.wave(clip), clip.phonemes, True)
        else:
            if request == "other":
                text = self.choose(other_speech(self.split))
            elif request.startswith("paused"):
                text = PAUSED_QUESTION[int(request[-1])]
            else:
                text = phrasing(self.split, self.rng, request, self.phrasings)
            text = text % slots if slots else text
            voice = self.espeak_voice
            said = Utterance(text, *speak(text, voice, self.user_rate, self.user_pitch), False)
        return said if self.user_throat == 1 else said.resampled(self.user_throat)

    def user_says(self, said: Utterance, kind: str, at: float) -> float:
        """The user starts `said` at `at` seconds; returns when the speech ends."""
        audible = np.flatnonzero(np.abs(said.wave) > _AUDIBLE)
        said = replace(said, wave=said.wave[: audible[-1] + _TAIL_SAMPLES])
        end = at + len(said.wave) / SAMPLE_RATE
        self.user_waves.append((at, said))
        self.user_segments.append(UserSegment(float(at + audible[0] / SAMPLE_RATE), float(end), said.text, kind))
        return end

    def user_shows(self, kind: str, start: float, end: float = 1e9, **what: str | int) -> None:
        """The user shows something from `start` to `end` seconds, or to the end of the dyad."""
        self.visual_events.append(VisualEvent(kind, float(start), float(end), **what))

    def agent_behaviors(self) -> list[Behavior]:
        """What the agent does with its body: it nods to what was said to it, waves back, and does what it is told."""
        nods = [
            Behavior(self.reaction_unit(segment.end), "nods")
            for segment in self.user_segments
            if segment.kind in ("question", "part")
        ]
        waves = [Behavior(segment.first_unit, "waves") for segment in self.agent_segments if segment.waves]
        told = [Behavior(done.first_unit + 1 + self.response_delay, done.name) for done in self.directives]
        return sorted(nods + waves + told, key=lambda behavior: behavior.first_unit)

    def agent_says(self, text: str, unit: int, end_unit: int | None = None, waves: bool = False) -> int:
        """The agent speaks `text` from `unit` on, at most to `end_unit`; returns the unit after its last."""
        full_end = unit + units_for(len(self.voice(text).wave))
        end = full_end if end_unit is None else min(full_end, end_unit)
        self.agent_segments.append(AgentSegment(unit, end, full_end, text, waves))
        return end

    def ask(self, question: Utterance, answer: str, at: float, needs_vision: bool = False) -> int:
        """The user asks, the agent answers in time; returns the unit after the answer."""
        end = self.user_says(question, "question", at)
        return self.answer(answer, end, needs_vision=needs_vision)

    def answer(self, text: str, after: float, needs_vision: bool = False, waves: bool = False) -> int:
        """The agent owes `text` to what ended at `after` seconds; returns the unit after the answer."""
        end_unit = self.agent_says(text, self.reaction_unit(after), waves=waves)
        self.expect_answer(text, after, end_unit, needs_vision=needs_vision)
        return end_unit

    def expect_answer(
        self, text: str, after: float, end_unit: int, first_unit: int | None = None, needs_vision: bool = False
    ) -> None:
        """Note that `text` is owed for what ended at `after` seconds, from `first_unit` (default: the unit of that
        moment) until shortly after `end_unit`."""
        after_unit = unit_at(after)
        first = after_unit if first_unit is None else first_unit
        until = end_unit + SAY_SLACK_UNITS
        self.expect.append(Expectation("say", first, until, text, float(after), after_unit, needs_vision))

    def expect_silence(self, first_unit: int, end_unit: int, reason: str) -> None:
        """Note that the agent must not speak in units [first_unit, end_unit)."""
        self.expect.append(Expectation("silence", first_unit, end_unit, reason=reason))


def seconds_of(unit: int) -> float:
    """When a unit begins."""
    return unit * UNIT_SECONDS
