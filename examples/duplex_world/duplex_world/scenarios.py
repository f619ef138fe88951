"""The situations of the world: 18, one in which the agent is directed, and two of speech that is not for it.

Each function fills a script and returns the unit at which its action is over.
"""

from collections.abc import Callable

from .clock import unit_at, units_for
from .grammar import COUNT, NAMES, NUMBERS, color_phrase, fingers_phrase, object_phrase
from .script import STOP_LIMIT_UNITS, Behavior, Expectation, Script, seconds_of
from .splits import addends, color_and_object

_WAVE_NOTICED = 0.64  # seconds of waving before it can be taken for a wave


def greet(script: Script) -> int:
    """The user greets."""
    return script.ask(script.utterance("greet"), "hello nice to meet you", script.start)


def name(script: Script) -> int:
    """The user asks who the agent is."""
    return script.ask(script.utterance("name"), "my name is ada", script.start)


def bye(script: Script) -> int:
    """The user takes leave."""
    return script.ask(script.utterance("bye"), "goodbye see you soon", script.start)


def plus(script: Script) -> int:
    """A small sum."""
    a, b = addends(script.split, script.rng)
    question = script.utterance("plus", NUMBERS[a], NUMBERS[b])
    return script.ask(question, f"the answer is {NUMBERS[a + b]}", script.start)


def myname(script: Script) -> int:
    """The user says their name."""
    user = script.choose(NAMES)
    return script.ask(script.utterance("myname", user), f"nice to meet you {user}", script.start)


def recall(script: Script) -> int:
    """The user says their name and asks for it later."""
    user = script.choose(NAMES)
    met = script.ask(script.utterance("myname", user), f"nice to meet you {user}", script.start)
    later = seconds_of(met + int(script.rng.integers(3, 12)))
    return script.ask(script.utterance("recall"), f"your name is {user}", later)


def _already_shown(script: Script) -> float:
    """When the hand goes up: up to 0.6 s before the question."""
    return max(0.2, script.start - script.rng.uniform(0, 0.6))


def color(script: Script) -> int:
    """What colour is the thing in the user's hand?"""
    shade, thing = color_and_object(script.split, script.rng)
    script.user_shows("hold", _already_shown(script), object=thing, color=shade)
    return script.ask(script.utterance("color"), color_phrase(shade), script.start, needs_vision=True)


def object_(script: Script) -> int:
    """What is in the user's hand?"""
    shade, thing = color_and_object(script.split, script.rng)
    script.user_shows("hold", _already_shown(script), object=thing, color=shade)
    return script.ask(script.utterance("object"), object_phrase(shade, thing), script.start, needs_vision=True)


def fingers(script: Script) -> int:
    """How many fingers are up?"""
    count = int(script.rng.integers(0, 6))
    script.user_shows("fingers", _already_shown(script), fingers=count)
    return script.ask(script.utterance("fingers"), fingers_phrase(count), script.start, needs_vision=True)


def smile(script: Script) -> int:
    """Does the user smile?"""
    smiling = script.rng.random() < 0.5
    if smiling:
        script.user_shows("smile", script.start - 0.4, script.start + 4)
    answer = "yes you are smiling" if smiling else "no you are not smiling"
    return script.ask(script.utterance("smile"), answer, script.start, needs_vision=True)


def _wave_and_be_greeted(script: Script, duration: float) -> int:
    start, noticed = script.start, script.start + _WAVE_NOTICED
    script.user_shows("wave", start, start + duration)
    end = script.agent_says("hi there", script.reaction_unit(noticed), waves=True)
    script.expect_answer("hi there", noticed, end, first_unit=unit_at(start), needs_vision=True)
    return end


def wave(script: Script) -> int:
    """The user waves and says nothing; the agent greets and waves back."""
    end = _wave_and_be_greeted(script, 1.6)
    first = script.agent_segments[-1].first_unit
    script.expect.append(Expectation("wave", first, first + 10))
    return end


def did(script: Script) -> int:
    """What did the user just do: wave, or nothing?"""
    ask_at, answer = script.start + 0.3, "i do not see anything"
    if script.rng.random() < 0.5:
        end = _wave_and_be_greeted(script, 1.4)
        ask_at, answer = seconds_of(end + 4) + 0.3, "you waved at me"
    return script.ask(script.utterance("did"), answer, ask_at, needs_vision=True)


def _ask_to_count(script: Script) -> tuple[float, int, int]:
    """When the request ends, the unit in which counting starts, and how many units it takes."""
    end = script.user_says(script.utterance("count"), "question", script.start)
    return end, script.reaction_unit(end), units_for(len(script.voice(COUNT).wave))


