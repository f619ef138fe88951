"""The Hub: parts, pipelines, public weights; cards, variants, revisions; doors that are closed, lines that break."""

import json
from pathlib import Path

import pytest
import torch
from causal_vae import certify
from causal_vae.hub.cards import part_card
from duplex_world.public_stand_ins import STAND_INS
from fresh_process import run_python
from loopback_hub import LoopbackHub
from safetensors.torch import load, save
from streamer_pipeline import StreamerPipeline
from streamer_pipeline.evaluation.report import write_json
from streamer_pipeline.evaluation.scorecard import ScoreCard, percent_row
from streamer_pipeline.evaluation.statistics import rate
from streamer_pipeline.hub.cards import pipeline_card
from tiny_parts import tiny_pipeline

PARTS = ("streamer", "audio_encoder", "video_encoder", "audio_vae", "video_vae", "audio_decoder", "video_decoder")
WEIGHTS = "audio_vae/diffusion_pytorch_model.safetensors"
HALF = WEIGHTS.replace(".safetensors", ".fp16.safetensors")

PUSH = """
import torch
from streamer_pipeline import StreamerPipeline
from tiny_parts import tiny_pipeline

pipeline = tiny_pipeline()
for name, part in pipeline.components.items():
    part.push_to_hub(f"org/{name}")
    if isinstance(part, torch.nn.Module):
        again = type(part).from_pretrained(f"org/{name}")
        again.push_to_hub(f"org/{name}-again")
pipeline.push_to_hub("org/whole")
StreamerPipeline.from_pretrained("org/whole").push_to_hub("org/whole-again")
pipeline.to(torch.float16).push_to_hub("org/variants", variant="fp16")
half = StreamerPipeline.from_pretrained("org/variants", variant="fp16", dtype=torch.float16)
assert half.streamer.dtype == torch.float16
half.to(torch.float32).push_to_hub("org/variants", card="# Mine")
assert StreamerPipeline.from_pretrained("org/variants").streamer.dtype == torch.float32
half.push_to_hub("org/variants")
StreamerPipeline.from_pretrained().push_to_hub("org/bundled")
"""

ERRORS = """
import torch
from causal_vae import CausalVideoVAE
from streamer_pipeline import StreamerPipeline

errors = {}

def attempt(name, load):
    try:
        load()
    except (ValueError, OSError) as error:
        errors[name] = (type(error).__name__, str(error))

attempt("gated", lambda: StreamerPipeline.from_pretrained("org/gated"))
attempt("gated part", lambda: CausalVideoVAE.from_pretrained("org/gated", subfolder="video_vae"))
attempt("no revision", lambda: StreamerPipeline.from_pretrained("org/tiny", revision="v9"))
attempt("no variant", lambda: StreamerPipeline.from_pretrained("org/tiny", variant="fp16"))
mixed = StreamerPipeline.from_pretrained("org/mixed", variant="fp16")
assert torch.equal(mixed.audio_vae.latent_norm.std, torch.full((4,), 2.0))  # of the variant
prompts = [StreamerPipeline.from_pretrained("org/tiny", revision=r).config.prompt for r in ("v1", "main")]
torch.save((errors, prompts), sys.argv[1])
"""

