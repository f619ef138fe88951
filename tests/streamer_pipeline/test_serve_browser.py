"""The page in a real browser: Debian's Chromium with a camera and a microphone that play a user of the world."""

import asyncio
import os
import shutil
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path

import pytest
import torch

pytest.importorskip("aiortc", reason="the extra [serve] is not installed")
pytest.importorskip("playwright.async_api", reason="playwright is not installed")

from duplex_world.demo_user import synthetic_user
from fake_devices import write_devices
from live_server import live_server, until
from playwright.async_api import Browser, Page, Route, async_playwright
from streamer_pipeline import FRAME_RATE, StreamerPipeline, split_units
from streamer_pipeline.cache_folder import cache_folder
from streamer_pipeline.serve.conversation import Conversation

CHROMIUM = shutil.which("chromium")
pytestmark = [
    pytest.mark.alone,
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed: apt-get install chromium"),
]
PATIENCE_MS = 120_000
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
AXE = cache_folder() / "axe-core" / "node_modules" / "axe-core" / "axe.min.js"
SCREENSHOTS = os.environ.get("WAN_STREAMER_SCREENSHOTS")  # a folder to look at
HEIGHT, WIDTH = 192, 336
TICKS_PER_PICTURE = 90_000 // FRAME_RATE  # of RTP's clock for video
STOPPED = "/one two three((?! ten).)*okay i will stop/"
WATCH_PICTURES = """() => {
    const agent = document.querySelector("#agent");
    window.shown = [];
    const note = (_, { rtpTimestamp, presentedFrames }) => {
        window.shown.push([rtpTimestamp, presentedFrames]);
        agent.requestVideoFrameCallback(note);
    };
    agent.requestVideoFrameCallback(note);
}"""


@pytest.fixture(scope="module")
def pipeline() -> StreamerPipeline:
    return StreamerPipeline.from_pretrained()


@asynccontextmanager
async def served(pipeline: StreamerPipeline, flags: list[str]):
    """(LiveServer, its address, a browser): one solver step, which leaves the most of the processor to the browser."""
    async with (
        live_server(pipeline=pipeline, height=HEIGHT, width=WIDTH, num_inference_steps=1) as (server, url),
        async_playwright() as tools,
    ):
        browser = await tools.chromium.launch(executable_path=CHROMIUM, args=[*QUIET, *flags])
        yield server, url, browser
        await browser.close()


def devices(folder: Path, scenes: str) -> list[str]:
    """The flags that make Chromium see and hear a user of these scenarios, again and again."""
    frames, sound, _ = synthetic_user(scenes.split())
    video = torch.from_numpy(frames).permute(3, 0, 1, 2).float() / 127.5 - 1
    return write_devices(split_units(torch.from_numpy(sound).T.float().contiguous(), video), folder)


async def new_page(browser: Browser, errors: list[str]) -> Page:
    """A page whose uncaught errors are collected."""
    page = await browser.new_page(viewport={"width": 640, "height": 900})
    page.set_default_timeout(PATIENCE_MS)
    page.on("pageerror", lambda error: errors.append(str(error)))
    return page


async def connected(page: Page, url: str) -> None:
    await page.goto(url)
    await page.click("#connect")
    await eventually(page, "['listen', 'speak'].includes(document.querySelector('#state').dataset.state)")
    await eventually(page, "document.querySelector('#agent').getVideoPlaybackQuality().totalVideoFrames > 10")


async def eventually(page: Page, expression: str) -> None:
    """Wait until it is true (Playwright's own waiting evaluates strings inside the page, which its policy forbids)."""
    async with asyncio.timeout(PATIENCE_MS / 1000):
        while not await page.evaluate(expression):
            await asyncio.sleep(0.1)


