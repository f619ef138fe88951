"""Between WebRTC frames and tensors: the user's tracks become pieces of a stream, the agent's units become tracks."""

from __future__ import annotations

import asyncio
import io
from collections import deque
from fractions import Fraction

import numpy as np
import torch
from aiortc.mediastreams import MediaStreamError, MediaStreamTrack
from av import AudioFrame, AudioResampler, VideoFrame
from PIL import Image
from torch import Tensor

from ..media.levels import MEAN_OF_CHANNELS, as_stereo
from ..units import FRAME_RATE, FRAMES_PER_UNIT, SAMPLE_RATE, SAMPLES_PER_UNIT, UNIT_MS, AgentUnit

PACKET_MS = 20  # what Opus packets hold by default
SAMPLES_PER_PACKET = SAMPLE_RATE * PACKET_MS // 1000
_PACKETS_PER_UNIT = UNIT_MS // PACKET_MS
_MAX_WAITING_UNITS = 3
MAX_GAP_SECONDS = 1.0  # a longer jump of a client's timestamps is a new beginning, not a gap to fill
MAX_PIXELS = 1920 * 1080


class SoundIntake:
    """A user's sound, any rate and layout -> (1, T) at 24 kHz, at its own level. What the network lost becomes silence
    of its length."""

    def __init__(self) -> None:
        self._resampler = AudioResampler(format="flt", layout="mono", rate=SAMPLE_RATE, options=MEAN_OF_CHANNELS)
        self._expected: int | None = None  # pts of the next frame, in samples of the source

    def convert(self, frame: AudioFrame) -> Tensor:
        """One decoded frame -> float32 in [-1, 1]; the resampler holds back a fraction of a millisecond."""
        missing = 0 if self._expected is None or frame.pts is None else frame.pts - self._expected
        if frame.pts is not None:
            self._expected = frame.pts + frame.samples
        if not 0 <= missing <= MAX_GAP_SECONDS * frame.sample_rate:
            missing = 0
        frame.pts = None  # the resampler counts for itself: a client's jump must not make it allocate
        pieces = [torch.from_numpy(out.to_ndarray()) for out in self._resampler.resample(frame)]
        silence = torch.zeros(1, missing * SAMPLE_RATE // frame.sample_rate)
        return torch.cat([silence, *pieces], dim=1).clamp(-1, 1)


class PictureIntake:
    """A user's pictures, any size and rate -> (3, T, height, width) at 25 fps: cut from the centre, scaled, retimed.

    A tick of the 25 fps clock shows the newest picture; nothing waits for a picture to come. T is 0 for a picture that
    comes between ticks, and more than 1 after a gap, which is filled by the picture before it.
    """

    def __init__(self, height: int, width: int) -> None:
        self.height, self.width = height, width
        self._num_out = 0
        self._origin: float | None = None
        self._last: Tensor | None = None

    def convert(self, frame: VideoFrame) -> Tensor:
        """One decoded frame -> float32 in [-1, 1].

        Raises:
            ValueError: the picture has more pixels than Full HD, or no time.
        """
        if frame.pts is None or frame.time_base is None:
            raise ValueError("a picture of a live stream says when it was taken (pts and time_base)")
        num_due = self._num_due(float(frame.pts * frame.time_base))
        if num_due == 0:
            return torch.zeros(3, 0, self.height, self.width)
        picture = fit_picture(frame, self.height, self.width)
        held = [picture if self._last is None else self._last] * (num_due - 1)
        self._last = picture
        return torch.cat([*held, picture], dim=1)

    def _num_due(self, seconds: float) -> int:
        if self._origin is None:
            self._origin = seconds
        num_due = round((seconds - self._origin) * FRAME_RATE) + 1 - self._num_out
        if not -FRAME_RATE <= num_due <= MAX_GAP_SECONDS * FRAME_RATE:
            self._origin, self._num_out, num_due = seconds, 0, 1
        num_due = max(0, num_due)
        self._num_out += num_due
        return num_due


def to_pcm16(audio: Tensor) -> Tensor:
    """(1, T) in [-1, 1] -> int16."""
    return (audio.clamp(-1, 1) * 32767).round().to(torch.int16)


def fit_picture(frame: VideoFrame, height: int, width: int) -> Tensor:
    """(3, 1, height, width) in [-1, 1]: the largest centred part of the target's shape, scaled.

    Raises:
        ValueError: the picture has more pixels than Full HD.
    """
    if frame.width * frame.height > MAX_PIXELS:
        raise ValueError(f"pictures have at most 1920x1080 pixels, got {frame.width}x{frame.height}")
    pixels = frame.to_ndarray(format="rgb24")
    cut_width = min(frame.width, max(1, round(frame.height * width / height)))
    cut_height = min(frame.height, max(1, round(frame.width * height / width)))
    top, left = (frame.height - cut_height) // 2, (frame.width - cut_width) // 2
    cut = VideoFrame.from_ndarray(pixels[top : top + cut_height, left : left + cut_width].copy(), "rgb24")
    scaled = cut.reformat(width, height, "rgb24", interpolation="AREA").to_ndarray()
    return torch.from_numpy(scaled).permute(2, 0, 1)[:, None].float() / 127.5 - 1


def read_still(data: bytes, height: int, width: int) -> Tensor:
    """A JPEG, PNG or WebP -> (3, 1, height, width) in [-1, 1], as `fit_picture` cuts it.

    Raises:
        ValueError: it is none, or has more pixels than Full HD.
    """
    try:
        with Image.open(io.BytesIO(data), formats=("JPEG", "PNG", "WEBP")) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ValueError(f"pictures have at most 1920x1080 pixels, got {image.width}x{image.height}")
            pixels = np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError("a picture is a JPEG, PNG or WebP that can be read") from error
    return fit_picture(VideoFrame.from_ndarray(pixels, "rgb24"), height, width)


class AgentTrack(MediaStreamTrack):
    """Frames that leave at the time they are due."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self._frames: deque[tuple[float, AudioFrame | VideoFrame]] = deque()
        self._changed = asyncio.Event()

    @property
    def num_waiting(self) -> int:  # not `__len__`: aiortc takes a track that is false for none
        return len(self._frames)

    def put(self, due: float, frame: AudioFrame | VideoFrame) -> None:
        """Queue a frame that is due at that time of the event loop's clock."""
        self._frames.append((due, frame))
        self._changed.set()

    async def recv(self) -> AudioFrame | VideoFrame:
        while not self._frames:
            if self.readyState != "live":
                raise MediaStreamError
            self._changed.clear()
            await self._changed.wait()
        due, frame = self._frames.popleft()
        await asyncio.sleep(max(0.0, due - asyncio.get_running_loop().time()))
        if self.readyState != "live":
            raise MediaStreamError
        return frame

    def stop(self) -> None:
        super().stop()
        self._changed.set()


class AgentTracks:
    """The agent's sound and picture as two tracks with one clock.

    Each unit gives 8 packets of sound and 4 pictures, due 20 and 40 ms apart from the moment the unit plays, with
    timestamps counted from the same unit 0: sender and receiver keep them together, whatever is lost between.
    A unit is skipped, on both tracks, while 3 units wait on either: then the network or this process is too slow.
    """

    def __init__(self) -> None:
        self.audio, self.video = AgentTrack("audio"), AgentTrack("video")
        self.has_picture = True
        self.num_skipped = 0
        self._num_units = 0
        self._due = 0.0

    def play(self, unit: AgentUnit) -> None:
        """Queue a unit now that it is time to play it. Called on the event loop.

        A unit that comes a little early waits for the end of the one before it; should the waiting ever reach a whole
        unit, it starts again from now, so it cannot pile up.
        """
        if (
            max(self.audio.num_waiting / _PACKETS_PER_UNIT, self.video.num_waiting / FRAMES_PER_UNIT)
            >= _MAX_WAITING_UNITS
        ):
            self.num_skipped += 1
            return
        now = asyncio.get_running_loop().time()
        due = max(now, self._due)
        due = now if due - now > UNIT_MS / 1000 else due
        self._due = due + UNIT_MS / 1000
        first_sample, first_frame = self._num_units * SAMPLES_PER_UNIT, self._num_units * FRAMES_PER_UNIT
        for i, samples in enumerate(unit.audio.split(SAMPLES_PER_PACKET, dim=1)):
            self.audio.put(due + i * PACKET_MS / 1000, sound_frame(samples, first_sample + i * SAMPLES_PER_PACKET))
        for i, picture in enumerate(unit.video.split(1, dim=1) if self.has_picture else ()):
            self.video.put(due + i / FRAME_RATE, picture_frame(picture, first_frame + i))
        self._num_units += 1

    def stop(self) -> None:
        self.audio.stop()
        self.video.stop()


def sound_frame(samples: Tensor, start: int) -> AudioFrame:
    """(1, T) at 24 kHz in [-1, 1], the first of which is sample number `start` of its track, for aiortc.

    In two channels: aiortc's Opus has two, and would make a mono sound quieter (see `media.levels`).
    """
    frame = AudioFrame.from_ndarray(to_pcm16(samples).contiguous().numpy(), "s16", "mono")
    frame.sample_rate, frame.pts, frame.time_base = SAMPLE_RATE, start, Fraction(1, SAMPLE_RATE)
    return as_stereo(frame)


def picture_frame(picture: Tensor, index: int) -> VideoFrame:
    """(3, 1, H, W) in [-1, 1], number `index` of its track at 25 fps, for aiortc."""
    pixels = ((picture[:, 0] + 1) * 127.5).round().clamp(0, 255).byte().permute(1, 2, 0).contiguous()
    frame = VideoFrame.from_ndarray(pixels.numpy(), "rgb24").reformat(format="yuv420p")
    frame.pts, frame.time_base = index, Fraction(1, FRAME_RATE)
    return frame
