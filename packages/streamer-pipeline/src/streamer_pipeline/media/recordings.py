"""Recordings at the edge: any media file -> units, units -> mp4, words -> subtitles. All coding is FFmpeg's, via PyAV.

Reading resamples to the clock of `units.py` with libavfilter: `aresample` and `fps` go by timestamps, so a late track,
a gap or a variable rate ends as silence or a held frame at the right place, and sound and picture stay in step.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from itertools import chain, groupby, repeat
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import av
import torch
from av import AudioFrame, FFmpegError, Packet, VideoFrame
from av.container import InputContainer, OutputContainer
from av.filter import Graph
from av.stream import Disposition, Stream
from av.video.reformatter import ColorRange, Colorspace
from torch import Tensor

from ..units import (
    FRAME_RATE,
    FRAMES_PER_UNIT,
    HEIGHT,
    SAMPLE_RATE,
    SAMPLES_PER_UNIT,
    UNIT_MS,
    WIDTH,
    AgentUnit,
    UnitBuffer,
    UserUnit,
)
from .containers import RecordingError, open_recording
from .levels import MEAN_OF_CHANNELS
from .marks import COMMENT, GENERATED, PARTLY_GENERATED, mark_as_generated

_LARGEST_CELL = 4  # pixels that share a colour, along one side (yuv410p)
_TRACK_NAMES: dict[Literal["audio", "video"], str] = {"audio": "sound", "video": "picture"}
# Degrees counterclockwise by which a player has to turn the frames -> filters (phones film with a turned sensor).
_TURNS = {
    90: [("transpose", "cclock")],
    -90: [("transpose", "clock")],
    180: [("hflip", ""), ("vflip", "")],
    -180: [("hflip", ""), ("vflip", "")],
}


@dataclass
class _Track:
    """One track of a file: index of its stream, first and last moment in the file's own seconds, pixel aspect,
    channels of the sound."""

    index: int
    start: Fraction
    end: Fraction
    aspect: Fraction
    channels: int


class RecordingReader:
    """A media file as the user's side of a conversation: iterating yields exactly `num_units` `UserUnit`s.

    Sound becomes 24 kHz mono, picture 25 fps, cut from the centre to the shape of height x width and scaled. Time 0 is
    where the earlier track begins. The shorter track is continued by silence or by its last frame, a missing one is
    silence or black; `notes` says in words what was missing or damaged (damage inside a track shows while iterating).
    The file is streamed, a few frames at a time, and can be iterated again. `sound` and `pictures` are its tracks.

    Raises RecordingError (a ValueError) for a path that holds neither sound nor picture that can be decoded; while it
    is iterated, for media that cannot be brought onto the clock.
    """

    def __init__(self, path: str | os.PathLike[str], height: int = HEIGHT, width: int = WIDTH) -> None:
        for name, size in (("height", height), ("width", width)):
            if not isinstance(size, int) or size < 1:
                raise ValueError(f"{name} is a whole number of pixels, at least 1; got {size!r}")
        self.path, self.height, self.width = Path(path), height, width
        self.notes: list[str] = []
        self._tracks = self._scan()
        self._start = min(track.start for track in self._tracks.values())
        duration = max(track.end for track in self._tracks.values()) - self._start
        # Containers round timestamps to the millisecond: 1.601 s is ten units, not eleven.
        self.num_units = max(1, math.ceil((duration * 1000 - 1) / UNIT_MS))

    @property
    def spans(self) -> dict[str, tuple[float, float]]:
        """Where "audio" and "video" begin and end, in seconds of the recording; what is missing is not in it."""
        return {
            kind: (float(track.start - self._start), float(track.end - self._start))
            for kind, track in self._tracks.items()
        }

    @property
    def num_channels(self) -> int:
        """Of the sound; 0 where there is none."""
        return self._tracks["audio"].channels if "audio" in self._tracks else 0

    def __iter__(self) -> Iterator[UserUnit]:
        try:
            yield from self._units()
        except FFmpegError as error:
            raise RecordingError(
                f"{self.path} holds sound or picture that cannot be read ({error.strerror}): convert it to .mp4 first"
            ) from error

    def _units(self) -> Iterator[UserUnit]:
        # Each side reads the file by itself and only as far as this unit needs, so memory stays bounded
        # however badly (or not at all) the file interleaves its tracks.
        buffer = UnitBuffer(self.height, self.width)
        silence = torch.zeros(1, SAMPLES_PER_UNIT)
        sound = chain(self.sound(), repeat(silence))
        pictures = self.pictures()
        for _ in range(self.num_units):
            while buffer.num_buffered_samples < SAMPLES_PER_UNIT:
                buffer.push_audio(next(sound))
            while buffer.num_buffered_frames < FRAMES_PER_UNIT and (frame := next(pictures, None)) is not None:
                buffer.push_video(frame)
            unit = buffer.flush()  # holds the last frame where the pictures have ended
            assert unit is not None
            yield unit

    def _scan(self) -> dict[str, _Track]:
        """The tracks that can be decoded. One pass over the packets, for headers lie too often about durations;
        no more than a first frame of each track is decoded."""
        tracks: dict[str, _Track] = {}
        with open_recording(self.path) as container:
            streams = {kind: stream for kind in _TRACK_NAMES if (stream := _best_stream(container, kind)) is not None}
            ends: dict[str, Fraction] = {kind: Fraction(0) for kind in streams}
            for packet in _packets(container, list(streams.values())) if streams else ():
                kind = packet.stream.type
                if packet.size and not packet.is_discard:
                    ends[kind] = max(ends[kind], _packet_end(packet, ends[kind]))
                if kind not in tracks and (frames := _decode(packet)):
                    first = frames[0]  # its time, not the packet's: codecs drop what they primed themselves with
                    start = first.pts * first.time_base if first.pts is not None else Fraction(0)
                    aspect = (packet.stream.sample_aspect_ratio or 1) if kind == "video" else 1
                    channels = first.layout.nb_channels if kind == "audio" else 0
                    tracks[kind] = _Track(packet.stream.index, start, start, Fraction(aspect), channels)
            has_index = {"mp4", "matroska"} & set(container.format.name.split(","))  # elsewhere FFmpeg estimates
            announced = (container.duration or 0) / av.time_base if has_index else 0
        for kind, track in tracks.items():
            track.end = max(ends[kind], track.start)
        if not tracks or max(track.end - track.start for track in tracks.values()) <= 0:
            raise RecordingError(
                f"{self.path} holds no sound and no picture that can be decoded; give a recording longer than 0 seconds"
            )
        for kind, name in _TRACK_NAMES.items():
            if kind not in tracks:
                reason = f"the {name} cannot be decoded" if kind in streams else f"no {name} in the file"
                self._note(f"{reason}: {'silence' if kind == 'audio' else 'black frames'} instead")
        if announced > (end := float(max(track.end for track in tracks.values()))) + 1:
            self._note(f"the file ends early: it announces {announced:.1f} s, {end:.1f} s are there")
        return tracks

    def _frames(self, kind: Literal["audio", "video"]) -> Iterator[Any]:
        """Decoded frames of a track, `AudioFrame`s or `VideoFrame`s; damaged packets are skipped.

        Their pts are counted from the start of the recording.
        """
        with open_recording(self.path) as container:
            stream = container.streams[self._tracks[kind].index]
            expected = self._start  # of the next frame, for streams without timestamps
            for packet in _packets(container, [stream]):
                frames = _decode(packet)
                if frames is None:
                    self._note(f"damaged {_TRACK_NAMES[kind]}: what could not be decoded was left out")
                for frame in frames or ():
                    ticks = frame.dts if frame.pts is None else frame.pts
                    time = expected if ticks is None else ticks * frame.time_base
                    period = Fraction(frame.samples, frame.sample_rate) if kind == "audio" else _frame_period(stream)
                    expected = time + period
                    frame.pts = round((time - self._start) / frame.time_base)
                    yield frame

    def sound(self, channel: int | None = None) -> Iterator[Tensor]:
        """Pieces (1, T) at 24 kHz from time 0 to the sound's end, T at most one unit: a filled gap may be hours long.

        channel: which one, counted from 0; None mixes all.
        """
        if "audio" not in self._tracks:
            return
        num_samples = 0
        for _, frames in groupby(self._frames("audio"), lambda f: (f.sample_rate, f.format.name, f.layout.name)):
            for piece in _filtered(partial(_sound_graph, first_sample=num_samples, channel=channel), frames):
                num_samples += piece.samples
                yield from torch.from_numpy(piece.to_ndarray()).clamp(-1, 1).split(SAMPLES_PER_UNIT, dim=1)

    def pictures(self) -> Iterator[Tensor]:
        """Frames (3, 1, height, width) at 25 fps from time 0 to the picture's end."""
        if "video" not in self._tracks:
            return
        shape = partial(_shape_graph, aspect=self._tracks["video"].aspect, height=self.height, width=self.width)
        # Scale first, then set the rate: a live recording may change its size on the way, the clock must not.
        same = groupby(self._frames("video"), lambda f: (f.width, f.height, f.format.name, f.rotation, f.color_range))
        shaped = chain.from_iterable(_filtered(shape, frames) for _, frames in same)
        for frame in _filtered(_clock_graph, shaped):
            yield torch.from_numpy(frame.to_ndarray()).permute(2, 0, 1)[:, None].float() / 127.5 - 1

    def _note(self, note: str) -> None:
        if note not in self.notes:
            self.notes.append(note)


