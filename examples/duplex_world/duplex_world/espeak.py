"""The users' voices: espeak-ng with the exact time of every phoneme, the same samples for the same request.

Needs the system library (`apt install espeak-ng`). espeak-ng is GPL-3: it is called, never copied here.
"""

import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from scipy.signal import resample_poly

from .clock import SAMPLE_RATE
from .phonemes import PhonemeSpan


@functools.cache
def _server(process_id: int) -> subprocess.Popen:
    """This process's own server: a forked data-loading worker must not share its parent's pipe."""
    command = [sys.executable, str(Path(__file__).with_name("espeak_server.py"))]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


@functools.lru_cache(maxsize=256)
def speak(text: str, voice: str = "en-us", rate: int = 175, pitch: int = 50) -> tuple[np.ndarray, list[PhonemeSpan]]:
    """Say `text`.

    Args:
        voice: espeak-ng voice and variant, e.g. "en-us+f3".
        rate: words per minute.
        pitch: 0 to 99.

    Returns:
        wave `(num_samples,)` float32 at 24 kHz, with its trailing pause, read-only; and its phonemes (espeak
        mnemonics), which follow each other without gaps.

    Raises:
        ValueError: unknown voice. RuntimeError: espeak-ng is not installed.
    """
    server = _server(os.getpid())
    request = {"text": text, "voice": voice, "rate": int(rate), "pitch": int(pitch)}
    try:
        server.stdin.write(json.dumps(request).encode() + b"\n")
        server.stdin.flush()
        header = json.loads(server.stdout.readline())
    except (BrokenPipeError, json.JSONDecodeError) as error:
        _server.cache_clear()
        raise RuntimeError("the espeak-ng server ended; is espeak-ng installed (`apt install espeak-ng`)?") from error
    if "value_error" in header:
        raise ValueError(header["value_error"])
    wave = np.frombuffer(server.stdout.read(header["num_bytes"]), np.int16)
    rate_in = header["sample_rate"]
    starts = [sample / rate_in for sample, *_ in header["phonemes"]]
    ends = [*starts[1:], len(wave) / rate_in]
    words = text.split(" ")
    spans = [
        PhonemeSpan(start, end, symbol, "" if symbol.startswith("_") else words[word])
        for start, end, (_, symbol, word) in zip(starts, ends, header["phonemes"], strict=True)
    ]
    divisor = np.gcd(SAMPLE_RATE, rate_in)
    wave = resample_poly(wave.astype(np.float32) / 32768, SAMPLE_RATE // divisor, rate_in // divisor)
    wave = wave.astype(np.float32)
    wave.setflags(write=False)
    return wave, spans
