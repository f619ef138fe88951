"""A small process that speaks for `espeak.py`: one JSON request per line in, one answer out. Standard library only.

espeak-ng keeps its noise and pitch-flutter phases in global variables, so what it says depends on all it said before.
Each utterance is therefore spoken in a fork of a freshly initialised process: same request, same samples, always.
"""

import ctypes
import json
import os
import sys

# constants of espeak-ng's speak_lib.h
_AUDIO_OUTPUT_SYNCHRONOUS, _INITIALIZE_PHONEME_EVENTS = 2, 1
_EVENT_LIST_TERMINATED, _EVENT_WORD, _EVENT_PHONEME = 0, 1, 7
_PARAMETER_RATE, _PARAMETER_PITCH, _PARAMETER_RANGE = 1, 3, 4
_CHARS_UTF8, _END_PAUSE = 1, 0x1000


class _EventId(ctypes.Union):
    _fields_ = [("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8)]


class _Event(ctypes.Structure):
    _fields_ = [
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _EventId),
    ]


_Callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))


def _load() -> tuple[ctypes.CDLL, int]:
    """The initialised library and its sample rate."""
    try:
        library = ctypes.CDLL("libespeak-ng.so.1")
    except OSError as error:
        raise RuntimeError("libespeak-ng.so.1 is missing; install it with `apt install espeak-ng`") from error
    sample_rate = library.espeak_Initialize(_AUDIO_OUTPUT_SYNCHRONOUS, 0, None, _INITIALIZE_PHONEME_EVENTS)
    if sample_rate <= 0:
        raise RuntimeError("espeak_Initialize failed; is the package espeak-ng-data installed?")
    uint, size, pointer = ctypes.c_uint, ctypes.c_size_t, ctypes.c_void_p
    library.espeak_Synth.argtypes = [ctypes.c_char_p, size, uint, ctypes.c_int, uint, uint, pointer, pointer]
    return library, sample_rate


def _synthesize(library: ctypes.CDLL, text: str, voice: str, rate: int, pitch: int) -> tuple[bytes, list]:
    """16-bit mono PCM and [(start sample, mnemonic, index of its word)]."""
    if library.espeak_SetVoiceByName(voice.encode()) != 0:
        raise ValueError(f"espeak-ng has no voice {voice!r}; `espeak-ng --voices` lists them, e.g. 'en-us+f3'")
    for parameter, value in ((_PARAMETER_RATE, rate), (_PARAMETER_PITCH, pitch), (_PARAMETER_RANGE, 50)):
        library.espeak_SetParameter(parameter, value, 0)
    pcm, phonemes, words = bytearray(), [], []

    def receive(samples, num_samples, events) -> int:
        if samples and num_samples > 0:
            pcm.extend(ctypes.string_at(samples, 2 * num_samples))
        i = 0
        while events[i].type != _EVENT_LIST_TERMINATED:
            if events[i].type == _EVENT_WORD:
                words.append(text[: events[i].text_position - 1].count(" "))
            elif events[i].type == _EVENT_PHONEME:
                symbol = events[i].id.string.decode("utf8", "ignore")
                phonemes.append((events[i].sample, symbol, words[-1] if words else 0))
            i += 1
        return 0

    callback = _Callback(receive)
    library.espeak_SetSynthCallback(callback)
    data = text.encode() + b"\0"
    library.espeak_Synth(data, len(data), 0, 1, 0, _CHARS_UTF8 | _END_PAUSE, None, None)
    return bytes(pcm), phonemes


def _answer(library: ctypes.CDLL, sample_rate: int, request: dict) -> None:
    try:
        pcm, phonemes = _synthesize(library, **request)
        header = {"sample_rate": sample_rate, "num_bytes": len(pcm), "phonemes": phonemes}
    except ValueError as error:
        pcm, header = b"", {"value_error": str(error)}
    sys.stdout.buffer.write(json.dumps(header).encode() + b"\n" + pcm)
    sys.stdout.buffer.flush()


def main() -> None:
    """Serve until standard input ends."""
    library, sample_rate = _load()
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            _answer(library, sample_rate, json.loads(line))
            os._exit(0)
        os.waitpid(child, 0)


if __name__ == "__main__":
    main()
