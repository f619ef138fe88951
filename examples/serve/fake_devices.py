"""Make a recording into what Chromium takes for a camera and a microphone, to use the live page without either.

    python examples/serve/fake_devices.py demo/recording.mp4 runs/devices
    chromium $(cat runs/devices/flags) http://localhost:8080

Writes `camera.y4m`, `microphone.wav` and the flags that make Chromium play both, again and again.
"""

import wave
from pathlib import Path
from typing import Annotated

import av
import torch
import typer
from av import VideoFrame
from streamer_pipeline import FRAME_RATE, SAMPLE_RATE, RecordingReader, UserUnit


def write_devices(units: list[UserUnit], folder: Path) -> list[str]:
    """Write camera.y4m and microphone.wav; the flags that make Chromium play both, again and again."""
    folder.mkdir(parents=True, exist_ok=True)
    camera, microphone = folder.resolve() / "camera.y4m", folder.resolve() / "microphone.wav"
    height, width = units[0].video.shape[2:]
    with av.open(str(camera), "w", format="yuv4mpegpipe") as container:
        stream = container.add_stream("wrapped_avframe", rate=FRAME_RATE)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for unit in units:
            pixels = ((unit.video + 1) * 127.5).round().byte().permute(1, 2, 3, 0).contiguous()
            for picture in pixels.numpy():
                frame = VideoFrame.from_ndarray(picture, "rgb24").reformat(format="yuv420p")
                container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    samples = torch.cat([unit.audio for unit in units], dim=1)[0]
    with wave.open(str(microphone), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        file.writeframes((samples * 32767).round().to(torch.int16).numpy().tobytes())
    return [
        "--use-fake-ui-for-media-stream",
        "--use-fake-device-for-media-stream",
        f"--use-file-for-fake-video-capture={camera}",
        f"--use-file-for-fake-audio-capture={microphone}",
        "--autoplay-policy=no-user-gesture-required",
    ]


def main(
    recording: Annotated[Path, typer.Argument(help="anything PyAV opens", exists=True)],
    folder: Annotated[Path, typer.Argument(help="where camera.y4m, microphone.wav and flags go")],
) -> None:
    """Write the two devices and the flags to give to Chromium."""
    flags = write_devices(list(RecordingReader(recording)), folder)
    (folder / "flags").write_text(" ".join(flags))
    typer.echo(" ".join(flags))


if __name__ == "__main__":
    typer.run(main)
