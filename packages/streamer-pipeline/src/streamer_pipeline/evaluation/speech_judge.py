"""An independent judge of words: pocketsphinx with a closed grammar and a rejection margin.

The judge hears the agent's 24 kHz sound and never sees the model, its text or its intent.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import pocketsphinx
from scipy.signal import resample_poly

from ..units import SAMPLE_RATE

JUDGE_RATE = 16_000
PADDING_SECONDS = 0.15
# cmn='batch': with the default live mean the answer to one clip would depend on the clips before it.
DECODER_OPTIONS = {"samprate": JUDGE_RATE, "lm": None, "loglevel": "FATAL", "cmn": "batch", "bestpath": False}
WIDE_BEAMS = {"beam": 1e-80, "wbeam": 1e-60, "pbeam": 1e-80}
_NARROW_BEAMS = {"beam": 1e-60, "wbeam": 1e-40, "pbeam": 1e-60}


@dataclass(frozen=True)
class Verdict:
    """What the judge heard: the best legal `text` ("" for none) and its `margin`.

    margin = 1000 x (grammar score - free phone loop score) per 10 ms frame. Above 0 the phrase explains the sound
    about as well as free phones do; far below, the sound was something else and the text is only the least bad guess.
    """

    text: str
    margin: float


def to_pcm(wave: np.ndarray, sample_rate: int, level: float | None = None) -> bytes:
    """16 kHz 16-bit PCM between two pads of faint noise; `level` sets the peak."""
    divisor = np.gcd(JUDGE_RATE, sample_rate)
    wave = resample_poly(np.asarray(wave, np.float32), JUDGE_RATE // divisor, sample_rate // divisor)
    peak = np.abs(wave).max(initial=0.0)
    if level is not None and peak > 1e-4:
        wave = wave * (level / peak)
    # Digital zeros would give the cepstral mean infinite weight on silence.
    pad = np.random.default_rng(0).standard_normal(int(PADDING_SECONDS * JUDGE_RATE)) * 1e-4
    wave = np.concatenate([pad, wave, pad])
    return (np.clip(wave, -1, 1) * 32767).astype("<i2").tobytes()


def listen(decoder: pocketsphinx.Decoder, pcm: bytes) -> None:
    """Let a decoder hear one whole utterance."""
    decoder.start_utt()
    decoder.process_raw(pcm, full_utt=True)
    decoder.end_utt()


def _decode(decoder: pocketsphinx.Decoder, pcm: bytes) -> tuple[str, float]:
    listen(decoder, pcm)
    best = decoder.hyp()
    return (best.hypstr, best.score) if best else ("", -1e9)


class SpeechJudge:
    """Which phrase of a JSGF grammar was said, and how sure that is.

    Example::

        judge = SpeechJudge(agent_jsgf())
        judge(wave).text == "it is a red apple"
    """

    def __init__(self, jsgf: str) -> None:
        with tempfile.NamedTemporaryFile("w", suffix=".jsgf") as file:  # the decoder takes a grammar only as a file
            file.write(jsgf)
            file.flush()
            self._grammar = pocketsphinx.Decoder(jsgf=file.name, lw=1.0, **DECODER_OPTIONS, **WIDE_BEAMS)
        phones = pocketsphinx.get_model_path("en-us/en-us-phone.lm.bin")
        self._phone_loop = pocketsphinx.Decoder(allphone=phones, lw=2.0, **DECODER_OPTIONS, **_NARROW_BEAMS)

    def __call__(self, wave: np.ndarray, sample_rate: int = SAMPLE_RATE) -> Verdict:
        """Judge one utterance: `wave` `(num_samples,)` float, any level."""
        pcm = to_pcm(wave, sample_rate, level=0.6)
        text, score = _decode(self._grammar, pcm)
        _, free_score = _decode(self._phone_loop, pcm)
        return Verdict(text, 1000 * (score - free_score) / max(1, self._grammar.n_frames()))


def reference_thresholds(
    judge: SpeechJudge, phrases: Iterable[str], render: Callable[[str], np.ndarray]
) -> dict[str, float]:
    """Margin each phrase must reach: min(0, margin of the reference rendition - 0.1).

    Set once on the reference voice (short phrases score just below 0 even when perfect), never on a model's output.
    `render` gives a phrase's 24 kHz reference wave.
    """
    return {phrase: min(0.0, judge(render(phrase)).margin - 0.1) for phrase in phrases}
