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
# How people put them; a bank of natural voices says these, and those above are among them.
NATURAL_PHRASINGS = {
    "greet": (
        *("hello", "hi there", "good morning", "hi", "hey", "hello there", "hey there"),
        *("good afternoon", "good evening", "hi ada", "hello ada"),
    ),
    "name": (
        *("what is your name", "who are you", "what's your name", "tell me your name", "your name please"),
        *("what are you called", "do you have a name", "may i ask your name", "can you tell me your name"),
        *("what should i call you", "who am i talking to"),
    ),
    "color": (
        *(
            "what color is it",
            "what color is this",
            "what's the color",
            "what's the color of this",
            "which color is it",
        ),
        *("which color is this", "what color do you see", "tell me the color", "can you tell me the color"),
        *("what color is that", "what color am i holding"),
    ),
    "object": (
        *("what am i holding", "what is this", "what's this", "what is it", "what's that", "what do i have here"),
        *("what do you see", "what is in my hand", "what's in my hand", "can you see what i'm holding"),
        *("do you know what this is", "what have i got here"),
    ),
    "fingers": (
        *("how many fingers", "how many fingers am i holding up", "how many fingers do you see", "count my fingers"),
        *("how many fingers are there", "how many fingers are up", "can you count my fingers", "how many are these"),
        *("how many fingers can you see", "how many fingers is this"),
    ),
    "did": (
        *("what did i just do", "what did i do", "did you see what i did", "what did you see me do", "what was that"),
        *("did you see that", "what did i do just now", "what have i just done", "what was i doing"),
        "can you tell me what i did",
    ),
    "smile": (
        *("am i smiling", "am i smiling now", "is this a smile", "do you see me smiling", "can you see me smile"),
        *("do i look happy", "tell me if i'm smiling", "do you think i'm smiling", "can you see if i'm smiling"),
        "do you see a smile",
    ),
    "count": (
        *("please count to ten", "count to ten", "count to ten please", "can you count to ten", "count up to ten"),
        *("could you count to ten", "count from one to ten", "would you count to ten please", "start counting"),
        *("let me hear you count to ten", "i want you to count to ten"),
    ),
    "stop": (
        *("stop", "stop please", "wait stop", "please stop", "stop it", "okay stop", "stop now", "stop counting"),
        *("that's enough", "no stop", "enough"),
    ),
    "backchannel": (*("uh huh", "right", "okay", "mm hmm", "yeah", "yes", "i see", "good", "sure", "great", "go on"),),
    "myname": (
        *("my name is %s", "i am %s", "i'm %s", "my name's %s", "call me %s", "you can call me %s", "this is %s"),
        *("people call me %s", "hello i'm %s", "hi my name is %s", "they call me %s"),
    ),
    "recall": (
        *("what is my name", "do you remember my name", "what's my name", "who am i", "do you know my name"),
        *("can you tell me my name", "tell me my name", "what was my name", "can you remember my name"),
        *("do you still know my name", "say my name"),
    ),
    "plus": (
        *("what is %s plus %s", "what's %s plus %s", "how much is %s plus %s", "%s plus %s", "what is %s and %s"),
        *("add %s and %s", "can you add %s and %s", "how much is %s and %s", "what does %s plus %s make"),
        *("what's the sum of %s and %s", "calculate %s plus %s"),
    ),
    "bye": (
        *("goodbye", "see you later", "bye", "bye bye", "goodbye ada", "bye ada", "see you", "see you soon"),
        *("good night", "have a nice day", "i have to go", "talk to you later", "take care"),
    ),
}
# How a request may open; the empty opening is the most common.
OPENINGS = ("", "hey ada", "ada", "so", "um", "tell me")
_UNOPENED = ("stop", "backchannel")  # said into the agent's own speech, so always short
PAUSED_QUESTION = ("what color", "is it")  # a question with a pause in its middle
# Speech that is not for the agent: it owes no answer to any of this.
OTHER_SPEECH = (
    *("did you feed the cat", "i will be home at six", "the train was late again", "we should buy some bread"),
    *("put it on the table please", "she said it would rain tomorrow", "where did i leave my keys", "turn left here"),
    *("that movie was really long", "can you pass the salt", "my sister lives in boston", "i think so too"),
    *("he never called me back", "let's meet at the station", "the meeting starts at nine", "is dinner ready"),
    *("it was a very nice party", "close the window it is cold", "how was your day", "have you seen my phone"),
    *("this coffee is too hot", "we missed the bus", "the kids are playing outside", "who won the game last night"),
    *("i need a new pair of shoes", "what time is it", "the car is in the garage", "give me a minute"),
    *("you should read this book", "no i don't think that's right", "just leave it there", "the music is too loud"),
    *("maybe next week", "are you coming with us", "i forgot to lock the door", "they moved to another town"),
    *("what a strange question", "the soup needs more pepper", "wait for me downstairs", "it doesn't matter"),
)


def phrasings(request: str, table: dict[str, tuple[str, ...]] = USER_PHRASINGS) -> list[str]:
    """Every way to put a request: each of its phrasings in `table`, alone and behind each opening."""
    openings = ("",) if request in _UNOPENED else OPENINGS
    return [f"{opening} {text}".strip() for text in table[request] for opening in openings]


def spelled_out(word: str) -> list[str]:
    """A contraction as the words it stands for: "what's" is "what", "is"."""
    for short, long in (("n't", "not"), ("'s", "is"), ("'m", "am")):
        if word.endswith(short):
            return [word.removesuffix(short), "us" if word == "let's" else long]
    return [word]


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
