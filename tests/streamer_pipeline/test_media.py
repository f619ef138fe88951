"""Recordings: whatever the file, units come out whole, on the clock and in step; and what we write reads back so."""

import os
import socket
import threading
import wave
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import torch
from streamer_pipeline.media.marks import COMMENT, GENERATED, PARTLY_GENERATED, XMP_BOX
from streamer_pipeline.media.recordings import RecordingError, RecordingReader, RecordingWriter, side_by_side
from streamer_pipeline.media.subtitles import captions, write_srt
from streamer_pipeline.units import FRAME_RATE, SAMPLE_RATE, AgentUnit, UserUnit

H, W = 48, 84  # the aspect ratio of 192 x 336
FRAME_S = 1 / FRAME_RATE
RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def flash_and_beep(
    path: Path,
    video: str | None = "libx264",
    audio: str | None = "aac",
    seconds: float = 2.0,
    fps: int = 30,
    size: tuple[int, int] = (320, 240),
    rate: int = 44_100,
    layout: str = "stereo",
    video_delay: float = 0.0,
    audio_delay: float = 0.0,
    at: float = 1.0,
    keep=lambda index: True,
    **options: str,
) -> Path:
    """A black film that turns white at `at` seconds of the file's time for 0.3 s, while a tone sounds.

    A delayed track starts late and its flash or beep still comes at `at`; `keep` says which frames have a packet.
    """
    with av.open(str(path), "w", options=options) as container:
        picture = container.add_stream(video, rate=fps, options={"g": "15"}) if video else None
        sound = container.add_stream(audio, rate=rate, layout=layout) if audio else None
        if picture:
            picture.width, picture.height, picture.pix_fmt = *size, "yuv420p"
            for i in filter(keep, range(round(video_delay * fps), round((video_delay + seconds) * fps))):
                white = at <= i / fps < at + 0.3
                image = np.full((size[1], size[0], 3), 255 if white else 0, np.uint8)
                frame = av.VideoFrame.from_ndarray(image, "rgb24")
                frame.pts, frame.time_base = i, Fraction(1, fps)
                container.mux(picture.encode(frame))
            container.mux(picture.encode(None))
        if sound:
            time = audio_delay + np.arange(round(seconds * rate)) / rate
            wave_form = 0.8 * np.sin(2 * np.pi * 440 * time) * ((time >= at) & (time < at + 0.3))
            form = sound.codec_context.format.name
            samples = np.tile(wave_form, (1 if layout == "mono" else 2, 1))
            samples = samples.astype(np.float32) if "flt" in form else (samples * 32767).astype(np.int16)
            samples = samples if form.endswith("p") else samples.T.reshape(1, -1)
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples), form, layout)
            frame.sample_rate, frame.pts, frame.time_base = rate, round(audio_delay * rate), Fraction(1, rate)
            container.mux(sound.encode(frame))
            container.mux(sound.encode(None))
    return path


