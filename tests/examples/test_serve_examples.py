"""The examples around the live server."""

import asyncio
import os

import pytest

pytest.importorskip("aiortc", reason="the extra [serve] is not installed")

import fake_devices
import talk_to_server
from live_server import client, live_server, unit_from, until
from streamer_pipeline import RecordingReader, RecordingWriter
from streamer_pipeline.serve.client import CallRefused
from tiny_parts import SIZE, random_units

pytestmark = pytest.mark.alone


@pytest.fixture
def recording(tmp_path):
    path = tmp_path / "user.mp4"
    with RecordingWriter(path, *SIZE) as writer:
        for unit in random_units(25):
            writer.write(unit)
    return path


def test_a_recording_talks_to_a_server_and_the_agents_side_is_kept(recording, tmp_path):
    async def talk():
        async with live_server() as (server, url):
            await talk_to_server.talk(url, recording, tmp_path / "agent.mp4", seconds=5.0, token=None)
            await until(lambda: server.num_sessions == 0)

    asyncio.run(talk())
    assert RecordingReader(tmp_path / "agent.mp4").num_units >= 1


def test_a_recording_becomes_devices_that_last_as_long(recording, tmp_path):
    units = random_units(5)
    flags = fake_devices.write_devices(units, tmp_path)
    camera, microphone = tmp_path / "camera.y4m", tmp_path / "microphone.wav"
    assert any(str(camera) in flag for flag in flags) and any(str(microphone) in flag for flag in flags)
    assert RecordingReader(camera).num_units == RecordingReader(microphone).num_units == 5


@pytest.mark.skipif(not os.environ.get("SOAK"), reason="starts Ray and two replicas: SOAK=1")
def test_two_replicas_of_a_ray_deployment_talk_at_once():
    ray = pytest.importorskip("ray", reason="the extra [ray] is not installed")
    import serve_ray
    from streamer_pipeline.serve import ServeOptions

    async def admitted(url: str):
        """A conversation with whichever replica has room."""
        for _ in range(50):
            try:
                return await client(url).__aenter__()
            except CallRefused as error:
                assert "full" in str(error)
                await asyncio.sleep(0.2)
        raise AssertionError("no replica had room")

    async def talk(url: str):
        callers = [await admitted(url), await admitted(url)]
        for caller in callers:
            await unit_from(caller, 0)
            await caller.__aexit__(None, None, None)

    ray.init(num_cpus=2)
    try:
        serve_ray.deploy("wan-streamer-tiny", ServeOptions(port=8765), replicas=2, cpus=1.0)
        asyncio.run(talk("http://127.0.0.1:8765"))
    finally:
        ray.shutdown()