class RecordingWriter:
    """Writes units to an mp4 (H.264, AAC) whose tracks start together and last num_units * 160 ms each.

    A context manager; a block that ends by an exception still leaves a playable file of what was written.
    When no unit was written there is no file. For user and agent side by side, pass twice the width and
    num_channels=2, and write what `side_by_side` returns. A film of the agent is marked as generated.
    """

    def __init__(self, path: str | Path, height: int = HEIGHT, width: int = WIDTH, num_channels: int = 1) -> None:
        if height < 2 or width < 2 or height % 2 or width % 2:
            raise ValueError(f"H.264 in yuv420p needs an even height and width, got {height} x {width}")
        if num_channels not in (1, 2):
            raise ValueError(f"num_channels is 1 (mono) or 2 (left user, right agent), got {num_channels}")
        self.path, self.height, self.width, self.num_channels = Path(path), height, width, num_channels
        self.num_units = 0
        self._is_generated = False
        if not self.path.parent.is_dir():
            raise ValueError(f"cannot write {path}: give a path in a directory that exists")
        try:
            open(path, "ab").close()  # FFmpeg would say so at the first unit only
        except OSError as error:
            raise OSError(f"cannot write {path}: {error.strerror}") from error
        self._container: OutputContainer | None
        self._container = av.open(f"file:{path}", "w", format="mp4", options={"movflags": "+faststart"})
        # No B-frames: picture k is then packet k, and the track starts at 0 without an edit list.
        options = {"crf": "18", "preset": "veryfast", "bf": "0", "g": str(FRAME_RATE)}
        self._video = self._container.add_stream("libx264", rate=FRAME_RATE, options=options)
        self._video.width, self._video.height, self._video.pix_fmt = width, height, "yuv420p"
        self._video.codec_context.colorspace = Colorspace.ITU601  # what the conversion from RGB below produces
        self._video.codec_context.color_range = ColorRange.MPEG
        self._video.codec_context.thread_count = 1  # the cores belong to the model
        self._layout = "mono" if num_channels == 1 else "stereo"
        self._audio = self._container.add_stream("aac", rate=SAMPLE_RATE, layout=self._layout)

    def write(self, unit: AgentUnit | UserUnit) -> None:
        """Append unit.audio (num_channels, 3840) and unit.video (3, 4, height, width); clamped to [-1, 1]."""
        if self._container is None:
            raise ValueError(f"{self.path} is finished: nothing can be written after close()")
        audio_shape = (self.num_channels, SAMPLES_PER_UNIT)
        video_shape = (3, FRAMES_PER_UNIT, self.height, self.width)
        if unit.audio.shape != audio_shape or unit.video.shape != video_shape:
            raise ValueError(
                f"this writer takes audio {audio_shape} and video {video_shape}, "
                f"got {tuple(unit.audio.shape)} and {tuple(unit.video.shape)}"
            )
        if unit.audio.isnan().any() or unit.video.isnan().any():
            raise ValueError(f"unit {self.num_units} holds NaN: what is written has to be numbers, best in [-1, 1]")
        if isinstance(unit, AgentUnit):
            self._is_generated = True
            self._container.metadata.setdefault("comment", COMMENT)  # before the first packet, with which it is written
        pixels = ((unit.video.detach().float() + 1) * 127.5).round().clamp(0, 255).byte().permute(1, 2, 3, 0).cpu()
        for i, picture in enumerate(pixels.numpy()):
            frame = VideoFrame.from_ndarray(picture, "rgb24")
            frame.pts, frame.time_base = self.num_units * FRAMES_PER_UNIT + i, Fraction(1, FRAME_RATE)
            self._container.mux(self._video.encode(frame))
        samples = unit.audio.detach().float().clamp(-1, 1).cpu().contiguous()
        sound = AudioFrame.from_ndarray(samples.numpy(), "fltp", self._layout)
        sound.sample_rate = SAMPLE_RATE
        sound.pts, sound.time_base = self.num_units * SAMPLES_PER_UNIT, Fraction(1, SAMPLE_RATE)
        self._container.mux(self._audio.encode(sound))
        self.num_units += 1

    def close(self) -> None:
        """Finish the file. Closing twice is harmless."""
        if self._container is None:
            return
        container, self._container = self._container, None
        try:
            if self.num_units:
                container.mux(self._video.encode(None))
                container.mux(self._audio.encode(None))
        finally:
            container.close()
            if not self.num_units:
                self.path.unlink(missing_ok=True)
            elif self._is_generated:
                mark_as_generated(self.path, GENERATED if self.num_channels == 1 else PARTLY_GENERATED)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.close()
        except FFmpegError:
            if error is None:  # otherwise the first error is the one to hear about
                raise