def still(path: Path, image: np.ndarray, rotation: int = 0, aspect: Fraction | None = None) -> Path:
    """A few equal frames; rotation is what a player has to do, in degrees counterclockwise."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "5"})
        stream.height, stream.width, stream.pix_fmt = *image.shape[:2], "yuv420p"
        if rotation:
            stream.set_display_rotation(rotation)
        if aspect:
            stream.codec_context.sample_aspect_ratio = aspect
        for _ in range(4):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, "rgb24")))
        container.mux(stream.encode(None))
    return path


def read(path: Path, height: int = H, width: int = W) -> tuple[RecordingReader, torch.Tensor, torch.Tensor]:
    """The reader, all its sound (T,) and all its pictures (T, 3, H, W)."""
    reader = RecordingReader(path, height, width)
    units = list(reader)
    assert len(units) == reader.num_units and all(isinstance(unit, UserUnit) for unit in units)
    return reader, torch.cat([u.audio[0] for u in units]), torch.cat([u.video for u in units], dim=1).transpose(0, 1)


def onsets(sound: torch.Tensor, pictures: torch.Tensor) -> tuple[float, float]:
    """Seconds at which the tone and the flash begin."""
    beep, flash = (sound.abs() > 0.1).nonzero(), (pictures.mean((1, 2, 3)) > 0).nonzero()
    return beep[0].item() / SAMPLE_RATE, flash[0].item() / FRAME_RATE


def colour(pictures: torch.Tensor, y: float, x: float) -> tuple[int, ...]:
    """The colour of the first picture at a place given in parts of its height and width, rounded to 0 or 255."""
    values = pictures[0, :, int(y * pictures.shape[2]), int(x * pictures.shape[3])]
    assert (values.abs() > 0.8).all(), values
    return tuple(255 if value > 0 else 0 for value in values)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("webcam.mp4", {}),
        ("telephone.mkv", {"audio": "pcm_s16le", "rate": 8000, "layout": "mono", "fps": 15}),
        ("browser.webm", {"video": "libvpx", "audio": "libopus", "rate": 48_000}),
        ("portrait.mov", {"size": (180, 320), "fps": 60}),
        ("old.avi", {"video": "mpeg4", "audio": "pcm_s16le", "rate": 22_050, "fps": 24}),
        ("broadcast.ts", {"fps": 50}),
        ("late.mkv", {"video_delay": 3.0, "audio_delay": 3.0, "at": 4.0}),
    ],
)
def test_any_recording_becomes_units_in_step(tmp_path, name, settings):
    reader, sound, pictures = read(flash_and_beep(tmp_path / name, **settings))
    assert reader.num_units == 13 and reader.notes == []  # 2 s are 12.5 units
    beep, flash = onsets(sound, pictures)
    assert abs(beep - flash) <= FRAME_S and abs(flash - 1) < 1.1 * FRAME_S  # .ts hides that AAC begins 23 ms early
    tone = sound[int(1.05 * SAMPLE_RATE) : int(1.25 * SAMPLE_RATE)]
    crossings = ((tone >= 0).int().diff() > 0).sum().item()
    assert abs(crossings / 0.2 - 440) < 10 and 0.7 < tone.abs().max() < 0.9


@pytest.mark.parametrize(("video_delay", "audio_delay"), [(0.5, 0.0), (0.0, 0.5)])
def test_a_late_track_stays_late(tmp_path, video_delay, audio_delay):
    path = flash_and_beep(tmp_path / "a.mp4", video_delay=video_delay, audio_delay=audio_delay)
    reader, sound, pictures = read(path)
    assert reader.num_units == 16  # 2.5 s
    beep, flash = onsets(sound, pictures)
    assert abs(beep - 1) <= FRAME_S and abs(flash - 1) <= FRAME_S


def test_a_gap_in_the_sound_becomes_silence(tmp_path):
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        for start, value in ((0.0, 8000), (1.0, 16_000), (1.35, -8000)):  # 0.3 s each; the last gap is of 50 ms
            frame = av.AudioFrame.from_ndarray(np.full((1, 2400), value, np.int16), "s16", "mono")
            frame.sample_rate, frame.pts, frame.time_base = 8000, round(start * 8000), Fraction(1, 8000)
            container.mux(stream.encode(frame))
    _, sound, _ = read(path)
    levels = [sound[int(time * SAMPLE_RATE)].item() for time in (0.15, 0.6, 0.99, 1.01, 1.29, 1.325, 1.36, 1.64, 1.66)]
    assert levels == pytest.approx([0.244, 0, 0, 0.488, 0.488, 0, -0.244, -0.244, 0], abs=0.01)


def test_variable_frame_rate_goes_by_timestamps(tmp_path):
    path = flash_and_beep(tmp_path / "a.mp4", keep=lambda i: i % 7 == 0 or i in (1, 2, 30, 31))
    reader, sound, pictures = read(path)
    beep, flash = onsets(sound, pictures)
    assert reader.num_units == 14 and abs(beep - flash) <= FRAME_S  # mp4 lets the last frame last like the one before
    assert pictures[int(1.4 * FRAME_RATE) :].mean((1, 2, 3)).max() < -0.9  # and it ends when it should


def test_raw_video_without_timestamps_and_with_a_new_size_on_the_way(tmp_path):
    small, large = np.zeros((64, 64, 3), np.uint8), np.zeros((128, 192, 3), np.uint8)
    small[:], large[:] = RED, GREEN
    small, large = still(tmp_path / "a.h264", small), still(tmp_path / "b.h264", large)
    both = tmp_path / "both.h264"
    both.write_bytes(small.read_bytes() + large.read_bytes())
    reader, _, pictures = read(both)
    assert reader.num_units == 2
    assert colour(pictures[:4], 0.5, 0.5) == RED and colour(pictures[4:], 0.5, 0.5) == GREEN


def test_a_missing_track_is_silence_or_black_and_is_said(tmp_path):
    reader, sound, pictures = read(flash_and_beep(tmp_path / "a.wav", video=None, audio="pcm_s16le"))
    assert reader.num_units == 13 and (pictures == -1).all() and sound.abs().max() > 0.7
    assert reader.notes == ["no picture in the file: black frames instead"]
    reader, sound, pictures = read(flash_and_beep(tmp_path / "a.mp4", audio=None))
    assert reader.num_units == 13 and not sound.any() and pictures.max() > 0.9
    assert reader.notes == ["no sound in the file: silence instead"]


def test_the_shorter_track_is_continued(tmp_path):
    path = flash_and_beep(tmp_path / "a.mkv", audio="pcm_s16le", at=0.9, keep=lambda i: i < 30)
    reader, sound, pictures = read(path)  # 1 s of picture, white from 0.9 s, and 2 s of sound
    assert reader.num_units == 13 and (pictures[25:] > 0.9).all()
    assert not sound[2 * SAMPLE_RATE :].any()


def test_pictures_are_cut_from_the_centre_and_turned_upright(tmp_path):
    portrait = np.zeros((320, 160, 3), np.uint8)
    portrait[:110], portrait[110:160], portrait[160:210], portrait[210:] = RED, GREEN, BLUE, RED
    _, _, pictures = read(still(tmp_path / "a.mp4", portrait))
    assert pictures.shape[1:] == (3, H, W)
    assert (colour(pictures, 0.3, 0.5), colour(pictures, 0.8, 0.5)) == (GREEN, BLUE)  # 160 x 91 of 160 x 320

    quarters = np.zeros((96, 168, 3), np.uint8)
    quarters[:48, :84], quarters[48:, :84], quarters[48:, 84:] = RED, GREEN, BLUE
    corners = [(0.1, 0.1), (0.1, 0.9), (0.9, 0.1), (0.9, 0.9)]
    black = (0, 0, 0)
    for rotation, expected in {
        0: [RED, black, GREEN, BLUE],
        90: [black, BLUE, RED, GREEN],
        -90: [GREEN, RED, BLUE, black],
        180: [BLUE, GREEN, black, RED],
    }.items():
        _, _, pictures = read(still(tmp_path / f"{rotation}.mp4", quarters, rotation))
        assert [colour(pictures, *corner) for corner in corners] == expected, rotation


def test_oblong_pixels_are_made_square(tmp_path):
    image = np.zeros((240, 320, 3), np.uint8)
    image[:, :40], image[:, 40:] = RED, GREEN
    _, _, square = read(still(tmp_path / "square.mp4", image))
    assert colour(square, 0.5, 0.05) == RED
    _, _, pictures = read(still(tmp_path / "oblong.mp4", image, aspect=Fraction(2)))  # shown as 640 x 240
    assert colour(pictures, 0.5, 0.05) == GREEN


def test_stereo_is_averaged_and_never_clipped(tmp_path):
    path = tmp_path / "a.wav"
    with wave.open(str(path), "wb") as file:
        file.setnchannels(2), file.setsampwidth(2), file.setframerate(SAMPLE_RATE)
        ramp = np.linspace(-32768, 32767, 4 * 3840).astype(np.int16)
        file.writeframes(np.stack([ramp, ramp * 0], 1).tobytes() + np.stack([ramp, ramp], 1).tobytes())
    _, sound, _ = read(path)
    one, two = sound.chunk(2)
    ramp = torch.from_numpy(ramp) / 32768
    assert torch.allclose(one, ramp / 2, atol=1e-3) and torch.allclose(two, ramp, atol=1e-3)


def test_reading_again_gives_the_same_units(tmp_path):
    reader = RecordingReader(flash_and_beep(tmp_path / "a.mp4", seconds=1.2), H, W)
    for one, two in zip(reader, reader, strict=True):  # interleaved: nothing of an iteration is kept on the reader
        assert torch.equal(one.audio, two.audio) and torch.equal(one.video, two.video)


def test_a_file_that_breaks_off_gives_what_is_there(tmp_path):
    path = flash_and_beep(tmp_path / "a.mp4", seconds=6.0, movflags="+faststart")
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    reader, sound, pictures = read(cut)
    assert 1 <= reader.num_units < RecordingReader(path, H, W).num_units
    assert any("the file ends early: it announces 6.0 s" in note for note in reader.notes)
    beep, flash = onsets(sound, pictures)
    assert abs(beep - flash) <= FRAME_S


def test_damage_in_the_middle_does_not_end_the_recording(tmp_path):
    path = flash_and_beep(tmp_path / "a.mkv", audio="flac", layout="mono")
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 400] = bytes(400)
    path.write_bytes(data)
    reader, _, _ = read(path)
    assert reader.num_units == 13 and reader.notes == ["damaged sound: what could not be decoded was left out"]


@pytest.mark.parametrize(("width", "height"), [(1, 1), (2, 2), (9, 1), (4, 4), (2000, 2)])
def test_a_picture_of_a_few_pixels_is_a_picture(tmp_path, width, height):
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv410p"  # 16 pixels share a colour
        image = np.full((height, width, 3), 255, np.uint8)
        for _ in range(4):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, "rgb24")))
        container.mux(stream.encode(None))
    _, _, pictures = read(path)
    assert pictures.shape == (4, 3, H, W) and pictures.min() > 0.9


def subtitles_alone(path: Path) -> None:
    with av.open(str(path.with_suffix(".srt"))) as words, av.open(str(path), "w") as container:
        stream = container.add_stream_from_template(words.streams.subtitles[0])
        for packet in words.demux():
            if packet.dts is not None:
                packet.stream = stream
                container.mux(packet)


def bad_files(folder: Path) -> dict[str, tuple[Path, str]]:
    whole = flash_and_beep(folder / "whole.mp4").read_bytes()
    text = b"this is not a film\n" * 100
    contents = {"empty.mp4": b"", "renamed.mp4": text, "note.txt": text, "truncated.mp4": whole[: len(whole) // 2]}
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    with wave.open(str(folder / "silent.wav"), "wb") as file:
        file.setnchannels(1), file.setsampwidth(2), file.setframerate(8000)
    (folder / "words.srt").write_text("1\n00:00:01,000 --> 00:00:02,000\nhello\n")
    subtitles_alone(folder / "words.mkv")
    (folder / "list.mp4").write_text("ffconcat version 1.0\nfile whole.mp4\n")
    (folder / "list.m3u8").write_text("#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:2,\nwhole.mp4\n#EXT-X-ENDLIST\n")
    cv2.imwrite(str(folder / "still1.png"), np.zeros((8, 8, 3), np.uint8))
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(folder / "socket"))
    reasons = {
        "empty.mp4": "is empty",
        "renamed.mp4": "cannot be read as media",
        "note.txt": "text, subtitles, single pictures and lists that name other files",
        "truncated.mp4": "cannot be read as media",
        "silent.wav": "holds no sound and no picture",
        "words.srt": "not in a format that holds a recording",
        "words.mkv": "holds no sound and no picture",
        "list.mp4": "lists that name other files",
        "list.m3u8": "lists that name other files",
        "still1.png": "single pictures",
        "still%d.png": "does not exist",
        "missing.mp4": "does not exist",
        "whole.mp4/a.mp4": "does not exist",
        "x" * 300: "cannot be opened",
        "socket": "is a device or a socket",
    }
    outside = {
        "dir": (folder, "is a directory"),
        "device": (Path("/dev/zero"), "is a device or a socket"),
        "address": (Path("https://example.org/a.mp4"), "is an address, not a file"),
    }
    return {name: (folder / name, reason) for name, reason in reasons.items()} | outside


def test_what_is_no_recording_is_refused_by_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a socket's name is short
    for path, reason in bad_files(Path()).values():
        with pytest.raises(RecordingError, match=reason) as error:
            RecordingReader(path)
        assert str(path) in str(error.value) and "give a" in str(error.value) and isinstance(error.value, ValueError)


def test_a_list_of_files_is_not_even_followed(tmp_path, monkeypatch):
    """What a stranger's file names is never opened: what lies there is not a recording, and nobody notices."""
    (tmp_path / "other.mp4").write_text("no film\n")
    (tmp_path / "list.mp4").write_text("ffconcat version 1.0\nfile other.mp4\n")
    before = (tmp_path / "other.mp4").stat().st_atime_ns
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RecordingError, match="lists that name other files"):
        RecordingReader("list.mp4")
    assert (tmp_path / "other.mp4").stat().st_atime_ns == before