PUBLIC = """
import torch
from causal_codec import SiglipVideoEncoder, VoxtralAudioEncoder
from causal_vae import MimiAudioVAE, WanVideoVAE
from diffusers import AutoencoderKLWan
from streamer_core import StreamerModel, StreamerTokenizer
from transformers import AutoTokenizer, MimiModel, Qwen3ForCausalLM, Siglip2VisionModel, VoxtralRealtimeEncoder

torch.manual_seed(0)
pairs = {}
with torch.inference_mode():
    ids = torch.randint(250, (2, 9))
    theirs, ours = Qwen3ForCausalLM.from_pretrained("org/qwen3"), StreamerModel.from_qwen3("org/qwen3")
    pairs["qwen3"] = theirs(ids).logits, ours.text_forward(ids)

    video = torch.rand(1, 3, 9, 32, 48) * 2 - 1
    theirs, ours = (each.from_pretrained("org/wan", subfolder="vae") for each in (AutoencoderKLWan, WanVideoVAE))
    _, state = ours.prefill_encode(video[:, :, :1])
    posterior, _ = ours.encode(video[:, :, 1:], state)
    pairs["wan_vae"] = theirs.encode(video).latent_dist.mode()[:, :, 1:], ours.latent_norm.restore(posterior.mode())

    audio = 0.3 * torch.randn(1, 1, 7680)
    theirs, ours = MimiModel.from_pretrained("org/mimi"), MimiAudioVAE.from_pretrained("org/mimi")
    pairs["mimi"] = theirs.encoder(audio).latents, ours.latent_norm.restore(ours.encode(audio)[0].mode())

    theirs = VoxtralRealtimeEncoder.from_pretrained("org/voxtral")
    ours = VoxtralAudioEncoder.from_voxtral("org/voxtral", output_dim=12)
    mel = torch.randn(1, theirs.config.num_mel_bins, 16)
    pairs["voxtral"] = theirs(mel).last_hidden_state, ours.tower(mel)[0]

    ours = SiglipVideoEncoder.from_siglip2("org/siglip2", output_dim=12, image_height=48, image_width=48)
    theirs = Siglip2VisionModel.from_pretrained("org/siglip2")
    patches = torch.randn(1, 9, 768), torch.ones(1, 9), torch.tensor([[3, 3]])
    pairs["siglip2"] = theirs(*patches).last_hidden_state, ours.tower(*patches).last_hidden_state

    tokenizer = StreamerTokenizer.extend(AutoTokenizer.from_pretrained("org/qwen3"))
    assert tokenizer.state_ids and tokenizer("hello there").input_ids
torch.save(pairs, sys.argv[1])
"""


def with_variance_of_four(weights: bytes) -> bytes:
    """A file of weights that can be told from the plain one."""
    return save(load(weights) | {"latent_norm.std": torch.full((4,), 2.0)}, metadata={"format": "pt"})


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    with LoopbackHub() as hub:
        folder = tmp_path_factory.mktemp("checkpoint")
        tiny_pipeline().save_pretrained(folder)
        hub.add("org/tiny", folder)
        tiny = hub.repos["org/tiny"]
        index = json.loads(tiny["model_index.json"]) | {"prompt": "an older prompt"}
        hub.revisions["org/tiny@v1"] = tiny | {"model_index.json": json.dumps(index).encode()}
        hub.repos["org/gated"] = dict(tiny)
        hub.gated.add("org/gated")
        hub.repos["org/far"] = dict(tiny)
        hub.repos["org/mixed"] = tiny | {HALF: with_variance_of_four(tiny[WEIGHTS])}
        for name, stand_in in STAND_INS.items():
            hub.add(f"org/{name}", stand_in(tmp_path_factory.mktemp(name)))
        hub.repos["org/wan"] = {f"vae/{file}": content for file, content in hub.repos.pop("org/wan_vae").items()}
        yield hub


@pytest.fixture(scope="module")
def pushed(hub, tmp_path_factory):
    run_python(PUSH, hub.environment(tmp_path_factory.mktemp("home")))
    return hub.repos


@pytest.fixture(scope="module")
def public(hub, tmp_path_factory):
    """By repository: what the original class and ours make of it."""
    folder = tmp_path_factory.mktemp("public")
    run_python(PUBLIC, hub.environment(folder / "home"), folder / "pairs")
    return torch.load(folder / "pairs")


@pytest.mark.parametrize("name", STAND_INS)
def test_public_weights_from_the_hub_give_what_their_own_class_gives(public, name):
    theirs, ours = public[name]
    assert theirs.std() > 0
    torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("name", [*PARTS, "whole"])
def test_what_was_pushed_comes_back_byte_for_byte(pushed, name):
    first, again = pushed[f"org/{name}"], pushed[f"org/{name}-again"]
    assert sum(file.endswith(".safetensors") for file in first) == (1 if name in PARTS else len(PARTS))
    assert [file for file in first.keys() | again.keys() if first.get(file) != again.get(file)] == []


@pytest.mark.parametrize("name", [*PARTS, "scheduler", "tokenizer"])
def test_every_part_brings_its_card(pushed, name):
    card = pushed[f"org/{name}"]["README.md"].decode()
    part = getattr(tiny_pipeline(), name)
    assert "license: apache-2.0" in card.split("---")[1]
    assert f"import {type(part).__name__}" in card
    if name in PARTS:
        assert f"{sum(p.numel() for p in part.parameters()):,} parameters" in card
        assert "wan-streamer certify" in card


def test_a_pipelines_card_lists_its_parts(pushed):
    card = pushed["org/whole"]["README.md"].decode()
    assert all(name in card for name in PARTS)
    assert f"{2 * tiny_pipeline().cache_spec().nbytes():,}" in card


