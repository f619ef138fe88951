"""A dyad: both sides' sound and motion, and the agent's words, on one wall clock and one grid of units.

`build_dyad` is a pure function of its arguments. Pictures are not stored: `render_frames` draws them from the motion.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from itertools import groupby

import numpy as np
from streamer_pipeline.data.words import Word

from .agent_voice import AgentVoice
from .clock import FRAME_RATE, FRAMES_PER_UNIT, SAMPLE_RATE, SAMPLES_PER_UNIT, UNIT_SECONDS, frame_at, unit_at
from .face import AGENT, Identity, random_identity
from .grammar import COLORS, NUMBERS, OBJECTS, USER_PHRASINGS
from .motion import attend, hold, idle_motion, nod, show_fingers, smile, wave, write_at
from .phonemes import PhonemeSpan, mouth_track
from .scenarios import DIRECTED, SCENARIOS, UNADDRESSED
from .script import AgentSegment, Behavior, Expectation, Script, UserSegment, VisualEvent
from .shapes import Tracks
from .splits import HELD_OUT_PAIRS, HELD_OUT_SUMS, split_of, user_identity_seed
from .voice_bank import VoiceBank

_FADE_SAMPLES = 1_200  # 50 ms: a voice that breaks off does not click
_QUIET_POWER = 0.003  # stands for the power of speech where there is none to set the noise by
# The agent's words come this many units before they sound, though not before its utterance begins: the voice says the
# first words of "it is red" and "it is blue" differently, so they cannot be spoken well before the colour is known.
WORD_LEAD_UNITS = 2


@dataclass(frozen=True, eq=False)
class Dyad:
    """One conversation of `num_units` units of 160 ms, recorded on the wall clock.

    user_audio, agent_audio: `(num_units * 3840,)` float32, 24 kHz.
    user_motion, agent_motion: tracks `(num_units * 4,)` float32 for `render_frames`.
    user_words, agent_transcript: what each side says, and when.
    agent_words: per unit the words that come in it, up to `WORD_LEAD_UNITS` before they sound. agent_speaking:
        `(num_units,)` bool, a reply is being spoken.
    agent_behaviors: what the agent does with its body. directives: what it was told to do, in the unit of the telling.

    A trainer pairs user unit k with agent unit k + response_delay: the reaction law of `Script` makes sure that the
    agent never reacts to what such a model has not heard or seen yet.
    """

    scenario: str
    seed: int
    split: str
    response_delay: int
    num_units: int
    user_audio: np.ndarray
    agent_audio: np.ndarray
    user_motion: Tracks
    agent_motion: Tracks
    user_identity: Identity
    agent_identity: Identity
    user_voice: str
    is_natural: bool  # everything the user says comes from a bank of natural voices
    snr_db: float
    user_words: list[Word]
    agent_transcript: list[Word]
    agent_words: list[list[str]]
    agent_speaking: np.ndarray
    user_segments: list[UserSegment]
    agent_segments: list[AgentSegment]
    agent_behaviors: list[Behavior]
    directives: list[Behavior]
    visual_events: list[VisualEvent]
    expect: list[Expectation]

    @property
    def is_held_out_combination(self) -> bool:
        """Whether this shows a colour and object, or asks a sum, that never occurs in training."""
        shown = {(event.color, event.object) for event in self.visual_events}
        sums = {(NUMBERS[a], NUMBERS[b]) for a, b in HELD_OUT_SUMS}
        numbers = (tuple(word for word in segment.text.split() if word in NUMBERS) for segment in self.user_segments)
        return bool(shown & HELD_OUT_PAIRS) or not sums.isdisjoint(numbers)

    def labels(self) -> dict:
        """Everything but signals, ready for JSON."""
        return {
            "scenario": self.scenario,
            "seed": self.seed,
            "split": self.split,
            "response_delay": self.response_delay,
            "num_units": self.num_units,
            "user": {
                "identity": self.user_identity.name,
                "voice": self.user_voice,
                "snr_db": self.snr_db,
                "segments": [asdict(segment) for segment in self.user_segments],
                "transcript": _rounded(self.user_words),
                "visual_events": [asdict(event) for event in self.visual_events],
            },
            "agent": {
                "identity": self.agent_identity.name,
                "segments": [asdict(segment) for segment in self.agent_segments],
                "transcript": _rounded(self.agent_transcript),
                "behaviors": [asdict(behavior) for behavior in self.agent_behaviors],
                "words": self.agent_words,
                "speaking": self.agent_speaking.tolist(),
            },
            "expect": [asdict(expectation) for expectation in self.expect],
        }


def build_dyad(
    seed: int,
    scenario: str | None = None,
    voice: AgentVoice | None = None,
    response_delay: int = 1,
    bank: VoiceBank | None = None,
    varies_throats: bool = False,
    phrasings: dict[str, tuple[str, ...]] = USER_PHRASINGS,
) -> Dyad:
    """One synthetic dyad; the same arguments always give the same one.

    Args:
        seed: decides everything, also the split (see `splits.split_of`).
        scenario: one of `SCENARIOS`, `DIRECTED` or `UNADDRESSED`; None lets the seed choose among the first.
        voice: the agent's voice; pass one when building many. None loads it.
        response_delay: units between what a model takes in and when its response plays (DESIGN section 4), 1 or 2.
        bank: natural voices of the seed's split for the user; None, or what is missing there, is spoken by espeak-ng.
        varies_throats: half of the users' speech is resampled by up to 18 %, which moves its formants; for training.
        phrasings: of users who speak by espeak-ng, `USER_PHRASINGS` or `NATURAL_PHRASINGS`.

    Raises:
        ValueError: seed, scenario or response_delay outside what exists.
    """
    all_scenarios = SCENARIOS | DIRECTED | UNADDRESSED
    if scenario is not None and scenario not in all_scenarios:
        raise ValueError(f"no scenario {scenario!r}; there are {', '.join(all_scenarios)}")
    if response_delay not in (1, 2):
        raise ValueError(f"response_delay is {response_delay}; it is 1 (thinker, then performer) or 2 (they overlap)")
    split = split_of(seed)
    scenario = scenario or list(SCENARIOS)[np.random.default_rng([seed, 1]).integers(len(SCENARIOS))]
    rng = np.random.default_rng([seed, 2 + list(all_scenarios).index(scenario)])
    script = Script(rng, split, voice or AgentVoice(), response_delay, bank, varies_throats, phrasings=phrasings)
    num_units = all_scenarios[scenario](script) + int(rng.integers(5, 9))
    user_audio, snr_db = _user_audio(script, num_units)
    agent_audio, agent_words, agent_speaking = _agent_speech(script, num_units)
    duration = num_units * FRAMES_PER_UNIT / FRAME_RATE
    return Dyad(
        scenario=scenario,
        seed=seed,
        split=split,
        response_delay=response_delay,
        num_units=num_units,
        user_audio=user_audio,
        agent_audio=agent_audio,
        user_motion=_user_motion(script, num_units * FRAMES_PER_UNIT),
        agent_motion=_agent_motion(script, num_units * FRAMES_PER_UNIT),
        user_identity=random_identity(user_identity_seed(split, rng)),
        agent_identity=AGENT,
        user_voice=script.user_voice,
        is_natural=all(said.is_natural for _, said in script.user_waves),
        snr_db=snr_db,
        user_words=[word for start, said in script.user_waves for word in _words_of(said.phonemes, start)],
        agent_transcript=_agent_words(script),
        agent_words=agent_words,
        agent_speaking=agent_speaking,
        user_segments=script.user_segments,
        agent_segments=script.agent_segments,
        agent_behaviors=script.agent_behaviors(),
        directives=script.directives,
        visual_events=[replace(event, end=min(event.end, duration)) for event in script.visual_events],
        expect=script.expect,
    )


def _rounded(words: list[Word]) -> list[list[str | float]]:
    return [[word.text, round(word.start, 3), round(word.end, 3)] for word in words]


def _add(signal: np.ndarray, wave: np.ndarray, first_sample: int) -> None:
    room = signal[first_sample : first_sample + len(wave)]
    room += wave[: len(room)]


def _user_audio(script: Script, num_units: int) -> tuple[np.ndarray, float]:
    """The user's microphone: speech at some gain in white noise of some level."""
    audio = np.zeros(num_units * SAMPLES_PER_UNIT, np.float32)
    snr_db, gain = script.rng.uniform(18, 45), script.rng.uniform(0.5, 1.0)
    for start, said in script.user_waves:
        _add(audio, gain * said.wave, int(start * SAMPLE_RATE))
    power = np.mean(audio[audio != 0] ** 2) if audio.any() else _QUIET_POWER
    noise = script.rng.standard_normal(len(audio), np.float32)
    audio += noise * np.float32(np.sqrt(power / 10 ** (snr_db / 10)))
    return np.clip(audio, -1, 1), float(snr_db)


