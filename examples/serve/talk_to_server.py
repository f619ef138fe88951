"""Let a recording talk to a live server, print what the agent says and keep how it looked and sounded.

    wan-streamer serve &
    python examples/serve/talk_to_server.py http://127.0.0.1:8080 demo/recording.mp4 --output agent.mp4

The recording plays in real time, as a browser would send it.
"""

import asyncio
from pathlib import Path
from typing import Annotated

import typer
from aiortc.contrib.media import MediaRecorder
from streamer_pipeline.media.marks import mark_as_generated
from streamer_pipeline.serve.client import CallRefused, LiveClient, RecordingPlayer


async def talk(url: str, recording: Path, output: Path, seconds: float, token: str | None) -> None:
    """Play the recording to the agent for `seconds`; the agent's side goes to `output`."""
    player = RecordingPlayer(recording)
    async with LiveClient(url, player.audio, player.video, token=token) as client:
        recorder = MediaRecorder(str(output))
        recorder.addTrack(client.audio)
        recorder.addTrack(client.video)
        await recorder.start()
        try:
            async with asyncio.timeout(seconds):
                async for unit in client.messages():
                    print(unit["text"], end="", flush=True)
        except TimeoutError:
            pass
        finally:
            await recorder.stop()
            mark_as_generated(output)
    print(f"\nthe agent's side is in {output}")


def main(
    url: Annotated[str, typer.Argument(help="what `wan-streamer serve` printed")],
    recording: Annotated[Path, typer.Argument(help="a person who talks to the agent", exists=True)],
    output: Annotated[Path, typer.Option(help="where the agent's side goes")] = Path("agent.mp4"),
    seconds: Annotated[float, typer.Option(min=1, help="length of the conversation")] = 20.0,
    token: Annotated[str | None, typer.Option(help="if the server asks for one")] = None,
) -> None:
    """Talk to a live server."""
    try:
        asyncio.run(talk(url, recording, output, seconds, token))
    except CallRefused as error:
        typer.echo(f"no conversation: {error}", err=True)
        raise typer.Exit(1) from error


if __name__ == "__main__":
    typer.run(main)