def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    """As in `wan-streamer talk <(...)`."""
    content = flash_and_beep(tmp_path / "a.mkv", seconds=0.2, at=0.1).read_bytes()
    reading, writing = os.pipe()
    end = threading.Timer(5.0, os.close, [writing])  # who reads it all the same comes to an end
    try:
        os.write(writing, content)
        end.start()
        with pytest.raises(RecordingError, match=f"/dev/fd/{reading} is a pipe, which can be read once only"):
            RecordingReader(f"/dev/fd/{reading}")
    finally:
        end.cancel()
        os.close(reading)


def test_a_colon_in_a_name_is_no_protocol(tmp_path, monkeypatch):
    with RecordingWriter(tmp_path / "call:10:30.mp4", H, W) as writer:
        writer.write(smooth_units(1)[0])
    assert [path.name for path in tmp_path.iterdir()] == ["call:10:30.mp4"]
    assert RecordingReader(tmp_path / "call:10:30.mp4", H, W).num_units == 1
    (tmp_path / "call:10:30.mp4").rename(tmp_path / "data:x.mp4")
    monkeypatch.chdir(tmp_path)
    assert RecordingReader("data:x.mp4", H, W).num_units == 1


@pytest.mark.parametrize("size", [(0, 84), (48, -2), (2.5, 84), ("48", 84), (None, 84)])
def test_a_size_is_whole_and_positive(tmp_path, size):
    with pytest.raises(ValueError, match=r"(height|width) is a whole number of pixels, at least 1; got"):
        RecordingReader(flash_and_beep(tmp_path / "a.mp4", seconds=0.2), *size)