def count(script: Script) -> int:
    """The agent counts to ten, undisturbed."""
    asked, first, _ = _ask_to_count(script)
    end = script.agent_says(COUNT, first)
    script.expect_answer(COUNT, asked, end)
    return end


def backchannel(script: Script) -> int:
    """The user says "uh huh" while the agent counts; it counts on."""
    asked, first, length = _ask_to_count(script)
    end = script.agent_says(COUNT, first)
    script.expect_answer(COUNT, asked, end)
    at = seconds_of(first + int(script.rng.integers(5, length - 8)))
    script.user_says(script.utterance("backchannel"), "backchannel", at)
    script.expect.append(Expectation("continue", unit_at(at), min(end, unit_at(at) + 8)))
    return end


def interrupt(script: Script) -> int:
    """The user stops the counting agent: it falls silent, then says so."""
    _, first, length = _ask_to_count(script)
    at = seconds_of(first + int(script.rng.integers(5, length - 8))) + script.rng.uniform(0, 0.16)
    said = script.user_says(script.utterance("stop"), "interrupt", at)
    onset = unit_at(at)
    quiet = onset + 2 + script.response_delay  # two more units tell "stop" from "uh huh"
    script.agent_says(COUNT, first, end_unit=quiet)
    script.expect.append(Expectation("stop", onset, onset + STOP_LIMIT_UNITS + script.response_delay))
    end = script.agent_says("okay i will stop", max(script.reaction_unit(said), quiet + 1))
    script.expect_answer("okay i will stop", said, end, first_unit=quiet + 1)
    return end


def pause(script: Script) -> int:
    """A question with a pause in its middle: the agent waits for the end."""
    shade, thing = color_and_object(script.split, script.rng)
    script.user_shows("hold", 0.3, object=thing, color=shade)
    broke_off = script.user_says(script.utterance("paused0"), "part", script.start)
    resumed = broke_off + script.rng.uniform(0.6, 1.3)
    script.expect_silence(unit_at(broke_off) + 1, unit_at(resumed), "pause")
    done = script.user_says(script.utterance("paused1"), "question", resumed)
    return script.answer(color_phrase(shade), done, needs_vision=True)


def silence(script: Script) -> int:
    """Nobody says anything."""
    end = unit_at(script.start + script.rng.uniform(2, 4))
    script.expect_silence(2, end, "idle")
    return end


def silentshow(script: Script) -> int:
    """The user shows an object and asks nothing."""
    shade, thing = color_and_object(script.split, script.rng)
    script.user_shows("hold", script.start, script.start + 2.5, object=thing, color=shade)
    end = unit_at(script.start + 4)
    script.expect_silence(2, end, "object shown, nothing asked")
    return end


def directed(script: Script) -> int:
    """Twice somebody types what the agent shall do; it does so and says nothing."""
    unit = unit_at(script.start)
    for _ in range(2):
        script.directives.append(Behavior(unit, script.choose(("nods", "waves"))))
        unit += int(script.rng.integers(14, 20))
    script.expect_silence(2, unit, "directed")
    return unit


def overheard(script: Script) -> int:
    """Somebody says something that is not for the agent, once or twice: it owes no answer."""
    end = script.start
    for _ in range(int(script.rng.integers(1, 3))):
        end = script.user_says(script.utterance("other"), "other", end) + script.rng.uniform(0.5, 1.2)
    script.expect_silence(unit_at(script.start), unit_at(end) + 10, "not for the agent")
    return unit_at(end) + 10


def aside(script: Script) -> int:
    """The user says "okay" or "right" into a silence: that asks for nothing."""
    end = script.user_says(script.utterance("backchannel"), "backchannel", script.start)
    script.expect_silence(unit_at(script.start), unit_at(end) + 14, "nothing asked")
    return unit_at(end) + 14


SCENARIOS: dict[str, Callable[[Script], int]] = {
    "greet": greet,
    "name": name,
    "color": color,
    "object": object_,
    "fingers": fingers,
    "wave": wave,
    "did": did,
    "smile": smile,
    "count": count,
    "interrupt": interrupt,
    "backchannel": backchannel,
    "pause": pause,
    "silence": silence,
    "myname": myname,
    "recall": recall,
    "plus": plus,
    "bye": bye,
    "silentshow": silentshow,
}
# Not part of the conversation that is scored: how the body is led by the agent's own text stream.
DIRECTED: dict[str, Callable[[Script], int]] = {"directed": directed}
# Speech that is not for the agent, which it must leave unanswered.
UNADDRESSED: dict[str, Callable[[Script], int]] = {"overheard": overheard, "aside": aside}
