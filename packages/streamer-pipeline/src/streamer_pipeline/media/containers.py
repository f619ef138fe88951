"""Opening a recording: which files are one, and a sentence for every path that is none.

Recordings come from strangers, so nothing but the named file is ever opened: formats that name other files (playlists,
lists of pictures, session descriptions) are not on the list below, and no protocol but `file` is.
"""

from __future__ import annotations

import re
import stat
from pathlib import Path

import av
from av import FFmpegError
from av.container import InputContainer

# FFmpeg's names of the formats that hold a recording in one file: containers, and bare streams.
FORMATS = [
    *("mov", "matroska", "avi", "mpegts", "mpeg", "flv", "asf", "mxf", "nut", "rm", "ivf", "gif", "yuv4mpegpipe"),
    *("ogg", "wav", "w64", "mp3", "flac", "aac", "ac3", "eac3", "aiff", "au", "caf", "amr", "loas", "wv", "ape"),
    *("h264", "hevc", "vvc", "obu", "mpegvideo", "m4v", "dv", "mjpeg"),
]
_ONLY_THE_FILE = {"format_whitelist": ",".join(FORMATS), "protocol_whitelist": "file"}
_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+:/", re.IGNORECASE)  # `Path` makes one slash of two
_RIGHT = "give a media file with sound, picture or both, for example .mp4, .webm, .mov or .wav"


class RecordingError(ValueError):
    """A path that is no recording: the message names the file, what is wrong with it and what would be right."""


def open_recording(path: Path) -> InputContainer:
    """Open a media file to read.

    Raises:
        RecordingError: the path is no file, or the file is in none of `FORMATS`.
    """
    _check_file(path)
    try:
        # With its protocol named, a colon in the file's name is not taken for one.
        return av.open(f"file:{path}", metadata_errors="replace", options=_ONLY_THE_FILE)
    except av.ArgumentError as error:  # what FFmpeg raises for a format that is not on the list
        raise RecordingError(
            f"{path} is not in a format that holds a recording: text, subtitles, single pictures and lists that name "
            f"other files (.m3u8, ffconcat) are not read; {_RIGHT}"
        ) from error
    except FFmpegError as error:
        raise RecordingError(f"{path} cannot be read as media ({error.strerror}); {_RIGHT}") from error


def _check_file(path: Path) -> None:
    """RecordingError unless `path` is a file that holds something: what blocks for ever is not even opened."""
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError) as error:
        if _ADDRESS.match(str(path)):
            raise RecordingError(f"{path} is an address, not a file: download it first; {_RIGHT}") from error
        raise RecordingError(f"{path} does not exist; {_RIGHT}") from error
    except (OSError, ValueError) as error:  # a name that no file can have is a ValueError
        raise RecordingError(f"{str(path)!r} cannot be opened ({error}); {_RIGHT}") from error
    if stat.S_ISDIR(found.st_mode):
        raise RecordingError(f"{path} is a directory; {_RIGHT}")
    if stat.S_ISFIFO(found.st_mode):
        raise RecordingError(
            f"{path} is a pipe, which can be read once only, and a recording is read several times: write it to a file "
            f"first; {_RIGHT}"
        )
    if not stat.S_ISREG(found.st_mode):
        raise RecordingError(f"{path} is a device or a socket; {_RIGHT}")
    if found.st_size == 0:
        raise RecordingError(f"{path} is empty (0 bytes); {_RIGHT}")