def smooth_units(num_units: int, seed: int = 0) -> list[AgentUnit]:
    """Units with smooth pictures (what a codec keeps), white and sounding in unit 3 only."""
    ramp = torch.linspace(-0.8, 0.8, W).expand(H, W)
    units = []
    for k in range(num_units):
        picture = torch.stack([ramp, ramp.flip(1), torch.full((H, W), -0.5 + 0.1 * seed)])
        video = torch.ones(3, 4, H, W) if k == 3 else picture[:, None].repeat(1, 4, 1, 1)
        tone = 0.5 * torch.sin(2 * torch.pi * 440 * torch.arange(3840) / SAMPLE_RATE)[None] * (k == 3)
        units.append(AgentUnit(tone, video, "", "SPEAK", index=k))
    return units


def test_what_is_written_reads_back(tmp_path):
    units, path = smooth_units(10), tmp_path / "agent.mp4"
    with RecordingWriter(path, H, W) as writer:
        for unit in units:
            writer.write(unit)
    with av.open(str(path)) as container:
        video, audio = container.streams
        assert (video.codec_context.name, audio.codec_context.name) == ("h264", "aac")
        assert video.pix_fmt == "yuv420p" and video.start_time == 0 and audio.start_time == 0
        assert video.duration * video.time_base == Fraction(16, 10)
        assert abs(audio.duration * audio.time_base - Fraction(16, 10)) <= Fraction(1024, SAMPLE_RATE)

    reader, sound, pictures = read(path)
    assert reader.num_units == 10 and reader.notes == []
    beep, flash = onsets(sound, pictures)
    assert flash == pytest.approx(0.48) and abs(beep - flash) <= FRAME_S
    expected = torch.cat([unit.video for unit in units], dim=1).transpose(0, 1)
    assert (pictures - expected).abs().mean() < 0.03  # the colour matrix and range of both directions agree
    tone = torch.cat([unit.audio[0] for unit in units])
    assert (sound - tone).square().mean() < 0.01 * tone.square().mean()


