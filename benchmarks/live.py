"""End to end in a real browser: from the end of a spoken question to the first sound of the answer in the page.

    python benchmarks/live.py --runs 50

Starts `wan-streamer serve` and Debian's Chromium. Its microphone plays a user of the world who asks what they hold, its
camera shows them, again and again. An audio worklet in the page measures the level of both streams on one clock: of
the microphone as it goes to WebRTC, and of the agent as it comes out of the jitter buffer. The server tells the page of
every unit how long it took; units in which something is said take longer, so the parts are those of the units in which
an answer begins: `model` is the server's own time from a complete unit to its leaving, of it `computing` the cycle and
`playout` what is left: the cushion and the queues. `computing_silent`, of units without an answer, stands beside it and
is in no sum. From the page come `network`, the round trip of the data channel, and `buffer`, the jitter buffer of
sound. Three waits follow from the design and are not measured: the user's sound waits 4 packets of 20 ms in aiortc's
jitter buffer (`intake`), the unit in which the question ends is full half a unit later on average (`filling`), and one
more unit, in which nothing is said, shows that the question was over (`silence`). `rest` is what p50 has besides:
encoding on both ways, the start of the answer's first word, and whatever medians of the parts do not say.
"""

import asyncio
import json
import shutil
import socket
import sys
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from duplex_world.demo_user import synthetic_user
from playwright.async_api import Page, async_playwright
from rich.console import Console
from rich.table import Table
from streamer_pipeline import UNIT_MS, split_units

sys.path.append(str(Path(__file__).parents[1] / "examples" / "serve"))

from fake_devices import write_devices

WINDOW_SAMPLES, CLOCK_RATE = 512, 48_000
WINDOW_MS = 1000 * WINDOW_SAMPLES / CLOCK_RATE
SPEECH_LEVEL = 0.01  # root mean square of a window
INTAKE_MS = 4 * 20  # aiortc's receiver gives a packet of sound away when the fourth after it has come
PAUSE_MS, ANSWER_MS, ONSET_WINDOWS = 800, 6000, 3
_LEVELS = """
class Levels extends AudioWorkletProcessor {
  constructor() { super(); this.sums = [0, 0]; this.count = 0; this.found = []; }
  process(inputs) {
    inputs.forEach((input, i) => { for (const x of input[0] ?? []) this.sums[i] += x * x; });
    this.count += 128;
    if (this.count === WINDOW) {
      this.found.push(this.sums.map((sum) => Math.sqrt(sum / WINDOW)));
      this.sums = [0, 0];
      this.count = 0;
    }
    if (this.found.length === 94) { this.port.postMessage(this.found); this.found = []; }
    return true;
  }
}
registerProcessor("levels", Levels);
""".replace("WINDOW", str(WINDOW_SAMPLES))
_LISTEN = """async (source) => {
  const { call } = await import("/static/app.js");
  const context = new AudioContext({ sampleRate: RATE });
  await context.audioWorklet.addModule(URL.createObjectURL(new Blob([source], { type: "text/javascript" })));
  const node = new AudioWorkletNode(context, "levels", { numberOfInputs: 2, numberOfOutputs: 0 });
  const streams = [call.stream, document.querySelector("#agent").srcObject];
  streams.forEach((stream, i) => context.createMediaStreamSource(stream).connect(node, 0, i));
  window.levels = [];
  window.units = [];
  call.channel.addEventListener("message", (event) => {
    const message = JSON.parse(event.data);
    if (message.type === "unit") window.units.push(message);
  });
  node.port.onmessage = (event) => window.levels.push(...event.data);
}""".replace("RATE", str(CLOCK_RATE))


@dataclass(frozen=True)
class Run:
    """One question. answer_ms: from its end to the first sound of the answer, or None if none came."""

    answer_ms: float | None


def find_runs(levels: np.ndarray) -> list[Run]:
    """Levels (T, 2) of microphone and agent, a row per window -> the questions that were followed by a pause.

    A question at whose end the agent is already speaking is not counted: nothing of what is heard answers it yet.
    """
    pause, wait = round(PAUSE_MS / WINDOW_MS), round(ANSWER_MS / WINDOW_MS)
    mine, agents = levels[:, 0] > SPEECH_LEVEL, levels[:, 1] > SPEECH_LEVEL
    runs = []
    for end in np.flatnonzero(mine[:-1] & ~mine[1:]) + 1:
        is_pause = end + pause <= len(mine) and not mine[end : end + pause].any()
        if not is_pause or agents[max(0, end - ONSET_WINDOWS) : end + 1].any():
            continue
        heard = np.convolve(agents[end : end + wait], np.ones(ONSET_WINDOWS), "valid") == ONSET_WINDOWS
        runs.append(Run(float(np.argmax(heard) * WINDOW_MS) if heard.any() else None))
    return runs


