"""What a program sends as its microphone and its camera."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator

import torch
from aiortc.mediastreams import MediaStreamError, MediaStreamTrack
from av import AudioFrame, VideoFrame
from torch import Tensor

from ..media.levels import as_stereo
from ..media.recordings import RecordingReader
from ..units import FRAME_RATE, HEIGHT, SAMPLE_RATE, WIDTH
from .tracks import SAMPLES_PER_PACKET, picture_frame, sound_frame


class RecordingPlayer:
    """Plays a recording to an agent, in real time from the first frame that is asked for: `LiveClient(url,
    player.audio, player.video)`. Both tracks begin together; after its end the sound is silence.

    Raises:
        RecordingError: the file holds neither sound nor picture.
    """

    def __init__(self, path: str | os.PathLike[str], height: int = HEIGHT, width: int = WIDTH) -> None:
        reader, clock = RecordingReader(path, height, width), _Clock()
        self.audio: MediaStreamTrack = _SoundTrack(reader.sound(), clock)
        self.video: MediaStreamTrack = _PictureTrack(reader.pictures(), clock)


class _Clock:
    """Seconds since it was first asked to wait."""

    def __init__(self) -> None:
        self._began: float | None = None

    async def wait_until(self, seconds: float) -> None:
        now = asyncio.get_running_loop().time()
        if self._began is None:
            self._began = now
        await asyncio.sleep(max(0.0, self._began + seconds - now))


class _SoundTrack(MediaStreamTrack):
    kind = "audio"

    def __init__(self, pieces: Iterator[Tensor], clock: _Clock) -> None:
        super().__init__()
        self._pieces, self._clock = pieces, clock
        self._rest = torch.zeros(1, 0)
        self._num_played = 0

    async def recv(self) -> AudioFrame:
        while self._rest.shape[1] < SAMPLES_PER_PACKET:
            piece = await asyncio.to_thread(next, self._pieces, None)
            self._rest = torch.cat([self._rest, torch.zeros(1, SAMPLES_PER_PACKET) if piece is None else piece], 1)
        samples, self._rest = self._rest[:, :SAMPLES_PER_PACKET], self._rest[:, SAMPLES_PER_PACKET:]
        frame = sound_frame(samples, self._num_played)
        await self._clock.wait_until(self._num_played / SAMPLE_RATE)
        self._num_played += SAMPLES_PER_PACKET
        return frame


class _PictureTrack(MediaStreamTrack):
    kind = "video"

    def __init__(self, pictures: Iterator[Tensor], clock: _Clock) -> None:
        super().__init__()
        self._pictures, self._clock = pictures, clock
        self._num_played = 0

    async def recv(self) -> VideoFrame:
        picture = await asyncio.to_thread(next, self._pictures, None)
        if picture is None:
            self.stop()
            raise MediaStreamError
        frame = picture_frame(picture, self._num_played)
        await self._clock.wait_until(self._num_played / FRAME_RATE)
        self._num_played += 1
        return frame


class StereoTrack(MediaStreamTrack):
    """A track of sound whose mono frames become stereo at their own level: aiortc would make them 3 dB quieter."""

    kind = "audio"

    def __init__(self, source: MediaStreamTrack) -> None:
        super().__init__()
        self._source = source

    async def recv(self) -> AudioFrame:
        frame = await self._source.recv()
        assert isinstance(frame, AudioFrame)
        return as_stereo(frame)

    def stop(self) -> None:
        super().stop()
        self._source.stop()
