"""The parts of the live server that need no network."""

import asyncio
from fractions import Fraction

import numpy as np
import pytest
import torch

pytest.importorskip("aiortc", reason="the extra [serve] is not installed")

from av import AudioFrame, VideoFrame
from live_server import options
from streamer_pipeline import AgentUnit, UserUnit
from streamer_pipeline.serve import ServeOptions, measure_capacity
from streamer_pipeline.serve.batching import BatchedSession, BatchStepper
from streamer_pipeline.serve.protocols.page import MessageError, parse_message
from streamer_pipeline.serve.tracks import AgentTracks, PictureIntake, SoundIntake
from test_session import Fragile
from tiny_parts import SIZE, open_session, random_units, tiny_pipeline


def sound(start: int, samples: int = 960, rate: int = 48_000) -> AudioFrame:
    wave = np.sin(2 * np.pi * 440 * (start + np.arange(samples)) / rate)
    frame = AudioFrame.from_ndarray((wave * 16_000).astype(np.int16).repeat(2)[None], "s16", "stereo")
    frame.sample_rate, frame.pts, frame.time_base = rate, start, Fraction(1, rate)
    return frame


def picture(ticks: int, width: int = 64, height: int = 48, level: int = 255) -> VideoFrame:
    frame = VideoFrame.from_ndarray(np.full((height, width, 3), level, np.uint8), "rgb24")
    frame.pts, frame.time_base = ticks, Fraction(1, 90_000)
    return frame


def test_sound_keeps_its_length_and_a_lost_packet_is_silence():
    intake = SoundIntake()
    whole = torch.cat([intake.convert(sound(960 * i)) for i in range(50)], dim=1)
    assert abs(whole.shape[1] - 24_000) < 240 and 0.4 < whole.abs().max() <= 1
    gap = intake.convert(sound(960 * 52))
    assert gap.shape[1] > 1_100 and gap[:, :900].abs().max() == 0


def test_a_jump_of_the_clients_clock_does_not_make_silence_without_end():
    intake = SoundIntake()
    for start in (0, 2**31, 5):
        assert intake.convert(sound(start)).shape[1] <= 480
    pictures = PictureIntake(48, 96)
    for ticks in (0, 2**31, 5):
        assert pictures.convert(picture(ticks)).shape[1] == 1


