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

import numpy as np
import torch
import torchaudio
import typer
from duplex_world.agent_voice import AgentVoice
from duplex_world.clock import FRAMES_PER_UNIT, SAMPLE_RATE, SAMPLES_PER_UNIT, UNIT_MS
from duplex_world.dyad import Dyad, build_dyad
from duplex_world.face import NEUTRAL, face_box
from duplex_world.persona_dyads import agent_clip, persona_of
from duplex_world.personas import PERSONAS
from duplex_world.render import render_frames
from duplex_world.tensors import to_video
from rich.console import Console
from streamer_pipeline import AgentUnit, PreparedPersona, StreamerPipeline, UserUnit, split_units
from streamer_pipeline.evaluation.report import tables, write_json
from streamer_pipeline.evaluation.rows import ROWS
from streamer_pipeline.evaluation.scorecard import ScoreCard, Scores
from streamer_pipeline.evaluation.statistics import Score, quantile, rate
from torch import Tensor

FIRST_SEED = 2_000_000  # of the test split
ASKED = ("greet", "name", "count", "bye")  # the user speaks, the agent needs no eyes to answer
FOLLOW_UNITS = 8  # a directive is followed within so many units
HAND_BOX = slice(60, 192), slice(230, 330)  # rows and columns of 192x336 that the agent's hand comes up in
NOD_ROWS = 2.5  # rows that eyes and mouth go down in a nod; idle life moves them more slowly
NOD_SHIFTS = range(-8, 9)
NOD_FRAMES = 12
VOICED = 0.01  # of the loudest piece's power: what is below is not the voice
AUDIBLE = 0.02  # amplitude
SAMPLE_PHRASE = "hello nice to meet you"  # what the voice says in the prompt

Personas = dict[tuple[str, str], PreparedPersona]  # by face and voice
console = Console()