def test_a_card_that_is_there_stays(pushed):
    """The repository's own; or that of the folder which was loaded."""
    assert pushed["org/variants"]["README.md"] == b"# Mine"
    assert b"# wan-streamer-tiny" in pushed["org/bundled"]["README.md"]


def test_a_card_shows_its_certificate_and_its_score(tmp_path):
    pipeline = tiny_pipeline()
    certificate = certify(pipeline.audio_encoder, 0.1 * torch.randn(2, 1, 7680), num_partitions=1, num_steps=4)
    assert certificate.table in str(part_card(pipeline.audio_encoder, certificate))
    scores = {"agent": {"answers.text": rate([True, True, False, True])}}
    rows = (percent_row("answers.text", "right by its words", low=0.95),)
    write_json(ScoreCard(rows, scores, 0.2, {}, [], {"split": "test"}), tmp_path / "score.json")
    card = str(
        pipeline_card(pipeline, tmp_path / "score.json", {"audio_encoder": certificate}, licenses={"voice": "MIT"})
    )
    assert "| right by its words | 75.0 % | 30.1 % .. 95.4 % | >= 95.0 % |" in card
    assert "### audio_encoder" in card and "- voice: MIT" in card


def test_variants_live_side_by_side(pushed):
    files = pushed["org/variants"]
    assert {WEIGHTS, WEIGHTS.replace(".safetensors", ".fp16.safetensors")} <= files.keys()


def test_closed_doors_say_so_and_revisions_are_told_apart(hub, tmp_path):
    run_python(ERRORS, hub.environment(tmp_path), tmp_path / "results")
    errors, prompts = torch.load(tmp_path / "results")
    assert errors.keys() == {"gated", "gated part", "no revision", "no variant"}
    assert "is gated: ask for access on its page" in errors["gated"][1]
    assert "gated" in errors["gated part"][1].lower() or "403" in errors["gated part"][1]
    assert "has no revision 'v9'" in errors["no revision"][1]
    assert "fp16" in errors["no variant"][1]
    assert prompts == ["an older prompt", "hello there"]
    # A variant of one part: the others' plain weights were fetched, and not the plain ones of that part.
    fetched = {file.removeprefix("org/mixed/") for file in hub.sent if file.startswith("org/mixed/")}
    weights = {file for file in fetched if file.endswith(".safetensors")}
    assert HALF in weights and WEIGHTS not in weights and len(weights) == len(PARTS)


def test_a_folder_with_a_variant_of_one_part_has_the_plain_weights_of_the_others(hub, tmp_path):
    for name, content in hub.repos["org/mixed"].items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    pipeline = StreamerPipeline.from_pretrained(tmp_path, variant="fp16")
    assert torch.equal(pipeline.audio_vae.latent_norm.std, torch.full((4,), 2.0))
    plain = StreamerPipeline.from_pretrained(tmp_path)
    assert torch.equal(plain.audio_vae.latent_norm.std, torch.ones(4))
    assert torch.equal(plain.video_vae.latent_norm.std, pipeline.video_vae.latent_norm.std)


def test_without_cache_and_without_the_hub_the_error_says_what_to_do(hub, tmp_path):
    code = """
from streamer_pipeline import StreamerPipeline

try:
    StreamerPipeline.from_pretrained("org/tiny", local_files_only=True)
except OSError as error:
    assert "not in the cache" in str(error), error
else:
    raise AssertionError("loaded from nowhere")
"""
    run_python(code, hub.environment(tmp_path))


def test_a_download_that_breaks_off_goes_on_and_is_whole(hub, tmp_path):
    """The line breaks in the middle of a weights file: what is loaded in the end is what the Hub has."""
    code = """
from streamer_pipeline import StreamerPipeline

for _ in range(3):  # whoever loads again after an error goes on where it broke off
    try:
        vae = StreamerPipeline.from_pretrained("org/far").audio_vae
        break
    except OSError as error:
        print(error)
vae.save_pretrained(sys.argv[1])
"""
    hub.breaks[f"org/far/{WEIGHTS}"] = 1000
    run_python(code, hub.environment(tmp_path / "home"), tmp_path / "found")
    assert not hub.breaks
    assert (tmp_path / "found" / Path(WEIGHTS).name).read_bytes() == hub.repos["org/far"][WEIGHTS]
    assert hub.sent.count(f"org/far/{WEIGHTS}") == 2
