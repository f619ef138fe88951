"""The page in Firefox, which is spoken to by WebDriver BiDi: its own fake camera and microphone talk to the model."""

import asyncio
import itertools
import json
import re
import shutil
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("aiortc", reason="the extra [serve] is not installed")

from live_server import live_server, until
from websockets.asyncio.client import ClientConnection, connect

FIREFOX = shutil.which("firefox-esr") or shutil.which("firefox")
pytestmark = [
    pytest.mark.alone,
    pytest.mark.skipif(FIREFOX is None, reason="Firefox is not installed: apt-get install firefox-esr"),
]
PATIENCE = 60.0  # seconds
PREFERENCES = {
    "media.navigator.streams.fake": True,
    "media.navigator.permission.disabled": True,
    "media.autoplay.default": 0,
    "media.peerconnection.ice.obfuscate_host_addresses": False,
    "media.peerconnection.ice.loopback": True,
}
DECODED = """(async () => {
    const { call } = await import("/static/app.js");
    const reports = [...(await call.connection.getStats()).values()];
    const count = (kind) => reports.find((each) => each.type === "inbound-rtp" && each.kind === kind);
    return count("video")?.framesDecoded > 10 && count("audio")?.totalSamplesReceived > 10_000;
})()"""
STATE = "document.querySelector('#state').dataset.state"


class Tab:
    """A tab of a running Firefox (https://w3c.github.io/webdriver-bidi)."""

    def __init__(self, line: ClientConnection) -> None:
        self._line, self._ids, self._context = line, itertools.count(), ""

    async def command(self, method: str, **params: Any) -> dict:
        number = next(self._ids)
        await self._line.send(json.dumps({"id": number, "method": method, "params": params}))
        async for text in self._line:
            answer = json.loads(text)
            if answer.get("id") == number:
                assert answer["type"] == "success", answer
                return answer["result"]
        raise AssertionError("Firefox has gone")

    async def open(self, url: str) -> None:
        await self.command("session.new", capabilities={})
        self._context = (await self.command("browsingContext.create", type="tab"))["context"]
        await self.command("browsingContext.navigate", context=self._context, url=url, wait="complete")

    async def evaluate(self, expression: str) -> Any:
        """The value of an expression that gives a string, a number or a boolean."""
        target = {"context": self._context}
        answer = await self.command("script.evaluate", expression=expression, target=target, awaitPromise=True)
        assert answer["type"] == "success", answer
        return answer["result"].get("value")

    async def eventually(self, expression: str) -> None:
        async with asyncio.timeout(PATIENCE):
            while not await self.evaluate(expression):
                await asyncio.sleep(0.1)


@asynccontextmanager
async def firefox(profile: Path):
    """A tab of a Firefox of its own."""
    profile.mkdir()
    lines = [f"user_pref({json.dumps(name)}, {json.dumps(value)});" for name, value in PREFERENCES.items()]
    (profile / "user.js").write_text("\n".join(lines))
    with (profile / "log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            FIREFOX, "--headless", "--no-remote", "--profile", profile, "--remote-debugging-port", "0",
            stdout=log, stderr=log,
        )  # fmt: skip
    try:
        async with asyncio.timeout(PATIENCE):
            while not (found := re.search(r"listening on (ws://\S+)", (profile / "log").read_text())):
                await asyncio.sleep(0.1)
        async with connect(f"{found[1]}/session", max_size=None) as line:
            yield Tab(line)
    finally:
        process.terminate()
        await process.wait()


def test_one_connects_sees_hears_types_and_hangs_up(tmp_path):
    async def talk():
        async with live_server() as (server, url), firefox(tmp_path / "profile") as tab:
            await tab.open(url)
            await tab.evaluate("document.querySelector('#connect').click()")
            await tab.eventually(f"['listen', 'speak'].includes({STATE})")
            await tab.eventually(DECODED)
            assert await tab.evaluate("document.querySelector('#agent').videoWidth > 0")
            assert server.num_sessions == 1
            await tab.eventually("document.querySelector('#words .agent')?.textContent.length > 4")
            await tab.evaluate(
                "document.querySelector('#text').value = 'hello there';"
                "document.querySelector('#text').form.requestSubmit()"
            )
            await tab.eventually(
                "[...document.querySelectorAll('#words .you')].some((line) => line.textContent.endsWith('hello there'))"
            )
            await tab.eventually("Number(document.querySelector('#total').textContent) > 0")
            assert await tab.evaluate("document.querySelector('#notice').hidden")
            await tab.evaluate("document.querySelector('#connect').click()")
            await tab.eventually("document.querySelector('#state').textContent === 'Not connected'")
            await until(lambda: server.num_sessions == 0)

    asyncio.run(talk())
