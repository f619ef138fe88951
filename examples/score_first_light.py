"""Let a checkpoint talk to unseen users of the duplex world, closed loop, and count what it got right.

    python examples/score_first_light.py --checkpoint wan-streamer-tiny

Users, voices and faces are of the test split. The judge of sound is pocketsphinx on the world's grammar; "at the
ceiling" is what it understands of the reference voice. Everything is synthetic.
"""

import json
from collections import defaultdict
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from duplex_world.agent_voice import AgentVoice
from duplex_world.clock import UNIT_SAMPLES
from duplex_world.dyad import Dyad, build_dyad
from duplex_world.grammar import agent_jsgf
from duplex_world.render import render_frames
from duplex_world.script import Expectation
from duplex_world.speech_judge import SpeechJudge
from duplex_world.tensors import to_video
from rich.console import Console
from rich.progress import track
from rich.table import Table
from streamer_pipeline import AgentUnit, StreamerPipeline, StreamerSession, split_units

TEST_SEEDS = 2_000_000
ACTIVE_RMS = 10 ** (-38 / 20)  # of 20 ms pieces: louder is sound


def converse(session: StreamerSession, dyad: Dyad) -> list[AgentUnit]:
    """The agent's units for a dyad's user, in the order of its own clock."""
    frames = render_frames(dyad.user_motion, dyad.user_identity)
    units = split_units(torch.from_numpy(dyad.user_audio)[None], to_video(frames))
    return [session.step(unit) for unit in units]


def sounding(wave: np.ndarray) -> np.ndarray:
    """(U,) whether each unit has at least two audible pieces of 20 ms."""
    pieces = wave.reshape(-1, 8, UNIT_SAMPLES // 8)
    return (np.sqrt((pieces**2).mean(axis=2)) > ACTIVE_RMS).sum(axis=1) >= 2


def judge_answer(expected: Expectation, texts: list[str], wave: np.ndarray, judge: SpeechJudge) -> dict[str, bool]:
    """Whether the answer came, as text and as sound, in its window; units are of the wall clock."""
    first, end = expected.after_unit + 1, min(expected.end_unit, len(texts))
    text = " ".join("".join(texts[first:end]).split())
    active = np.flatnonzero(sounding(wave[first * UNIT_SAMPLES : end * UNIT_SAMPLES]))
    heard = ""
    if len(active):
        stop = active[np.flatnonzero(np.diff(active, append=10**6) > 3)[0]] + 1  # the first burst
        burst = wave[(first + active[0]) * UNIT_SAMPLES - 1200 : (first + stop) * UNIT_SAMPLES + 1200]
        heard = judge(burst).text
    return {"spoke": len(active) > 0, "text": text == expected.text, "sound": heard == expected.text}


def main(
    checkpoint: Annotated[str, typer.Option(help="folder, hub id or bundled name")] = "wan-streamer-tiny",
    scenarios: Annotated[str, typer.Option(help="scenarios of the duplex world")] = "greet name bye color wave silence",
    per_scenario: Annotated[int, typer.Option(help="test dyads of each")] = 10,
    steps: Annotated[int | None, typer.Option(help="solver steps; default the checkpoint's own")] = None,
    out: Annotated[Path | None, typer.Option(help="also write the counts as JSON")] = None,
    num_threads: int = 2,
) -> None:
    torch.set_num_threads(num_threads)
    pipeline, voice, judge = StreamerPipeline.from_pretrained(checkpoint), AgentVoice(), SpeechJudge(agent_jsgf())
    delay = pipeline.streamer.config.response_delay
    counts: dict[str, dict[str, list[bool]]] = defaultdict(lambda: defaultdict(list))
    jobs = [(name, i) for name in scenarios.split() for i in range(per_scenario)]
    for name, i in track(jobs, "talking"):
        dyad = build_dyad(TEST_SEEDS + i, name, voice, delay)
        units = converse(pipeline.open_session(seed=i, num_inference_steps=steps), dyad)
        wave = np.concatenate([np.zeros(delay * UNIT_SAMPLES), *(unit.audio[0].numpy() for unit in units)])
        texts = [""] * delay + [unit.text for unit in units]
        answers = [expected for expected in dyad.expect if expected.kind == "say"]
        for expected in answers:
            for what, right in judge_answer(expected, texts, wave, judge).items():
                counts[name][what].append(right)
        if not answers:
            counts[name]["silent"].append(not sounding(wave).any())
    report(counts, out)


def report(counts: dict[str, dict[str, list[bool]]], out: Path | None) -> None:
    columns = ("spoke", "text", "sound", "silent")
    table = Table("scenario", *columns, title="right / test dyads, closed loop", title_justify="left")
    for name, row in counts.items():
        table.add_row(name, *(f"{sum(row[c])} / {len(row[c])}" if c in row else "" for c in columns))
    Console().print(table)
    if out is not None:
        out.write_text(json.dumps(counts))


if __name__ == "__main__":
    typer.run(main)
