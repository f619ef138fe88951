"""Worlds: behaviour is written where it begins, and a window's prompt shows the face and voice that follow."""

import numpy as np
import prepare_personas
import pytest
import score_personas
import torch
import train_personas
from causal_vae import CausalAudioVAE
from duplex_world.agent_voice import AgentVoice
from duplex_world.conversations import Dyads
from duplex_world.dyad import build_dyad
from duplex_world.persona_dyads import PersonaConversations, agent_clip, with_behaviors
from duplex_world.persona_judge import PersonaJudge
from duplex_world.persona_scores import following
from duplex_world.personas import PERSONAS
from duplex_world.stages import new_parts
from duplex_world.training_tensors import build_tokenizer
from streamer_core import StreamerTokenizer
from streamer_pipeline.data.tasks import Mixture
from streamer_pipeline.data.windows import collate
from streamer_pipeline.evaluation.report import read_json

DELAY = 1


@pytest.fixture(scope="module")
def voice():
    return AgentVoice()


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A run with untrained parts to start from, a folder of personas, and one for validation."""
    folder, tokenizer = tmp_path_factory.mktemp("data"), build_tokenizer()
    torch.manual_seed(0)
    tokenizer.save_pretrained(folder / "run" / "tokenizer")
    for name, part in zip(("streamer", "audio_encoder", "video_encoder"), new_parts(tokenizer), strict=True):
        part.save_pretrained(folder / "run" / name)
    CausalAudioVAE().save_pretrained(folder / "audio_vae")
    prepare_personas.main(
        folder / "audio_vae", folder / "run" / "tokenizer", folder / "personas", num_dyads=3, num_clips=4
    )
    return folder


def conversations(data, **weights):
    tokenizer, dyads = StreamerTokenizer.from_pretrained(data / "personas/tokenizer"), Dyads([data / "personas"], True)
    options = {"num_units": 20, "batch_size": 2, "response_delay": DELAY, "user_text_slots": 1}
    references = data / "personas/references.safetensors"
    return PersonaConversations(dyads, dyads, tokenizer, Mixture(weights), references=references, **options)


@pytest.mark.parametrize("delay", [1, 2])
def test_a_directive_is_done_after_it_was_typed(voice, delay):
    for seed in range(6):
        dyad = build_dyad(seed, "directed", voice, delay)
        assert len(dyad.directives) == 2
        assert not dyad.agent_speaking.any() and not np.abs(dyad.agent_audio).any()
        for told, done in zip(dyad.directives, dyad.agent_behaviors, strict=True):
            assert done.name == told.name
            assert done.first_unit == told.first_unit + 1 + delay
        hand_is_up = (dyad.agent_motion["hand"] > 0.5).any()
        assert hand_is_up == any(behavior.name == "waves" for behavior in dyad.agent_behaviors)


def test_the_agent_nods_to_questions_and_waves_back(voice):
    names = {
        name: [b.name for b in build_dyad(0, name, voice).agent_behaviors] for name in ("greet", "wave", "silence")
    }
    assert names == {"greet": ["nods"], "wave": ["waves"], "silence": []}


def test_behaviours_are_words_of_their_own():
    before = build_tokenizer()
    tokenizer = with_behaviors(build_tokenizer())
    assert len(tokenizer) == len(before) + 2
    ids = tokenizer.encode_words("hello (nods) i am (waves)")
    assert ids[:1] == before.encode_words("hello") and len(ids) == 5
    assert tokenizer.decode_slots(ids).strip() == "hello (nods) i am (waves)"


def test_a_voice_keeps_its_timing(voice):
    audio = build_dyad(0, "greet", voice).agent_audio
    for persona in PERSONAS.values():
        other = persona.voice(audio)
        assert other.shape == audio.shape
        windows = [np.abs(wave[: len(wave) // 480 * 480]).reshape(-1, 480).max(1) > 0.05 for wave in (audio, other)]
        assert np.mean(windows[0] == windows[1]) > 0.9


def test_a_windows_prompt_shows_what_follows(data):
    """The latents of a window are those of the face and the voice in its reference, in every combination."""
    stream, found = conversations(data, duplex=1.0), set()
    stored = list(map(stream.sources["duplex"].__getitem__, range(len(stream.sources["duplex"]))))
    torch.manual_seed(0)
    for step in range(24):
        window = stream.window(stream.rows(step)[0], stream.sources["duplex"])
        pair = []
        for kind in ("video", "audio"):
            (name,) = (
                person
                for person in PERSONAS
                if holds(stream.references[f"{person}_{kind}"], window[f"reference_{kind}"])
            )
            kept = torch.cat([dyad[f"{name}_{kind}_latents"] for dyad in stored], dim=1).unbind(1)
            assert all(holds(kept, latents) for latents in window[f"{kind}_latents"].unbind(1))
            pair.append(name)
        found.add(tuple(pair))
    assert len(found) == 4


def holds(tensors, sought):
    return any(torch.equal(tensor, sought) for tensor in tensors)


def test_language_windows_have_the_same_prompt(data):
    stream = conversations(data, words=1.0)
    batch = collate([stream.window(row, stream.sources["words"]) for row in stream.rows(0)], with_latents=False)
    assert batch.video_latents is None
    assert batch.reference_video.shape[2] * 4 == batch.reference_audio.shape[2]


def test_judges_see_who_it_is_and_what_it_does(voice):
    judge = PersonaJudge()
    dyad = build_dyad(2_000_003, "directed", voice)
    words = [""] * dyad.num_units
    for behavior in dyad.agent_behaviors:
        words[behavior.first_unit] = f" {behavior.text}"
    for name in PERSONAS:
        clip = agent_clip(dyad, name, slice(0, dyad.num_units))[0]
        assert judge.face(clip) == name
        assert all(said and done for _, said, done, _ in following(judge, dyad, name, clip, words))
        still = clip[:, :1].expand(-1, clip.shape[1], -1, -1)
        nothing = following(judge, dyad, name, still, [""] * dyad.num_units)
        assert not any(said or done for _, said, done, _ in nothing)
    spoken = build_dyad(2_000_000, "greet", voice).agent_audio
    assert all(judge.voice(persona.voice(spoken), spoken) == name for name, persona in PERSONAS.items())


def test_personas_are_trained_and_scored(data, tmp_path):
    train_personas.main(
        data / "run",
        data / "personas",
        data / "personas",
        tmp_path / "run",
        data / "audio_vae",
        size="smoke",
        max_steps=2,
        validate_every=2,
        num_inference_steps=1,
    )
    score_personas.main(tmp_path / "run/pipeline", num_users=1, num_directed=1, out=tmp_path / "score")
    card = read_json(tmp_path / "score/score.json")
    assert card.value("directives.text", "recordings") == 1
    assert card.columns["agent"]["worlds.face"].n == 4