def parts_of_answers(units: list[dict[str, Any]]) -> dict[str, float]:
    """What the server said of its units in turn -> medians in ms: model, computing, playout, computing_silent.

    An answer begins in the first unit that speaks after one that does not. Fillers, which answer nothing, do not count.
    """
    units = [unit for unit in units if "model_ms" in unit]
    begun = [
        unit
        for before, unit in pairwise(units)
        if unit["state"] == "speak" != before["state"] and unit["index"] == before["index"] + 1
    ]

    def middle(name: str, among: list[dict[str, Any]]) -> float:
        return float(np.median([unit[name] for unit in among])) if among else float("nan")

    model, computing = middle("reply_ms", begun), middle("model_ms", begun)
    silent = middle("model_ms", [unit for unit in units if unit["state"] != "speak"])
    return {"model": model, "computing": computing, "playout": model - computing, "computing_silent": silent}


async def measure(page: Page, url: str, num_runs: int, max_seconds: float) -> tuple[list[Run], dict[str, float]]:
    """Talk until there are so many runs; their list, and the medians of the parts in ms."""
    await page.goto(url)
    await page.click("#connect")
    while await page.evaluate("document.querySelector('#state').dataset.state") not in ("listen", "speak"):
        await asyncio.sleep(0.2)
        if notice := await page.inner_text("#notice"):
            raise RuntimeError(notice)
    await page.evaluate(_LISTEN, _LEVELS)
    runs, shown = [], []
    for _ in range(int(max_seconds / 5)):
        await asyncio.sleep(5)
        levels = np.array(await page.evaluate("window.levels"))
        runs = find_runs(levels) if len(levels) else []
        shown.append(await page.evaluate("['network', 'buffer'].map((id) => Number(window[id].textContent))"))
        if len(runs) >= num_runs:
            break
    network, buffer = np.nanmedian(np.array(shown, float), axis=0).tolist()
    parts = parts_of_answers(await page.evaluate("window.units"))
    return runs[:num_runs], parts | {"network": network, "buffer": buffer}


def devices(folder: Path) -> list[str]:
    """The flags for a user who asks what they hold."""
    frames, sound, _ = synthetic_user(["object"])
    video = torch.from_numpy(frames).permute(3, 0, 1, 2).float() / 127.5 - 1
    return write_devices(split_units(torch.from_numpy(sound).T.float().contiguous(), video), folder)


async def run(checkpoint: str, num_runs: int, max_seconds: float, folder: Path) -> dict[str, object]:
    """Serve, browse, measure; the summary."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = await asyncio.create_subprocess_exec(
        Path(sys.executable).with_name("wan-streamer"), "serve", checkpoint, "--port", str(port), "--minutes", "600",
        stdout=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        await _until_it_listens(server, port)
        async with async_playwright() as tools:
            flags = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", *devices(folder)]
            browser = await tools.chromium.launch(executable_path=shutil.which("chromium"), args=flags)
            page = await browser.new_page(bypass_csp=True)  # the worklet is ours, not the page's
            runs, parts = await measure(page, f"http://127.0.0.1:{port}", num_runs, max_seconds)
            await browser.close()
    finally:
        if server.returncode is None:
            server.terminate()
        await server.wait()
    return summarise(runs, parts)


async def _until_it_listens(server: asyncio.subprocess.Process, port: int) -> None:
    while server.returncode is None:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.close()
            return
        except OSError:
            await asyncio.sleep(0.5)
    raise RuntimeError(f"the server ended with code {server.returncode}")


def summarise(runs: list[Run], parts: dict[str, float]) -> dict[str, object]:
    """p50 and p95 over the answered runs, the medians of the parts, and what is left of p50 without them.

    intake, filling, silence: by design, not measured.
    """
    answered = [each.answer_ms for each in runs if each.answer_ms is not None]
    p50, p95 = (float(np.percentile(answered, q)) if answered else float("nan") for q in (50, 95))
    waits = {"intake": INTAKE_MS, "filling": UNIT_MS / 2, "silence": UNIT_MS}
    summed = parts["model"] + parts["network"] + parts["buffer"] + sum(waits.values())
    counts = {"runs": len(runs), "answered": len(answered), "p50_ms": p50, "p95_ms": p95}
    return counts | parts | waits | {"rest": p50 - summed}


def main(
    checkpoint: Annotated[str, typer.Argument(help="folder, hub id, or the bundled checkpoint")] = "wan-streamer-tiny",
    runs: Annotated[int, typer.Option(min=1, help="questions")] = 50,
    max_seconds: Annotated[float, typer.Option(help="give up after")] = 1200.0,
    out: Annotated[Path, typer.Option(help="folder for live.json and the devices")] = Path("runs/live"),
) -> None:
    """Measure and print."""
    if shutil.which("chromium") is None:
        typer.echo("Chromium is not installed: apt-get install chromium", err=True)
        raise typer.Exit(1)
    out.mkdir(parents=True, exist_ok=True)
    summary = asyncio.run(run(checkpoint, runs, max_seconds, out))
    (out / "live.json").write_text(json.dumps(summary, indent=2))
    table = Table(
        "what", "ms or number", title="From the end of the question to the first sound of the answer, in the browser"
    )
    for name, value in summary.items():
        table.add_row(name, f"{value:.0f}")
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