def test_side_by_side_keeps_the_sides_apart(tmp_path):
    agents = smooth_units(4)
    path = tmp_path / "both.mp4"
    with RecordingWriter(path, H, 2 * W, num_channels=2) as writer:
        for agent in agents:
            user = UserUnit(torch.zeros(1, 3840), torch.full((3, 4, H, W), -1.0))
            wide = side_by_side(user, agent)
            assert (wide.state, wide.index) == (agent.state, agent.index)
            writer.write(wide)
    with av.open(str(path)) as container:
        sound = np.concatenate([frame.to_ndarray() for frame in container.decode(audio=0)], axis=1)
        assert np.abs(sound[0]).max() < 0.02 and np.abs(sound[1]).max() > 0.4
    _, _, pictures = read(path, H, 2 * W)
    assert pictures[..., : W - 4].max() < -0.9 and pictures[12:, :, :, W + 4 :].min() > 0.9


def test_an_interrupted_recording_can_be_played(tmp_path):
    path = tmp_path / "a.mp4"
    writer = RecordingWriter(path, H, W)
    with pytest.raises(RuntimeError, match="the model failed"), writer:
        for unit in smooth_units(5):
            writer.write(unit)
        raise RuntimeError("the model failed")
    writer.close()  # a second time
    with pytest.raises(ValueError, match="is finished"):
        writer.write(unit)
    assert RecordingReader(path, H, W).num_units == 5


