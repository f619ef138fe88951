"""Levels: what is said is neither louder nor quieter when it arrives, whatever number of channels it has on the way."""

import asyncio
import itertools
import math
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch

pytest.importorskip("aiortc", reason="the extra [serve] is not installed")

from aiortc import RTCConfiguration, RTCPeerConnection
from aiortc.mediastreams import MediaStreamTrack
from av import AudioFrame, AudioResampler
from live_server import client, live_server, unit_from, until
from recordings import write_sound
from streamer_pipeline import SAMPLE_RATE, AgentUnit, RecordingReader, RecordingWriter
from streamer_pipeline.media.levels import as_stereo
from streamer_pipeline.serve.client import RecordingPlayer
from streamer_pipeline.serve.tracks import AgentTracks

LEVEL, PITCH = 0.9, 440  # loud, and a whole number of periods in a window
WINDOW_SECONDS = 0.1


def tone(num_samples: int, rate: int, start: int = 0) -> np.ndarray:
    return (LEVEL * np.sin(2 * np.pi * PITCH * (start + np.arange(num_samples)) / rate)).astype(np.float32)


def level_and_distortion(sound: np.ndarray, rate: int) -> tuple[float, float]:
    """(level of the tone against LEVEL in dB, share of its harmonics), medians over windows: a gap spoils a few."""
    size = round(WINDOW_SECONDS * rate)
    windows = sound[: len(sound) // size * size].reshape(-1, size)
    spectra = 2 * np.abs(np.fft.rfft(windows, axis=1)) / size
    first = round(PITCH * WINDOW_SECONDS)
    heard = spectra[spectra[:, first] > 0.1]  # before the tone began there was nothing
    harmonics = np.sqrt((heard[:, 2 * first : 10 * first : first] ** 2).sum(1)) / heard[:, first]
    return 20 * math.log10(np.median(heard[:, first]) / LEVEL), float(np.median(harmonics))


def assert_unchanged(sound: np.ndarray, rate: int) -> None:
    level, distortion = level_and_distortion(sound, rate)
    assert abs(level) < 0.2 and distortion < 0.002


class Microphone(MediaStreamTrack):
    """The tone in 20 ms packets of int16 at 48 kHz."""

    kind = "audio"

    def __init__(self, layout: str) -> None:
        super().__init__()
        self._layout, self._num_sent = layout, 0

    async def recv(self) -> AudioFrame:
        await asyncio.sleep(0.02)
        samples = (tone(960, 48_000, self._num_sent) * 32767).astype(np.int16)
        frame = AudioFrame.from_ndarray(samples.repeat(1 if self._layout == "mono" else 2)[None], "s16", self._layout)
        frame.sample_rate, frame.pts, frame.time_base = 48_000, self._num_sent, Fraction(1, 48_000)
        self._num_sent += 960
        return frame


@pytest.mark.alone
@pytest.mark.parametrize("layout", ["mono", "stereo"])
def test_what_a_client_says_reaches_the_model_at_its_level(tmp_path, layout):
    async def talk():
        async with live_server(record=tmp_path) as (server, url):
            async with client(url, audio=Microphone(layout), consent=True) as caller:
                await unit_from(caller, 12)
            await until(lambda: server.num_sessions == 0)

    asyncio.run(talk())
    (film,) = tmp_path.glob("*/user.mp4")
    assert_unchanged(torch.cat(list(RecordingReader(film).sound()), dim=1)[0].numpy(), SAMPLE_RATE)


async def speak(tracks: AgentTracks) -> None:
    for index in itertools.count():
        sound = torch.from_numpy(tone(3840, SAMPLE_RATE, 3840 * index))[None]
        tracks.play(AgentUnit(sound, torch.zeros(3, 4, 16, 16), "", "speak", index))
        await asyncio.sleep(0.16)


@pytest.mark.alone
@pytest.mark.parametrize("layout", ["mono", "stereo"])
def test_what_the_agent_says_reaches_a_client_at_its_level(layout):
    async def play() -> np.ndarray:
        tracks, connections = AgentTracks(), [RTCPeerConnection(RTCConfiguration([])) for _ in range(2)]
        agent, user = connections
        arrived = asyncio.get_running_loop().create_future()
        user.on("track", lambda track: arrived.set_result(track) if track.kind == "audio" else None)
        agent.addTrack(tracks.audio)
        agent.addTrack(tracks.video)
        await agent.setLocalDescription(await agent.createOffer())
        await user.setRemoteDescription(agent.localDescription)
        await user.setLocalDescription(await user.createAnswer())
        await agent.setRemoteDescription(user.localDescription)
        speaking = asyncio.create_task(speak(tracks))
        track, ear, pieces = await arrived, AudioResampler("s16", layout, 48_000), []
        for _ in range(60):
            pieces += [piece.to_ndarray()[0] for piece in ear.resample(await track.recv())]
        speaking.cancel()
        tracks.stop()
        for connection in connections:
            await connection.close()
        return np.concatenate(pieces)[:: 1 if layout == "mono" else 2] / 32767

    assert_unchanged(asyncio.run(play()), 48_000)


@pytest.mark.parametrize("num_channels", [1, 2])
def test_recordings_are_read_played_and_written_at_their_level(tmp_path, num_channels):
    path = write_sound(tmp_path / "tone.flac", *[tone(2 * 48_000, 48_000)] * num_channels)
    units = list(RecordingReader(path, 16, 16))
    assert_unchanged(torch.cat([unit.audio for unit in units], dim=1)[0].numpy(), SAMPLE_RATE)
    silent = AgentUnit(torch.zeros(1, 3840), torch.zeros(3, 4, 16, 16), "", "speak", 0)
    with RecordingWriter(tmp_path / "copy.mp4", 16, 16, num_channels) as writer:
        for unit in units:
            writer.write(replace(silent, audio=unit.audio.expand(num_channels, -1)))
    copy = torch.cat(list(RecordingReader(tmp_path / "copy.mp4").sound()), dim=1)[0]
    assert_unchanged(copy.numpy(), SAMPLE_RATE)

    async def played() -> np.ndarray:
        player = RecordingPlayer(path)
        return np.concatenate([(await player.audio.recv()).to_ndarray()[0, ::2] for _ in range(40)]) / 32767

    assert_unchanged(asyncio.run(played()), SAMPLE_RATE)


@pytest.mark.parametrize("form", ["s16", "s16p", "flt", "fltp"])
def test_mono_becomes_stereo_in_any_format(form):
    samples = np.arange(6)[None].astype(np.int16 if form.startswith("s16") else np.float32)
    frame = AudioFrame.from_ndarray(samples, form, "mono")
    frame.sample_rate, frame.pts, frame.time_base = 48_000, 7, Fraction(1, 48_000)
    stereo = as_stereo(frame)
    assert (stereo.samples, stereo.pts, stereo.layout.name) == (6, 7, "stereo")
    channels = stereo.to_ndarray()
    channels = channels if form.endswith("p") else channels.reshape(-1, 2).T
    assert (channels == samples).all()
    assert as_stereo(stereo) is stereo