async def heard_energy(page: Page) -> float:
    """What the browser has played of the agent so far: WebRTC's total audio energy."""
    return await page.evaluate(
        """async () => {
            const { call } = await import('/static/app.js');
            const reports = [...(await call.connection.getStats()).values()];
            return reports.find((each) => each.type === 'inbound-rtp' && each.kind === 'audio').totalAudioEnergy;
        }"""
    )


def test_talk_type_refuse_reload_and_hang_up(pipeline, tmp_path):
    async def talk():
        errors = []
        async with served(pipeline, devices(tmp_path, "object")) as (server, url, browser):
            first, second = [await new_page(browser, errors) for _ in range(2)]
            await first.goto(url)
            await take_pictures(first, "before")
            await connected(first, url)
            assert await first.evaluate("[agent.videoWidth, agent.videoHeight]") == [WIDTH, HEIGHT]
            await eventually(first, "document.querySelector('#words .agent')?.textContent.length > 8")
            assert await heard_energy(first) > 0
            await first.fill("#text", "hello there")
            await first.press("#text", "Enter")
            assert "hello there" in await first.inner_text("#words")
            await eventually(first, "Number(document.querySelector('#total').textContent) > 0")
            await take_pictures(first, "talking")

            await second.goto(url)
            await second.click("#connect")
            await eventually(second, "document.querySelector('#notice').textContent.includes('server is full')")
            await take_pictures(second, "full")
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
        assert errors == []

    asyncio.run(talk())


def test_the_agent_stops_when_interrupted_and_its_pictures_play_at_25_per_second(pipeline, tmp_path):
    """The user asks it to count to ten and says "stop", sooner or later, over and over; it must stop once in time.

    A machine that is too slow loses what the user says, which says nothing about interruptions.
    """

    async def talk():
        errors = []
        flags = devices(tmp_path, "interrupt interrupt interrupt interrupt")
        async with served(pipeline, flags) as (server, url, browser):
            page = await new_page(browser, errors)
            await connected(page, url)
            await page.evaluate(WATCH_PICTURES)
            try:
                await eventually(page, f"{STOPPED}.test(document.querySelector('#words').textContent)")
            except TimeoutError:
                deaf = server.metrics.registry.get_sample_value("wan_streamer_dropped_inputs_total")
                if deaf:
                    pytest.skip(f"this machine is too slow or too busy now: {deaf:.0f} units of the user were dropped")
                raise AssertionError(f"it never stopped, but said: {await page.inner_text('#words')}") from None
            shown = await page.evaluate("window.shown")
            await eventually(page, "document.querySelector('#state').dataset.state === 'listen'")
        assert errors == []
        return shown

    shown = asyncio.run(talk())
    steps = [(b[0] - a[0]) % 2**32 for a, b in pairwise(shown)]
    assert {step % TICKS_PER_PICTURE for step in steps} == {0}  # each is one of 25 moments of a second
    num_due = sum(steps) // TICKS_PER_PICTURE
    assert 0.9 * num_due <= shown[-1][1] - shown[0][1] <= num_due  # and hardly one was passed over


async def take_pictures(page: Page, what: str) -> None:
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
            await page.screenshot(path=str(Path(SCREENSHOTS) / f"{what}-{name}.png"), full_page=True)


def test_a_refused_camera_is_said_in_words_also_to_who_clicks_before_the_page_knows_its_server():
    async def answer_late(route: Route) -> None:
        await asyncio.sleep(0.5)
        await route.continue_()

    async def talk():
        async with live_server() as (server, url), async_playwright() as tools:
            browser = await tools.chromium.launch(executable_path=CHROMIUM, args=QUIET)
            page = await new_page(browser, [])
            await page.route("**/about", answer_late)
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


async def check_accessibility(page: Page) -> None:
    """No rule of axe-core is broken, in light and dark, and nothing sticks out of 320 pixels (WCAG 1.4.10)."""
    for scheme in ("light", "dark"):
        for width in (1366, 320):
            await page.emulate_media(color_scheme=scheme)
            await page.set_viewport_size({"width": width, "height": 650})
            assert await page.evaluate("document.documentElement.scrollWidth") <= width
            found = await page.evaluate(
                "axe.run().then(({ violations }) => violations.map(({ id, nodes }) => [id, nodes.map((n) => n.html)]))"
            )
            assert found == [], (scheme, width)