def test_a_recording_of_nothing_leaves_no_file(tmp_path):
    with RecordingWriter(tmp_path / "a.mp4", H, W):
        pass
    assert list(tmp_path.iterdir()) == []


def test_writer_says_what_is_right(tmp_path):
    with pytest.raises(ValueError, match="even height and width, got 47 x 84"):
        RecordingWriter(tmp_path / "a.mp4", 47, 84)
    with pytest.raises(ValueError, match="num_channels is 1"):
        RecordingWriter(tmp_path / "a.mp4", H, W, num_channels=3)
    with pytest.raises(ValueError, match="directory that exists"):
        RecordingWriter(tmp_path / "nowhere" / "a.mp4", H, W)
    with pytest.raises(OSError, match=rf"cannot write {tmp_path}: Is a directory"):
        RecordingWriter(tmp_path, H, W)
    wide = RecordingWriter(tmp_path / "a.mp4", H, 2 * W)
    with pytest.raises(ValueError, match=r"takes audio \(1, 3840\) and video \(3, 4, 48, 168\), got"), wide:
        wide.write(smooth_units(1)[0])
    silence, nan = torch.zeros(1, 3840), torch.full((3, 4, H, W), float("nan"))
    with pytest.raises(ValueError, match="unit 0 holds NaN"), RecordingWriter(tmp_path / "a.mp4", H, W) as writer:
        writer.write(AgentUnit(silence, nan, "", "SPEAK"))


def spoken(**words: str) -> list[str]:
    """u3="hello" puts hello in unit 3."""
    at = {int(key[1:]): text for key, text in words.items()}
    return [at.get(k, "") for k in range(max(at) + 11)]


def test_captions_end_at_a_pause():
    texts = spoken(u0="good", u3="morning", u8="how", u9="are you")
    assert captions(texts) == [(0.0, 1.28, "good morning"), (1.28, 2.24, "how are you")]
    assert captions(spoken(u0="good", u4="morning")) == [(0.0, 1.44, "good morning")]  # 3 empty units are no pause
    assert captions(["", None, ""]) == [] and captions([]) == []
    assert captions(["", "bye"]) == [(0.16, 0.32, "bye")]  # not past the last unit


