"""The closed language of the world: everything the agent may say, how users may ask, and the judge's grammar.

The vocabulary was chosen for a recogniser, not for beauty: apple, banana, flower, umbrella, camera and star are told
apart without error where ball, book, box, cup and phone are not.
"""

COLORS = ("red", "green", "blue", "yellow", "white", "black", "purple", "orange")
OBJECTS = ("apple", "banana", "flower", "umbrella", "camera", "star")
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
NAMES = ("tom", "anna", "peter", "susan", "jack", "mary", "david", "linda")

COUNT = " ".join(NUMBERS[1:])
FIXED = (
    "hello nice to meet you",
    "my name is ada",
    "okay i will stop",
    "hi there",
    "you waved at me",
    "i see no hand",
    "i am listening",
    "goodbye see you soon",
    "yes you are smiling",
    "no you are not smiling",
    "i do not see anything",
)

# How users may put each request; %s is filled by the scenario.
USER_PHRASINGS = {
    "greet": ("hello", "hi there", "good morning"),
    "name": ("what is your name", "who are you"),
    "color": ("what color is it", "what color is this"),
    "object": ("what am i holding", "what is this"),
    "fingers": ("how many fingers", "how many fingers am i holding up"),
    "did": ("what did i just do",),
    "smile": ("am i smiling",),
    "count": ("please count to ten", "count to ten"),
    "stop": ("stop", "stop please", "wait stop"),
    "backchannel": ("uh huh", "right", "okay", "mm hmm"),
    "myname": ("my name is %s",),
    "recall": ("what is my name", "do you remember my name"),
    "plus": ("what is %s plus %s",),
    "bye": ("goodbye", "see you later"),
}
# How a request may open; the empty opening is the most common.
OPENINGS = ("", "hey ada", "ada", "so", "um", "tell me")
_UNOPENED = ("stop", "backchannel")  # said into the agent's own speech, so always short


def phrasings(request: str) -> list[str]:
    """Every way to put a request: each of its phrasings, alone and behind each opening."""
    openings = ("",) if request in _UNOPENED else OPENINGS
    return [f"{opening} {text}".strip() for text in USER_PHRASINGS[request] for opening in openings]


def color_phrase(color: str) -> str:
    """The answer to "what color is it"."""
    return f"it is {color}"


def object_phrase(color: str, name: str) -> str:
    """The answer to "what am i holding"."""
    return f"it is {'an' if color[0] == 'o' else 'a'} {color} {name}"


def fingers_phrase(count: int) -> str:
    """The answer to "how many fingers" for 0 to 5 of them."""
    return "one finger" if count == 1 else f"{NUMBERS[count]} fingers"


def agent_phrases() -> list[str]:
    """All 101 phrases the agent ever says, in a fixed order."""
    phrases = [*FIXED, COUNT, *map(color_phrase, COLORS)]
    phrases += [object_phrase(color, name) for color in COLORS for name in OBJECTS]
    phrases += [fingers_phrase(count) for count in range(6)]
    phrases += [f"nice to meet you {name}" for name in NAMES]
    phrases += [f"your name is {name}" for name in NAMES]
    phrases += [f"the answer is {number}" for number in NUMBERS]
    return phrases


def agent_jsgf() -> str:
    """JSGF grammar of the agent's language for `SpeechJudge`.

    Counting may stop early (an interrupted agent). No single word is legal: silence would pass as one.
    """

    def any_of(words: tuple[str, ...]) -> str:
        return "(" + " | ".join(words) + ")"

    count = "one two three [four [five [six [seven [eight [nine [ten]]]]]]]"
    sentences = [
        *FIXED,
        "<count>",
        "it is <color>",
        "it is (a | an) <color> <object>",
        f"{any_of(NUMBERS[:6])} (finger | fingers)",
        "nice to meet you <name>",
        "your name is <name>",
        "the answer is <number>",
    ]
    return (
        "#JSGF V1.0;\ngrammar agent;\n"
        f"public <sentence> = {' | '.join(sentences)} ;\n"
        f"<count> = {count} ;\n<color> = {any_of(COLORS)} ;\n<object> = {any_of(OBJECTS)} ;\n"
        f"<name> = {any_of(NAMES)} ;\n<number> = {any_of(NUMBERS)} ;\n"
    )