def side_by_side(user: UserUnit, agent: AgentUnit) -> AgentUnit:
    """The agent's unit with the user to its left: video (3, 4, H, 2W), audio (2, 3840) with the user in channel 0."""
    video = torch.cat([user.video, agent.video], dim=3)
    return replace(agent, audio=torch.cat([user.audio, agent.audio]), video=video)


def _best_stream(container: InputContainer, kind: Literal["audio", "video"]) -> Stream | None:
    """The stream FFmpeg would play, unless it has no decoder or is only the cover picture of a sound file."""
    stream = container.streams.best(kind)
    if stream is None or stream.codec_context is None or stream.disposition & Disposition.attached_pic:
        return None
    return stream


def _packets(container: InputContainer, streams: list[Stream]) -> Iterator[Packet[Any]]:
    """Packets up to the end, or to where the file breaks off."""
    packets = container.demux(*streams)
    while True:
        try:
            packet = next(packets, None)
        except FFmpegError:
            return
        if packet is None:
            return
        yield packet


def _decode(packet: Packet[Any]) -> list[Any] | None:
    """The packet's frames, `AudioFrame`s or `VideoFrame`s, or None if it is damaged."""
    try:
        return packet.decode()
    except FFmpegError:
        return None


def _packet_end(packet: Packet[Any], previous_end: Fraction) -> Fraction:
    """Seconds in the file's time. Raw streams have no timestamps: there packets follow one another."""
    ticks = packet.pts if packet.pts is not None else packet.dts
    start = previous_end if ticks is None else ticks * packet.time_base
    return start + (packet.duration * packet.time_base if packet.duration else _frame_period(packet.stream))


