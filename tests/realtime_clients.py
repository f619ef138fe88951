"""Other projects' clients, run as they are: where `make setup-clients` put them, and a user of the world for them."""

import asyncio
import json
import os
import sys
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest
from duplex_world.demo_user import synthetic_user
from live_server import live_server, until
from PIL import Image
from streamer_pipeline import StreamerPipeline

CLIENTS = Path(os.environ.get("WAN_STREAMER_CACHE", Path.home() / ".cache" / "wan-streamer")) / "clients"
SITE = CLIENTS / "python"
_PICTURE_SECONDS = 2.4
_PATIENCE = 60.0


def user_files(folder: Path, *scenarios: str) -> tuple[Path, Path]:
    """(PCM16 at 24 kHz, JPEG) of a user of these scenarios; of one who shows something and asks what it is if none."""
    frames, sound, _ = synthetic_user(list(scenarios) or ["object"])
    samples = (np.clip(sound.reshape(-1), -1, 1) * 32767).astype("<i2")
    (folder / "sound.pcm").write_bytes(samples.tobytes())
    Image.fromarray(frames[int(_PICTURE_SECONDS * 25)]).save(folder / "picture.jpg", quality=95)
    return folder / "sound.pcm", folder / "picture.jpg"


@asynccontextmanager
async def answering(pipeline: StreamerPipeline):
    """(LiveServer, its address) of the bundled agent, with the token "secret".

    A machine that is too slow loses what the user says: what fails then says nothing, and is skipped.
    """
    async with live_server(pipeline=pipeline, height=192, width=336, num_inference_steps=1, token="secret") as served:
        try:
            yield served
        except (AssertionError, TimeoutError):
            dropped = served[0].metrics.registry.get_sample_value("wan_streamer_dropped_inputs_total")
            if dropped:
                pytest.skip(f"this machine is too slow or too busy now: {dropped:.0f} units of the user were dropped")
            raise
        await until(lambda: served[0].num_sessions == 0)


def check_answer(transcript: str) -> None:
    """It says what `user_files` show."""
    assert transcript.strip().startswith("it is") and "black" in transcript


def needs(*installed: str):
    """Skips a test unless these lie in the folder of clients."""
    missing = [each for each in installed if not (CLIENTS / each).exists()]
    return pytest.mark.skipif(bool(missing), reason=f"{', '.join(missing)} not installed: make setup-clients")


async def run_client(script: str, *arguments: object) -> dict:
    """What a client of tests/clients, in node or Python, says at its end."""
    path = Path(__file__).parent / "clients" / script
    command = [sys.executable, "-P", path] if path.suffix == ".py" else ["node", path, CLIENTS]
    client = await asyncio.create_subprocess_exec(
        *map(str, [*command, *arguments]),
        env={**os.environ, "PYTHONPATH": str(SITE)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        out, errors = await asyncio.wait_for(client.communicate(), _PATIENCE)
    except TimeoutError:
        client.kill()
        raise
    assert client.returncode == 0, errors.decode()
    return json.loads(out)