@pytest.mark.skipif(not AXE.exists(), reason="axe-core is not installed: make setup-browser")
def test_the_page_is_accessible_and_fits_a_laptop_off_connected_and_after_an_error():
    async def talk():
        errors = []
        flags = ["--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream"]
        async with (
            live_server(suggestions=("hello", "count to ten")) as (server, url),
            async_playwright() as tools,
        ):
            browser = await tools.chromium.launch(executable_path=CHROMIUM, args=[*QUIET, *flags])
            page = await new_page(browser, errors)
            await page.goto(url)
            await page.evaluate(AXE.read_text(encoding="utf-8"))
            await eventually(page, "!document.querySelector('#suggestions').hidden")
            assert "“count to ten”" in await page.inner_text("#suggestions")
            await check_accessibility(page)
            await page.click("#connect")
            await eventually(page, "['listen', 'speak'].includes(document.querySelector('#state').dataset.state)")
            assert await page.inner_text("#announcement") == "Connected"
            await eventually(page, "Number(document.querySelector('#total').textContent) > 0")
            await page.click("#mute")
            await page.click("summary")
            await eventually(page, "document.querySelector('#plot').width > 0")
            await check_accessibility(page)
            await page.set_viewport_size({"width": 1366, "height": 650})
            await page.evaluate("window.scrollTo(0, 0)")
            for element in ("#connect", "#words", "#send"):  # in sight without scrolling
                box = await page.evaluate(f"document.querySelector('{element}').getBoundingClientRect().bottom")
                assert box <= 650, element
            for conversation in list(server.conversations.values()):
                conversation.hang_up("limit", "a conversation ends after 30 minutes")
            await eventually(page, "!document.querySelector('#notice').hidden")
            assert await page.inner_text("#cover-text") == "You are not connected. Press Connect to begin again."
            await check_accessibility(page)
            await browser.close()
        assert errors == []

    asyncio.run(talk())


def cut(conversation: Conversation) -> None:
    """From now on no datagram of sound, picture or words passes between the server and this conversation's browser."""
    ice = conversation.line._connection.sctp.transport.transport

    async def nothing(data: bytes) -> None:
        pass

    ice._send, arrived = nothing, ice._recv

    async def never() -> bytes:
        while True:
            await arrived()

    ice._recv = never


def test_the_page_goes_on_by_itself_after_the_network_was_cut_for_5_seconds():
    async def talk():
        errors = []
        flags = ["--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream"]
        async with live_server(hung_seconds=10.0, resume_seconds=60.0) as (server, url), async_playwright() as tools:
            browser = await tools.chromium.launch(executable_path=CHROMIUM, args=[*QUIET, *flags])
            page = await new_page(browser, errors)
            await page.goto(url)
            await page.click("#connect")
            await eventually(page, "document.querySelector('#words .agent')?.textContent.length > 8")
            (conversation,) = server.conversations.values()
            line = conversation.line
            cut(conversation)
            await page.context.set_offline(True)
            await asyncio.sleep(5)
            await page.context.set_offline(False)
            await until(lambda: conversation.line is not line and not conversation.has_ended)
            await eventually(page, "['listen', 'speak'].includes(document.querySelector('#state').dataset.state)")
            await eventually(page, "document.querySelector('#notice').hidden")
            words = await page.inner_text("#words")
            await eventually(page, f"document.querySelector('#words').textContent.length > {len(words)}")
            assert list(server.conversations.values()) == [conversation]
            await page.click("#connect")
            await until(lambda: server.num_sessions == 0)
            await browser.close()
        assert errors == []

    asyncio.run(talk())
