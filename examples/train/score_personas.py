"""Does the agent keep to the persona of its prompt, and does its body follow its own text? Rows of a score card.

    python examples/train/score_personas.py --checkpoint runs/personas_run/pipeline

Closed loop, on users of the test split. Every pair of face and voice talks to the same users; directives are typed to
silent users' agents. Judges read pixels and sound only, beside the recordings through the VAEs (what no agent can
better) and sessions that are told nothing. Writes `score.json`, which `wan-streamer compare` lays beside others.
"""

import time
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Annotated

import torch
import typer
from duplex_world.agent_voice import AgentVoice
from duplex_world.persona_dyads import persona_of
from duplex_world.persona_judge import PersonaJudge
from duplex_world.persona_scores import ROWS, adherence, directives
from duplex_world.personas import PERSONAS
from rich.console import Console
from streamer_pipeline import StreamerPipeline
from streamer_pipeline.evaluation.report import tables, write_json
from streamer_pipeline.evaluation.scorecard import ScoreCard
from streamer_pipeline.evaluation.statistics import Score, quantile

SAMPLE_PHRASE = "hello nice to meet you"  # what the voice says in the prompt
console = Console()


def milliseconds(task: Callable[[], object], times: int = 5) -> Score:
    """Median time of `task`."""
    durations = []
    for _ in range(times):
        start = time.perf_counter()
        task()
        durations.append(1000 * (time.perf_counter() - start))
    return quantile(durations, 0.5)


def main(
    checkpoint: Annotated[Path, typer.Option(help="of train_personas.py")] = Path("runs/personas_run/pipeline"),
    num_users: Annotated[int, typer.Option(help="users that every face and voice talks to")] = 8,
    num_directed: Annotated[int, typer.Option(help="dyads with two directives each")] = 10,
    out: Annotated[Path, typer.Option(help="folder for score.json")] = Path("runs/score_personas"),
    num_threads: int = 1,
) -> None:
    torch.set_num_threads(num_threads)
    pipeline = StreamerPipeline.from_pretrained(checkpoint)
    says, judge = AgentVoice(), PersonaJudge()
    sample = says(SAMPLE_PHRASE).wave
    asked = {pair: persona_of(*pair, sample, seed=1) for pair in product(PERSONAS, PERSONAS)}
    personas = {pair: pipeline.prepare_persona(persona) for pair, persona in asked.items()}
    whole, prepared = asked["ada", "ben"], personas["ada", "ben"]
    columns = adherence(pipeline, personas, judge, says, num_users)
    for name, scores in directives(pipeline, personas, judge, says, num_directed).items():
        columns[name] = columns.get(name, {}) | scores
    columns["agent"] |= {
        "prompt.prefill": milliseconds(lambda: pipeline.prepare_persona(whole)),
        "prompt.session": milliseconds(lambda: pipeline.open_session(prompt=prepared)),
    }
    card = ScoreCard(ROWS, columns, run={"checkpoint": str(checkpoint), "users": num_users, "directed": num_directed})
    console.print(*tables(card))
    out.mkdir(parents=True, exist_ok=True)
    write_json(card, out / "score.json")


if __name__ == "__main__":
    typer.run(main)