def test_captions_end_after_ten_words_or_four_seconds():
    fast = captions([f"w{k}" for k in range(23)])
    assert [len(text.split()) for _, _, text in fast] == [10, 10, 3]
    slow = captions([f"w{k}" if k % 4 == 0 else "" for k in range(60)])
    assert all(end - start <= 4.0 + 1e-9 for start, end, _ in slow) and len(slow) == 3
    for found in (fast, slow):
        assert all(one[1] <= two[0] for one, two in pairwise(found))
    assert len(captions([" ".join("abcdefghijklmno")])) == 1  # a unit is never split


def test_subword_pieces_are_joined():
    assert captions(["Hel", "lo", " wor", "ld", "", " there."])[0][2] == "Hello world there."
    assert captions(["hello", "world"])[0][2] == "hello world"
    texts = spoken(u0=" Yes", u1=".", u20="No")
    assert [text for _, _, text in captions(texts)] == ["Yes.", "No"]


def test_scripts_without_spaces_get_none():
    """And their captions are as short as others'."""
    assert captions(["你好", "世界"])[0][2] == "你好世界"
    assert captions([" 你", "好", "世", "界", "。"])[0][2] == "你好世界。"
    assert captions(["hello", "你好", "world"])[0][2] == "hello你好world"
    assert captions([" hello", " 你", "好", " world"])[0][2] == "hello 你好 world"
    for texts in (["语"] * 60, [" 语", *["语"] * 59], [" สวัสดี" if k == 0 else "สวัสดี" for k in range(60)]):
        found = captions(texts)
        assert len(found) == 6 and all(end - start <= 4.0 + 1e-9 for start, end, _ in found)
        assert not any(" " in text for _, _, text in found)


def test_srt_has_timecodes(tmp_path):
    silence, black = torch.zeros(1, 3840), torch.zeros(3, 4, H, W)
    texts = [""] * 25_000
    texts[1], texts[24_000] = "héllo", "bye"
    write_srt(tmp_path / "transcript.srt", (AgentUnit(silence, black, text, "SPEAK") for text in texts))
    assert (tmp_path / "transcript.srt").read_text(encoding="utf-8") == (
        "1\n00:00:00,160 --> 00:00:00,960\nhéllo\n\n2\n01:04:00,000 --> 01:04:00,800\nbye\n"
    )


def test_srt_tells_the_two_sides_apart(tmp_path):
    silence, black = torch.zeros(1, 3840), torch.zeros(3, 4, H, W)
    said, heard = ["", "", "", " it", " is", " red", ""], [" what", " is", " this", "", "", "", ""]
    write_srt(tmp_path / "transcript.srt", (AgentUnit(silence, black, text, "SPEAK") for text in said), heard)
    assert (tmp_path / "transcript.srt").read_text(encoding="utf-8") == (
        "1\n00:00:00,000 --> 00:00:01,120\nuser: what is this\n\n2\n00:00:00,480 --> 00:00:01,120\nit is red\n"
    )


def test_films_of_the_agent_say_that_they_are_generated_and_films_of_the_user_do_not(tmp_path):
    user = UserUnit(torch.zeros(1, 3840), torch.zeros(3, 4, 16, 16))
    agent = AgentUnit(user.audio, user.video, "", "speak", 0)
    for name, unit, source_type in (
        ("user.mp4", user, None),
        ("agent.mp4", agent, GENERATED),
        ("both.mp4", side_by_side(user, agent), PARTLY_GENERATED),
    ):
        with RecordingWriter(tmp_path / name, *unit.video.shape[2:], len(unit.audio)) as writer:
            writer.write(unit)
        with av.open(str(tmp_path / name)) as container:
            assert container.metadata.get("comment") == (COMMENT if source_type else None)
        packets = xmp_packets((tmp_path / name).read_bytes())
        assert len(packets) == (source_type is not None) and all(f'"{source_type}"' in packet for packet in packets)
        assert RecordingReader(tmp_path / name, 16, 16).num_units == 1


def xmp_packets(film: bytes) -> list[str]:
    """Of an mp4, whose boxes begin with their length and kind."""
    packets, start = [], 0
    while start < len(film):
        length, kind = int.from_bytes(film[start : start + 4], "big"), film[start + 4 : start + 8]
        if kind == b"uuid" and film[start + 8 : start + 24] == XMP_BOX.bytes:
            packets.append(film[start + 24 : start + length].decode())
        start += length
    return packets