def _frame_period(stream: Stream) -> Fraction:
    """Seconds per frame of a video stream; 0 for sound, whose packets say how long they are."""
    return 1 / Fraction(stream.guessed_rate or FRAME_RATE) if stream.type == "video" else Fraction(0)


def _graph(*filters: tuple[str, str]) -> Graph:
    """A chain of libavfilter filters, each (name, arguments)."""
    graph = Graph()
    graph.link_nodes(*(graph.add(name, arguments or None) for name, arguments in filters)).configure()
    return graph


def _filtered(graph_for: Callable[[Any], Graph], frames: Iterable[Any]) -> Iterator[Any]:
    """All frames through one graph, made for the first of them."""
    graph = None
    for frame in frames:
        graph = graph or graph_for(frame)
        graph.push(frame)
        yield from _ready(graph)
    if graph is not None:
        graph.push(None)
        yield from _ready(graph)


def _ready(graph: Graph) -> Iterator[Any]:
    while True:
        try:
            yield graph.pull()
        except (av.BlockingIOError, av.EOFError):
            return


def _sound_graph(frame: AudioFrame, first_sample: int, channel: int | None) -> Graph:
    """Any sound -> float mono at 24 kHz, of one channel or of all. A late start or a gap of more than a video frame
    becomes silence."""
    source = f"sample_rate={frame.sample_rate}:sample_fmt={frame.format.name}:time_base={frame.time_base}"
    options = {"async": 1, "min_hard_comp": 1 / FRAME_RATE, "first_pts": first_sample, **MEAN_OF_CHANNELS}
    resample = f"{SAMPLE_RATE}:" + ":".join(f"{name}={value}" for name, value in options.items())
    return _graph(
        ("abuffer", f"{source}:channel_layout={frame.layout.name}"),
        *([] if channel is None else [("pan", f"mono|c0=c{channel}")]),
        ("aresample", resample),
        ("aformat", f"sample_fmts=flt:channel_layouts=mono:sample_rates={SAMPLE_RATE}"),
        ("abuffersink", ""),
    )