def _words_of(phonemes: Iterable[PhonemeSpan], start: float) -> list[Word]:
    """The runs of phonemes that belong to one word, of a phrase that begins at `start` seconds."""
    runs = ((text, list(run)) for text, run in groupby(phonemes, key=lambda span: span.word))
    spoken = ((text, run) for text, run in runs if text and not text.startswith("<"))
    return [Word(text, max(0.0, start + run[0].start), start + run[-1].end) for text, run in spoken]


def _agent_words(script: Script) -> list[Word]:
    """What the agent says, as far as it is let."""
    words = []
    for segment in script.agent_segments:
        phonemes = script.voice(segment.text).phonemes
        start, end = segment.first_unit * UNIT_SECONDS, segment.end_unit * UNIT_SECONDS
        spoken = _words_of(phonemes, start)
        words += [word._replace(end=min(word.end, end)) for word in spoken if word.start < end]
    return words


def _agent_speech(script: Script, num_units: int) -> tuple[np.ndarray, list[list[str]], np.ndarray]:
    """The agent's clean voice, the words that come in each unit, and where it speaks."""
    audio = np.zeros(num_units * SAMPLES_PER_UNIT, np.float32)
    words: list[list[str]] = [[] for _ in range(num_units)]
    speaking = np.zeros(num_units, bool)
    for segment in script.agent_segments:
        rendition = script.voice(segment.text)
        spoken = rendition.wave[: (segment.end_unit - segment.first_unit) * SAMPLES_PER_UNIT].copy()
        if segment.end_unit < segment.full_end_unit:
            spoken[-_FADE_SAMPLES:] *= np.linspace(1, 0, _FADE_SAMPLES, dtype=np.float32)
        _add(audio, spoken, segment.first_unit * SAMPLES_PER_UNIT)
        speaking[segment.first_unit : segment.end_unit] = True
        for start, word in rendition.word_starts():
            unit = segment.first_unit + max(0, unit_at(start) - WORD_LEAD_UNITS)
            if unit < segment.end_unit:
                words[unit].append(word)
    return audio, words, speaking


