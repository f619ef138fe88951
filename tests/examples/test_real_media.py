"""Real recordings: prompts decode with their texts, clips keep their clock, movies survive the round trip."""

import numpy as np
import pytest
from duplex_world.movie import write_movie
from duplex_world.real_media import face_clip, load_clip, prompt_texts, real_prompt
from make_demo_recording import PROMPTS, back_and_forth, prompts_with_pauses


def _has_prompts() -> bool:
    try:
        return bool(prompt_texts("en"))
    except RuntimeError:
        return False


needs_prompts = pytest.mark.skipif(not _has_prompts(), reason="needs apt packages asterisk-core-sounds-en{,-g722}")


@needs_prompts
def test_prompts_are_wideband_speech_with_text():
    texts = prompt_texts("en")
    assert len(texts) > 500 and not any(text.startswith("[") for text in texts.values())
    prompt = real_prompt("dir-welcome")
    assert prompt.text == "Welcome to the directory"
    assert prompt.wave.dtype == np.float32 and 24_000 < len(prompt.wave) < 72_000
    power = np.abs(np.fft.rfft(prompt.wave)) ** 2
    frequency = np.fft.rfftfreq(len(prompt.wave), 1 / 24_000)
    assert power[(frequency > 4_000) & (frequency < 7_500)].sum() > 100 * power[frequency > 8_500].sum()
    with pytest.raises(ValueError, match="no spoken prompt"):
        real_prompt("no-such-prompt")


@needs_prompts
def test_demo_sound_has_every_prompt_between_pauses():
    sound, lines = prompts_with_pauses(PROMPTS, 12.0)
    assert sound.shape == (12 * 24_000, 1) and len(lines) == len(PROMPTS)
    loud = np.sqrt((sound[:, 0].reshape(-1, 2_400) ** 2).mean(1)) > 0.01  # per 100 ms
    onsets = np.flatnonzero(loud[1:] & ~loud[:-1])
    assert not loud[:11].any() and len(onsets) >= len(PROMPTS)
    assert np.abs(sound).max() <= 0.51


def test_missing_things_are_named():
    with pytest.raises(ValueError, match="no prompts in 'xx'"):
        prompt_texts("xx")
    with pytest.raises(ValueError, match="no clip"):
        face_clip("nobody.mp4")


def test_a_clip_runs_back_and_forth_without_jumps():
    frames = np.arange(5)
    assert back_and_forth(frames, 11).tolist() == [0, 1, 2, 3, 4, 3, 2, 1, 0, 1, 2]


def test_movie_round_trip_keeps_pictures_and_crops_the_middle(tmp_path):
    shades = np.linspace(20, 230, 10).astype(np.uint8)
    frames = np.broadcast_to(shades[:, None, None, None], (10, 36, 64, 3)).copy()
    frames[:, :, :8] = 0  # cut away by the square crop
    write_movie(tmp_path / "a.mp4", frames, np.zeros((9_600, 2), np.float32))
    back = load_clip(tmp_path / "a.mp4")
    assert back.shape == frames.shape
    assert np.abs(back[:, 18, 40].astype(int) - frames[:, 18, 40]).max() < 8
    small = load_clip(tmp_path / "a.mp4", size=(18, 18))
    assert small.shape == (10, 18, 18, 3) and small[9].min() > 200
    with pytest.raises(ValueError, match="even"):
        write_movie(tmp_path / "b.mp4", frames[:, :35], np.zeros((9_600, 1)))