def _shape_graph(frame: VideoFrame, aspect: Fraction, height: int, width: int) -> Graph:
    """Any picture -> upright rgb24 of height x width: the largest centred part of that shape, scaled.

    aspect is width / height of one source pixel (old video has oblong ones).
    """
    source_width, source_height = frame.width, frame.height
    if abs(frame.rotation) == 90:
        source_width, source_height, aspect = source_height, source_width, 1 / aspect
    crop_width = min(source_width, max(1, round(source_height * width / height / aspect)))
    crop_height = min(source_height, max(1, round(source_width * aspect * height / width)))
    # Else the filter cuts to whole cells of the colour planes, and of a picture smaller than one to nothing.
    exact = int(min(crop_width, crop_height) < _LARGEST_CELL)
    source = f"video_size={frame.width}x{frame.height}:pix_fmt={frame.format.name}:time_base={frame.time_base}"
    return _graph(
        ("buffer", f"{source}:colorspace={int(frame.colorspace)}:range={int(frame.color_range)}"),
        *_TURNS.get(frame.rotation, []),
        ("crop", f"{crop_width}:{crop_height}:exact={exact}"),
        ("scale", f"{width}:{height}:flags=bicubic+accurate_rnd+full_chroma_int"),
        ("format", "rgb24"),
        ("buffersink", ""),
    )


def _clock_graph(frame: VideoFrame) -> Graph:
    """rgb24 frames at any times -> 25 fps from time 0: the nearest is held or dropped, the first held backwards."""
    return _graph(
        ("buffer", f"video_size={frame.width}x{frame.height}:pix_fmt=rgb24:time_base={frame.time_base}"),
        ("fps", f"{FRAME_RATE}:start_time=0"),
        ("buffersink", ""),
    )
