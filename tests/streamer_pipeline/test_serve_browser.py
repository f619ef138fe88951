"""The page in a real browser: Debian's Chromium with a camera and a microphone that play a user of the world."""

import asyncio
import os
import shutil
import sys
from pathlib import Path

import pytest

pytest.importorskip("aiortc", reason="the extra [serve] is not installed")
pytest.importorskip("playwright.async_api", reason="playwright is not installed")

from live_server import live_server, until
from playwright.async_api import async_playwright
from streamer_pipeline import StreamerPipeline, split_units

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))

CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed: apt-get install chromium")
PATIENCE_MS = 120_000
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
SCREENSHOTS = os.environ.get("WAN_STREAMER_SCREENSHOTS")  # a folder to look at


@pytest.fixture(scope="module")
def devices(tmp_path_factory) -> list[str]:
    """The flags of Chromium that make it see and hear a user who asks what they hold."""
    import torch
    from fake_devices import write_devices
    from make_demo_recording import synthetic_user

    frames, sound, _ = synthetic_user(["object"])
    video = torch.from_numpy(frames).permute(3, 0, 1, 2).float() / 127.5 - 1
    units = split_units(torch.from_numpy(sound).T.float().contiguous(), video)
    return write_devices(units, tmp_path_factory.mktemp("devices"))


async def connected(page, url: str) -> None:
    await page.goto(url)
    await page.click("#connect")
    await eventually(page, "['listen', 'speak'].includes(document.querySelector('#state').dataset.state)")
    await eventually(page, "document.querySelector('#agent').getVideoPlaybackQuality().totalVideoFrames > 10")


async def eventually(page, expression: str) -> None:
    """Wait until it is true (Playwright's own waiting evaluates strings inside the page, which its policy forbids)."""
    async with asyncio.timeout(PATIENCE_MS / 1000):
        while not await page.evaluate(expression):
            await asyncio.sleep(0.1)


async def heard_energy(page) -> float:
    """What the browser has played of the agent so far: WebRTC's total audio energy."""
    return await page.evaluate(
        """async () => {
            const { call } = await import('/static/app.js');
            const reports = [...(await call.connection.getStats()).values()];
            return reports.find((each) => each.type === 'inbound-rtp' && each.kind === 'audio').totalAudioEnergy;
        }"""
    )


def test_talk_type_refuse_reload_and_hang_up(devices):
    async def talk():
        async with (
            live_server(pipeline=StreamerPipeline.from_pretrained(), height=192, width=336) as (server, url),
            async_playwright() as tools,
        ):
            browser = await tools.chromium.launch(executable_path=CHROMIUM, args=[*QUIET, *devices])
            first, second = await browser.new_page(), await browser.new_page()
            errors = []
            for page in (first, second):
                page.set_default_timeout(PATIENCE_MS)
                page.on("pageerror", lambda error: errors.append(str(error)))

            await connected(first, url)
            assert await first.evaluate("[agent.videoWidth, agent.videoHeight]") == [336, 192]
            await eventually(first, "document.querySelector('#words .agent')?.textContent.length > 8")
            assert await heard_energy(first) > 0
            await first.fill("#text", "hello there")
            await first.press("#text", "Enter")
            assert "hello there" in await first.inner_text("#words .you")
            await eventually(first, "Number(document.querySelector('#total').textContent) > 0")
            await take_pictures(first)

            await second.goto(url)
            await second.click("#connect")
            await eventually(second, "document.querySelector('#notice').textContent.includes('server is full')")
            await second.close()

            await first.reload()
            await until(lambda: server.num_sessions == 0)
            await connected(first, url)
            for button in ("#mute", "#camera"):
                await first.click(button)
                assert await first.get_attribute(button, "aria-pressed") == "true"
            await first.click("#connect")
            await eventually(first, "document.querySelector('#state').textContent === 'Not connected'")
            await until(lambda: server.num_sessions == 0)
            await browser.close()
        assert errors == []

    asyncio.run(talk())


async def take_pictures(page) -> None:
    """The page in light, dark and on a phone, for people to look at; in any of them nothing may stick out."""
    for name, scheme, width, height in (
        ("light", "light", 1280, 900),
        ("dark", "dark", 1280, 900),
        ("phone", "dark", 390, 844),
    ):
        await page.emulate_media(color_scheme=scheme)
        await page.set_viewport_size({"width": width, "height": height})
        assert await page.evaluate("document.documentElement.scrollWidth") <= width
        if SCREENSHOTS:
            await page.screenshot(path=str(Path(SCREENSHOTS) / f"{name}.png"), full_page=True)


def test_a_refused_camera_is_said_in_words():
    async def talk():
        async with live_server() as (server, url), async_playwright() as tools:
            browser = await tools.chromium.launch(executable_path=CHROMIUM, args=QUIET)
            page = await browser.new_page()
            page.set_default_timeout(PATIENCE_MS)
            await page.goto(url)
            await page.focus("#connect")
            await page.keyboard.press("Enter")
            await page.wait_for_selector("#notice:visible")
            said = await page.inner_text("#notice")
            assert "refused" in said or "microphone" in said.lower()
            assert await page.inner_text("#connect") == "Connect"
            assert server.num_sessions == 0
            await browser.close()

    asyncio.run(talk())