@pytest.mark.parametrize("rate", [10, 15, 25, 30, 60])
def test_any_frame_rate_becomes_25(rate):
    intake = PictureIntake(48, 96)
    frames = [intake.convert(picture(90_000 * i // rate)) for i in range(4 * rate)]
    assert abs(sum(each.shape[1] for each in frames) - 100) <= 2
    assert all(each.shape[::2] == (3, 48) and each.shape[3] == 96 for each in frames)
    assert all(each.abs().max() <= 1 for each in frames if each.shape[1])


def test_a_picture_is_cut_from_the_centre_not_stretched_and_may_not_be_huge():
    frame = picture(0, 400, 100, level=0)
    pixels = frame.to_ndarray()
    pixels[:, 100:300] = 255  # the centre of the shape 2:1
    centre = VideoFrame.from_ndarray(pixels, "rgb24")
    centre.pts, centre.time_base = 0, Fraction(1, 90_000)
    assert PictureIntake(48, 96).convert(centre).min() > 0.9
    with pytest.raises(ValueError, match="1920x1080"):
        PictureIntake(48, 96).convert(picture(0, 4000, 3000))


def test_the_agents_tracks_share_one_clock_and_skip_together():
    async def play():
        tracks = AgentTracks()
        for index in range(6):
            tracks.play(AgentUnit(torch.full((1, 3840), 0.5), torch.ones(3, 4, 48, 96), "", "speak", index))
        assert tracks.num_skipped == 3
        frames = [await tracks.video.recv() for _ in range(12)]
        packets = [await tracks.audio.recv() for _ in range(24)]
        tracks.stop()
        return packets, frames

    packets, frames = asyncio.run(play())
    assert [packet.pts for packet in packets] == [480 * i for i in range(24)]
    assert [frame.pts for frame in frames] == list(range(12))
    packet, frame = packets[-1], frames[-1]
    assert packet.samples == 480 and packet.to_ndarray().min() == 16384 and frame.to_ndarray(format="rgb24").min() > 250


def test_sessions_of_a_batch_get_what_they_would_get_alone_and_one_fault_costs_nobody_anything():
    """Whoever is due together is stepped together; where that step raises, each is tried alone, with nothing lost."""
    units = random_units(6)
    alone = [open_session(tiny_pipeline(), seed=seed) for seed in range(2)]
    expected = [[session.step(unit) for unit in units] for session in alone]
    pipeline = tiny_pipeline()
    pipeline.scheduler = solver = Fragile()
    stepper = BatchStepper(pipeline.open_batch(2, height=SIZE[0], width=SIZE[1]))
    sessions = [BatchedSession(open_session(pipeline, seed=seed), stepper) for seed in range(2)]

    async def step_both(*given):
        steps = (asyncio.to_thread(session.step, unit) for session, unit in zip(sessions, given, strict=True))
        return await asyncio.gather(*steps, return_exceptions=True)

    for index, unit in enumerate(units):
        solver.gives_up = True
        assert all(isinstance(error, ArithmeticError) for error in asyncio.run(step_both(unit, unit)))
        solver.gives_up = False
        wrong = UserUnit(unit.audio, torch.zeros(3, 4, 16, 32))
        error, first = asyncio.run(step_both(wrong, unit))
        assert isinstance(error, ValueError)
        (second,) = [answer for answer in asyncio.run(step_both(unit, wrong)) if isinstance(answer, AgentUnit)]
        for answer, theirs in ((second, expected[0][index]), (first, expected[1][index])):
            assert (answer.text, answer.state, answer.index) == (theirs.text, theirs.state, theirs.index)
            torch.testing.assert_close(answer.audio, theirs.audio)
            torch.testing.assert_close(answer.video, theirs.video)
    for session in sessions:
        session.close()
    assert stepper.batch.sessions == []
    stepper.close()


def test_capacity_is_what_memory_allows_and_one_is_always_admitted():
    pipeline = tiny_pipeline()
    nbytes = open_session(pipeline).nbytes()
    capacity = measure_capacity(pipeline, options(max_sessions=8, memory_gib=2.5 * nbytes / 2**30))
    assert capacity.session_nbytes == nbytes
    assert 1 <= capacity.num_sessions <= 2 and len(capacity.unit_ms) <= 2
    with pytest.raises(ValueError, match="memory_gib"):
        measure_capacity(pipeline, options(memory_gib=0.5 * nbytes / 2**30))


def test_a_full_history_is_admitted_with_the_bytes_that_it_may_grow_to():
    full = tiny_pipeline(context_window=None, response_window=None)
    short, long = (measure_capacity(full, options(max_seconds=seconds)).session_nbytes for seconds in (60, 600))
    assert open_session(full).nbytes() < short < long


def test_options_are_checked():
    assert ServeOptions(host="::1").is_loopback and ServeOptions(host="localhost").is_loopback
    assert not ServeOptions(host="0.0.0.0", token="secret").is_loopback
    for wrong, said in (
        ({"host": "0.0.0.0"}, "token"),
        ({"max_sessions": 0}, "max_sessions"),
        ({"idle_seconds": 0}, "idle"),
    ):
        with pytest.raises(ValueError, match=said):
            ServeOptions(**wrong)


@pytest.mark.parametrize(
    "data",
    [
        *("", "{", "[]", "[" * 4000, b"{}", '{"type": "ping", "id": true}', '{"type": "text", "text": 1}'),
    ],
)
def test_wrong_messages_are_refused(data):
    with pytest.raises(MessageError):
        parse_message(data)