def _user_motion(script: Script, num_frames: int) -> Tracks:
    motion = idle_motion(num_frames, script.rng, liveliness=1.4)
    motion["hand_x"] += script.rng.uniform(-9, 9)
    motion["hand_y"] += script.rng.uniform(-10, 8)
    for start, said in script.user_waves:
        write_at(motion, said.mouth(), frame_at(start))
    for event in script.visual_events:
        first, end = frame_at(event.start), min(num_frames, frame_at(event.end))
        if event.kind == "smile":
            smile(motion, first, end)
        elif event.kind == "wave":
            wave(motion, first, end)
        elif event.kind == "fingers":
            show_fingers(motion, first, end, event.fingers)
        else:
            hold(motion, first, end, OBJECTS.index(event.object), COLORS.index(event.color))
    return motion


def _agent_motion(script: Script, num_frames: int) -> Tracks:
    """Idle life, listening, speaking. Reactions obey the law of replies, like the answers themselves."""
    motion = idle_motion(num_frames, script.rng)
    for segment in script.user_segments:
        first = FRAMES_PER_UNIT * script.reaction_unit(segment.start)
        attend(motion, first, FRAMES_PER_UNIT * script.reaction_unit(segment.end) + 6)
    for segment in script.agent_segments:
        rendition = script.voice(segment.text)
        num_samples = min(len(rendition.wave), (segment.end_unit - segment.first_unit) * SAMPLES_PER_UNIT)
        mouth = mouth_track(rendition.phonemes, int(np.ceil(num_samples * FRAME_RATE / SAMPLE_RATE)))
        write_at(motion, mouth, FRAMES_PER_UNIT * segment.first_unit)
    for behavior in script.agent_behaviors():
        first = FRAMES_PER_UNIT * behavior.first_unit
        if behavior.name == "nods":
            nod(motion, first)
        else:
            wave(motion, first, first + 40)
            smile(motion, first, first + 40, strength=0.9)
    return motion
