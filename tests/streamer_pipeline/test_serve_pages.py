"""Other projects' pages in headless Chromium: Pipecat's client and OpenAI's, over WebRTC, meet the bundled agent."""

import asyncio
import subprocess
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

pytest.importorskip("aiortc", reason="the extra [serve] is not installed")
pytest.importorskip("playwright.async_api", reason="playwright is not installed")

from live_server import until
from playwright.async_api import async_playwright
from realtime_clients import CLIENTS, answering, needs
from streamer_pipeline import StreamerPipeline
from test_serve_browser import CHROMIUM, QUIET, devices, eventually, new_page

pytestmark = [
    pytest.mark.alone,
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed: apt-get install chromium"),
]


@pytest.fixture(scope="module")
def pipeline() -> StreamerPipeline:
    return StreamerPipeline.from_pretrained()


def bundle(script: str, folder: Path) -> str:
    """One file of a client's page and all that it imports."""
    entry, out = folder / script, folder / "bundle.js"
    for source in (Path(__file__).parents[1] / "clients").glob("*.mjs"):
        (folder / source.name).write_text(source.read_text())
    (folder / "node_modules").symlink_to(CLIENTS / "node_modules")
    esbuild = CLIENTS / "node_modules" / ".bin" / "esbuild"
    subprocess.run([esbuild, entry, "--bundle", f"--outfile={out}", "--log-level=error"], check=True)
    return out.read_text()


@asynccontextmanager
async def page_of(pipeline: StreamerPipeline, script: str, folder: Path):
    """(LiveServer, a page of the server's own origin that has started the client, its uncaught errors)."""
    errors, code = [], bundle(script, folder)
    flags = [*QUIET, *devices(folder, "object"), "--autoplay-policy=no-user-gesture-required"]
    async with answering(pipeline) as (server, url), async_playwright() as tools:
        browser = await tools.chromium.launch(executable_path=CHROMIUM, args=flags)
        page = await new_page(browser, errors)
        await page.route(f"{url}/client.html", lambda route: route.fulfill(body="<body>", content_type="text/html"))
        await page.goto(f"{url}/client.html")
        await page.add_script_tag(content=code)
        await page.evaluate(f"window.start('{url}', 'secret')")
        yield server, page, errors
        await browser.close()


@needs("node_modules/@pipecat-ai/small-webrtc-transport", "node_modules/esbuild")
def test_pipecats_client_sees_hears_and_reads_the_agent(pipeline, tmp_path):
    async def talk():
        async with page_of(pipeline, "pipecat_page.mjs", tmp_path) as (server, page, errors):
            await eventually(page, "window.seen.ready?.version.startsWith('2.')")
            await eventually(page, "window.seen.words.includes('it is')")
            await eventually(page, "window.seen.spoke > 0 && window.seen.stopped > 0")
            await eventually(page, "window.picture.getVideoPlaybackQuality().totalVideoFrames > 20")
            assert await page.evaluate("[window.picture.videoWidth, window.picture.videoHeight]") == [336, 192]
            await eventually(page, "window.seen.level > 0.02")
            await page.evaluate("window.client.sendText('hello there')")
            await page.evaluate("window.client.sendClientRequest('shell', {}).catch(() => {})")
            await eventually(page, "window.seen.errors.length > 0")
            assert "not supported" in (await page.evaluate("window.seen.errors"))[0]
            assert server.num_sessions == 1
            await page.evaluate("window.client.disconnect()")
            await until(lambda: server.num_sessions == 0)
            assert errors == []

    asyncio.run(talk())


@needs("node_modules/@openai/agents", "node_modules/esbuild")
def test_openais_client_calls_by_webrtc(pipeline, tmp_path):
    async def talk():
        async with page_of(pipeline, "openai_agents_page.mjs", tmp_path) as (server, page, errors):
            await eventually(page, "window.seen.transcript.includes('it is')")
            await eventually(page, "window.seen.level > 0.02")
            await eventually(page, "window.seen.events.includes('output_audio_buffer.stopped')")
            assert await page.evaluate("window.seen.errors") == errors == []
            await page.evaluate("window.session.close()")
            await until(lambda: server.num_sessions == 0)

    asyncio.run(talk())
