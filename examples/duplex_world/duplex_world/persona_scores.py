"""Closed loop with personas: does an agent keep the face and voice of its prompt, and does its body follow its text?"""

import numpy as np
import torch
from streamer_pipeline import AgentUnit, PreparedPersona, StreamerPipeline, UserUnit, split_units
from streamer_pipeline.evaluation.scorecard import Row, Scores, percent_row
from streamer_pipeline.evaluation.statistics import Score, quantile, rate
from torch import Tensor

from .agent_voice import AgentVoice
from .clock import FRAMES_PER_UNIT, SAMPLES_PER_UNIT, UNIT_MS
from .dyad import Dyad, build_dyad
from .persona_dyads import agent_clip
from .persona_judge import PersonaJudge
from .personas import PERSONAS
from .render import render_frames
from .tensors import to_video

ROWS = (
    percent_row("worlds.face", "the prompt's face", low=0.95),
    percent_row("worlds.voice", "the prompt's voice", low=0.95),
    percent_row("worlds.words", "right words, whoever it is", low=0.95),
    percent_row("directives.text", "a typed directive comes in its text", low=0.95),
    percent_row("directives.waves", "waves when told", low=0.90),
    percent_row("directives.nods", "nods when told", low=0.90),
    Row("directives.onset", "onset after the typing, median", "ms", 0),
    Row("prompt.prefill", "prefill of a persona, median", "ms", 0),
    Row("prompt.session", "session of a prepared persona, median", "ms", 0),
)
FIRST_SEED = 2_000_000  # of the test split
ASKED = ("greet", "name", "count", "bye")  # the user speaks, the agent needs no eyes to answer
FOLLOW_UNITS = 8  # a directive is followed within so many units

Personas = dict[tuple[str, str], PreparedPersona]  # by face and voice


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
    pipeline: StreamerPipeline, personas: Personas, judge: PersonaJudge, says: AgentVoice, num_users: int
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
    judge: PersonaJudge, dyad: Dyad, face: str, video: Tensor, words: list[str]
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
    pipeline: StreamerPipeline, personas: Personas, judge: PersonaJudge, says: AgentVoice, num_dyads: int
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