class Judge:
    """Which face, which voice, which behaviour: from pixels and sound."""

    def __init__(self) -> None:
        still = {name: np.full(1, value) for name, value in NEUTRAL.items()}
        self.faces = {name: to_video(render_frames(still, p.identity))[:, 0] for name, p in PERSONAS.items()}
        raised = still | {"hand": np.ones(1)}
        hands = {name: to_video(render_frames(raised, p.identity))[:, 0] for name, p in PERSONAS.items()}
        self.hand_level = {name: 0.5 * self._hand(hands[name], name) for name in PERSONAS}

    def face(self, frames: Tensor) -> str:
        """The persona whose resting picture is nearest to the mean of frames (3, T, H, W)."""
        return min(self.faces, key=lambda name: float((frames.mean(1) - self.faces[name]).abs().mean()))

    def voice(self, audio: np.ndarray, spoken: np.ndarray) -> str | None:
        """The persona in whose voice `spoken` has the spectrum nearest to `audio`'s; None where nothing is said."""
        found = spectrum(audio)
        if found is None:
            return None
        return min(PERSONAS, key=lambda name: float((found - spectrum(PERSONAS[name].voice(spoken))).abs().mean()))

    def waves(self, frames: Tensor, face: str) -> np.ndarray:
        """(T,) whether the hand is up, with at least half of what a drawn hand changes."""
        levels = [self._hand(frames[:, index], face) for index in range(frames.shape[1])]
        return np.array(levels) > self.hand_level[face]

    def nods(self, frames: Tensor, face: str) -> np.ndarray:
        """(T,) whether eyes and mouth have gone down since half a second ago by the rows of a nod."""
        top, left, bottom, right = face_box()
        crop = frames.mean(0)[:, top:bottom, left:right]
        down = np.zeros(len(crop))
        for index in range(len(crop)):
            before = crop[max(0, index - NOD_FRAMES // 2)]
            down[index] = best_shift(before, crop[index])
        return down >= NOD_ROWS

    def _hand(self, frame: Tensor, face: str) -> float:
        return float((frame - self.faces[face])[:, *HAND_BOX].abs().mean())


def best_shift(before: Tensor, after: Tensor) -> float:
    """Rows by which `before` (h, w) is best moved down to give `after`."""
    inner = slice(NOD_SHIFTS.stop, -NOD_SHIFTS.stop)
    errors = {shift: float((before.roll(shift, 0) - after)[inner].square().mean()) for shift in NOD_SHIFTS}
    return min(errors, key=errors.get)


def spectrum(audio: np.ndarray) -> Tensor | None:
    """Long-term average spectrum in dB over (64,) mel bands of what is said in (N,), its level removed, or None."""
    if np.abs(audio).max(initial=0.0) < AUDIBLE:
        return None
    mel = torchaudio.transforms.MelSpectrogram(SAMPLE_RATE, n_fft=1024, hop_length=480, n_mels=64)
    power = mel(torch.from_numpy(audio))
    voiced = power[:, power.sum(0) > VOICED * power.sum(0).max()]
    level = 10 * torch.log10(voiced.mean(1) + 1e-9)
    return level - level.mean()


def converse(
    pipeline: StreamerPipeline, dyad: Dyad, personas: list[PreparedPersona], is_told: bool = True
) -> list[list[AgentUnit]]:
    """The dyad's user talks to one agent per persona, side by side in one batch; directives are typed if `is_told`."""
    frames = to_video(render_frames(dyad.user_motion, dyad.user_identity))
    users = list(split_units(torch.from_numpy(dyad.user_audio)[None], frames))
    typed = {directive.first_unit: directive.text for directive in dyad.directives if is_told}
    height, width = frames.shape[2:]
    sessions = [pipeline.open_session(prompt=w, seed=dyad.seed, height=height, width=width) for w in personas]
    batch = pipeline.open_batch(len(sessions), height=height, width=width)
    for session in sessions:
        batch.join(session)
    answers: list[list[AgentUnit]] = [[] for _ in personas]
    for index, user in enumerate(users):
        unit = UserUnit(user.audio, user.video, typed.get(index))
        said = batch.step(dict.fromkeys(sessions, unit))
        for answer, session in zip(answers, sessions, strict=True):
            answer.append(said[session])
    return answers


def on_the_wall_clock(units: list[AgentUnit], delay: int) -> tuple[Tensor, np.ndarray, list[str]]:
    """Frames (3, T, H, W), sound (N,) and words of each unit, where unit k plays `delay` units after the user's."""
    video = torch.cat([units[0].video[:, :1].expand(-1, FRAMES_PER_UNIT * delay, -1, -1), *(u.video for u in units)], 1)
    audio = np.concatenate([np.zeros(SAMPLES_PER_UNIT * delay, np.float32), *(u.audio[0].numpy() for u in units)])
    return video.clamp(-1, 1), audio, [""] * delay + [u.text for u in units]


def adherence(
    pipeline: StreamerPipeline, personas: Personas, judge: Judge, says: AgentVoice, num_users: int
) -> dict[str, Scores]:
    """Face, voice and words of every combination, with the same users: the agent, and recordings through the VAEs."""
    faces, voices, right, recorded = [], [], [], []
    for index in range(num_users):
        dyad = build_dyad(FIRST_SEED + index, ASKED[index % len(ASKED)], says)
        for (face, voice), units in zip(personas, converse(pipeline, dyad, list(personas.values())), strict=True):
            video, audio, words = on_the_wall_clock(units, pipeline.streamer.config.response_delay)
            faces.append(judge.face(video) == face)
            voices.append(judge.voice(audio, dyad.agent_audio) == voice)
            said = "".join(words).replace("(nods)", "").replace("(waves)", "").split()
            right.append(said == dyad.agent_segments[0].text.split())
        recorded += [judge.voice(rendered_voice(pipeline, dyad, name), dyad.agent_audio) == name for name in PERSONAS]
    agent = {"worlds.face": rate(faces), "worlds.voice": rate(voices), "worlds.words": rate(right)}
    return {"agent": agent, "recordings": {"worlds.voice": rate(recorded)}}


@torch.inference_mode()
def rendered_voice(pipeline: StreamerPipeline, dyad: Dyad, persona: str) -> np.ndarray:
    """What the recorded agent says (N,), in a persona's voice, through the latents."""
    audio = torch.from_numpy(PERSONAS[persona].voice(dyad.agent_audio))[None, None]
    latents = pipeline.audio_vae.encode(audio)[0].mean
    render = pipeline.audio_decoder or pipeline.audio_vae.decode
    return render(latents)[0][0, 0].numpy()


def following(
    judge: Judge, dyad: Dyad, face: str, video: Tensor, words: list[str]
) -> list[tuple[str, bool, bool, float | None]]:
    """(name, said, done, onset in ms) of each directive: in the text, on the body, and how long after the typing."""
    seen = {"waves": judge.waves(video, face), "nods": judge.nods(video, face)}
    results = []
    for directive in dyad.directives:
        first = directive.first_unit + 1
        said = directive.text in "".join(words[first : first + FOLLOW_UNITS])
        window = seen[directive.name][FRAMES_PER_UNIT * first : FRAMES_PER_UNIT * (first + FOLLOW_UNITS)]
        done = bool(window.any())
        onset = UNIT_MS / FRAMES_PER_UNIT * (FRAMES_PER_UNIT + int(window.argmax())) if done else None
        results.append((directive.name, said, done, onset))
    return results


def directives(
    pipeline: StreamerPipeline, personas: Personas, judge: Judge, says: AgentVoice, num_dyads: int
) -> dict[str, Scores]:
    """What comes of typed directives: told agents, the same agents untold, and recordings through the VAE."""
    chosen = {("ada", "ada"): personas["ada", "ada"], ("ben", "ben"): personas["ben", "ben"]}
    results: dict[str, list] = {"agent": [], "told nothing": [], "recordings": []}
    for index in range(num_dyads):
        dyad = build_dyad(FIRST_SEED + 1000 + index, "directed", says)
        for name in ("agent", "told nothing"):
            talks = converse(pipeline, dyad, list(chosen.values()), is_told=name == "agent")
            for (face, _), units in zip(chosen, talks, strict=True):
                video, _, words = on_the_wall_clock(units, pipeline.streamer.config.response_delay)
                results[name] += following(judge, dyad, face, video, words)
        for face, _ in chosen:
            clip = agent_clip(dyad, face, slice(0, dyad.num_units))
            with torch.inference_mode():
                video = pipeline.video_vae.decode(pipeline.video_vae.encode(clip)[0].mean)[0][0].clamp(-1, 1)
            words = [""] * dyad.num_units
            for behavior in dyad.agent_behaviors:
                words[behavior.first_unit] = f" {behavior.text}"
            results["recordings"] += following(judge, dyad, face, video, words)
    return {name: directive_scores(found) for name, found in results.items()}


def directive_scores(found: list[tuple[str, bool, bool, float | None]]) -> Scores:
    onsets = [onset for *_, onset in found if onset is not None]
    return {
        "directives.text": rate([said for _, said, _, _ in found]),
        "directives.waves": rate([done for name, _, done, _ in found if name == "waves"]),
        "directives.nods": rate([done for name, _, done, _ in found if name == "nods"]),
        "directives.onset": quantile(onsets, 0.5) if onsets else Score(None),
    }


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
    says, judge = AgentVoice(), Judge()
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
