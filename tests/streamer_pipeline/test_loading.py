"""Checkpoints: saved and loaded bit for bit, from a folder or the Hub, with parts swapped and options obeyed."""

import json
import shutil
from pathlib import Path

import fresh_process
import pytest
import torch
from causal_vae import CausalVideoVAE
from loopback_hub import LoopbackHub
from safetensors.torch import load_file
from streamer_core import StreamerModel
from streamer_pipeline import StreamerPipeline
from tiny_parts import open_session, random_units, tiny_pipeline

PARTS = {
    "streamer": ["streamer_core", "StreamerModel"],
    "tokenizer": ["streamer_core", "StreamerTokenizer"],
    "scheduler": ["streamer_core", "FlowMatchScheduler"],
    "audio_encoder": ["causal_codec", "CausalAudioEncoder"],
    "video_encoder": ["causal_codec", "CausalVideoEncoder"],
    "audio_vae": ["causal_vae", "CausalAudioVAE"],
    "video_vae": ["causal_vae", "CausalVideoVAE"],
    "audio_decoder": ["causal_codec", "CausalAudioDecoder"],
    "video_decoder": ["causal_codec", "CausalVideoDecoder"],
}


def conversation(pipeline):
    """[(audio, video, text)] of four units, the last with typed text, sampled so that nothing is left to chance."""
    session = open_session(pipeline, seed=7, temperature=1.0)
    return [(unit.audio, unit.video, unit.text) for unit in map(session.step, random_units(4))]


def assert_same(found, expected):
    assert len(found) == len(expected) == 4
    for (audio, video, text), (other_audio, other_video, other_text) in zip(found, expected, strict=True):
        assert torch.equal(audio, other_audio) and torch.equal(video, other_video) and text == other_text


def other_vae(seed=11, latent_channels=4):
    torch.manual_seed(seed)
    return CausalVideoVAE(
        (4), (3, 1), latent_channels, latent_width=8, cell_channels=8, fine_channels=4, decoder_depth=1
    )


def run_python(code, env=None, *arguments):
    """Run code in a fresh process in which what this module defines is there."""
    fresh_process.run_python(f"from test_loading import *\n{code}", env, *arguments)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """(folder, what its pipeline answered before it was saved)."""
    folder = tmp_path_factory.mktemp("checkpoint") / "tiny"
    pipeline = tiny_pipeline()
    expected = conversation(pipeline)
    pipeline.save_pretrained(folder)
    return folder, expected


@pytest.fixture
def copy(checkpoint, tmp_path):
    return Path(shutil.copytree(checkpoint[0], tmp_path / "copy"))


def test_saving_and_loading_changes_nothing(checkpoint):
    folder, expected = checkpoint
    loaded = StreamerPipeline.from_pretrained(folder)
    assert (loaded.config.prompt, loaded.config.num_inference_steps) == ("hello there", 2)
    assert_same(conversation(loaded), expected)


def test_the_index_holds_short_names(checkpoint, tmp_path):
    index = json.loads((checkpoint[0] / "model_index.json").read_text())
    assert {name: value for name, value in index.items() if isinstance(value, list)} == PARTS
    StreamerPipeline.from_pretrained(checkpoint[0], audio_vae=None).save_pretrained(tmp_path)  # and again after loading
    index = json.loads((tmp_path / "model_index.json").read_text())
    named = {name: value for name, value in index.items() if isinstance(value, list) and value[0]}
    assert named == {name: value for name, value in PARTS.items() if name != "audio_vae"}


def test_a_fresh_process_loads_it(checkpoint, tmp_path):
    folder, expected = checkpoint
    code = "torch.save(conversation(StreamerPipeline.from_pretrained(sys.argv[1])), sys.argv[2])"
    run_python(code, None, folder, tmp_path / "found")
    assert_same(torch.load(tmp_path / "found"), expected)


def test_half_precision_on_disk_is_computed_in_single(checkpoint, tmp_path):
    StreamerPipeline.from_pretrained(checkpoint[0], dtype=torch.float16).save_pretrained(tmp_path)
    assert {t.dtype for t in load_file(tmp_path / "streamer" / "model.safetensors").values()} == {torch.float16}
    loaded = StreamerPipeline.from_pretrained(tmp_path)
    parts = [part for part in loaded.components.values() if isinstance(part, torch.nn.Module)]
    assert len(parts) == 7
    assert {t.dtype for part in parts for t in part.state_dict().values()} == {torch.float32}
    assert conversation(loaded)[3][0].isfinite().all()


@pytest.mark.parametrize("whole", [True, False])
def test_a_session_in_bfloat16_is_nearly_the_one_in_single(checkpoint, whole):
    """All parts, or the core alone beside media parts in single precision."""
    folder, _ = checkpoint
    single = open_session(StreamerPipeline.from_pretrained(folder), seed=7)
    if whole:
        pipeline = StreamerPipeline.from_pretrained(folder, dtype=torch.bfloat16)
    else:
        half = StreamerModel.from_pretrained(folder / "streamer", dtype=torch.bfloat16)
        pipeline = StreamerPipeline.from_pretrained(folder, streamer=half)
    session = open_session(pipeline, seed=7)
    assert session.state["thinker"]["kv"]["keys"].dtype == torch.bfloat16
    for user in random_units(4):
        unit, expected = session.step(user), single.step(user)
        assert unit.audio.dtype == unit.video.dtype == torch.float32
        for found, wanted in ((unit.audio, expected.audio), (unit.video, expected.video)):
            assert (found - wanted).abs().mean() < 0.1 * wanted.abs().mean()


# ---- options ----


def dtypes(pipeline):
    return {name: part.dtype for name, part in pipeline.components.items() if isinstance(part, torch.nn.Module)}


@pytest.mark.parametrize("spelling", ["dtype", "torch_dtype"])
@pytest.mark.parametrize("value", [torch.bfloat16, "bfloat16", "torch.bfloat16"])
def test_a_dtype_is_obeyed_in_every_spelling(checkpoint, spelling, value):
    found = dtypes(StreamerPipeline.from_pretrained(checkpoint[0], **{spelling: value}))
    assert len(found) == 7 and set(found.values()) == {torch.bfloat16}
    for name, part in (("video_vae", CausalVideoVAE), ("streamer", StreamerModel)):
        assert part.from_pretrained(checkpoint[0] / name, **{spelling: value}).dtype == torch.bfloat16


def test_parts_have_dtypes_of_their_own(checkpoint):
    asked = {"streamer": "bfloat16", "default": torch.float16}
    found = dtypes(StreamerPipeline.from_pretrained(checkpoint[0], dtype=asked))
    assert found.pop("streamer") == torch.bfloat16 and set(found.values()) == {torch.float16}


WRONG_OPTIONS = {
    "no dtype": ({"dtype": "float99"}, ValueError, "'float99'; a dtype is one of float32, bfloat16"),
    "whole numbers": ({"dtype": torch.int8}, ValueError, "'torch.int8'; a dtype is one of"),
    "neither a dtype nor its name": ({"torch_dtype": 16}, TypeError, "got 16"),
    "two dtypes": (
        {"dtype": "bfloat16", "torch_dtype": torch.float16},
        ValueError,
        "dtype=bfloat16 and torch_dtype=torch.float16 differ",
    ),
    "dtype of no part": ({"dtype": {"video_va": "float16"}}, TypeError, "did you mean 'video_vae'"),
    "a slip": ({"num_inference_step": 1}, TypeError, "did you mean 'num_inference_steps'"),
    "a part's slip": ({"video_va": None}, TypeError, "did you mean 'video_vae'"),
    "an option's slip": ({"varian": "fp16"}, TypeError, "did you mean 'variant'"),
    "what would be ignored": ({"custom_pipeline": "x"}, TypeError, "knows no 'custom_pipeline'"),
    "pickles": ({"use_safetensors": False}, ValueError, "use_safetensors=False asks for pickles"),
    "no step": ({"num_inference_steps": 0}, ValueError, "steps .*at least 1; got 0"),
    "a step that is none": ({"num_inference_steps": True}, TypeError, "steps .*whole number; got True"),
    "steps in words": ({"num_inference_steps": "x"}, TypeError, "steps .*whole number; got 'x'"),
    "prompt that is none": ({"prompt": 5}, TypeError, "prompt"),
}


@pytest.mark.parametrize("name", WRONG_OPTIONS)
def test_an_option_is_obeyed_or_refused(checkpoint, name):
    options, kind, message = WRONG_OPTIONS[name]
    with pytest.raises(kind, match=message):
        StreamerPipeline.from_pretrained(checkpoint[0], **options)


@pytest.mark.parametrize(
    ("part", "name", "options", "message"),
    [
        (CausalVideoVAE, "video_vae", {"latent_chanels": 3}, "did you mean 'latent_channels'"),
        (StreamerModel, "streamer", {"conext_window": 3}, "did you mean 'context_window'"),
        (CausalVideoVAE, "video_vae", {"use_safetensors": False}, "asks for pickles"),
        (StreamerModel, "streamer", {"dtype": "float99"}, "'float99'"),
    ],
)
def test_an_option_of_a_part_is_obeyed_or_refused(checkpoint, part, name, options, message):
    with pytest.raises((TypeError, ValueError), match=message):
        part.from_pretrained(checkpoint[0] / name, **options)


def test_nothing_is_saved_that_could_not_be_loaded(tmp_path):
    pipeline, file = tiny_pipeline(), tmp_path / "file"
    file.write_text("mine")
    for part in (pipeline, pipeline.video_vae, pipeline.streamer):
        with pytest.raises(ValueError, match="safe_serialization=False asks for pickles"):
            part.save_pretrained(tmp_path / "folder", safe_serialization=False)
    for part in (pipeline, *pipeline.components.values()):
        for place in (file, file / "below"):
            with pytest.raises(OSError, match=f"cannot save to {place}: {file} is a file"):
                part.save_pretrained(place)
    assert file.read_text() == "mine" and not (tmp_path / "folder").exists()


# ---- parts by keyword ----


def test_a_swapped_vae_renders_where_there_is_no_decoder(checkpoint):
    folder, expected = checkpoint
    vaes = [other_vae(seed).eval() for seed in (11, 12)]
    found = [conversation(StreamerPipeline.from_pretrained(folder, video_vae=v, video_decoder=None)) for v in vaes]
    for (_, theirs, _), (_, first, _), (_, second, _) in zip(expected, *found, strict=True):
        assert theirs.shape == first.shape
        assert not torch.equal(theirs, first) and not torch.equal(first, second)
    for (audio, _, text), (other_audio, _, other_text) in zip(expected, found[0], strict=True):
        assert torch.equal(audio, other_audio) and text == other_text  # the rest of the agent is as it was


def test_a_swapped_vae_beside_a_decoder_is_not_asked_to_render(checkpoint):
    folder, expected = checkpoint
    vae = other_vae()
    pipeline = StreamerPipeline.from_pretrained(folder, video_vae=vae)
    assert pipeline.video_vae is vae
    assert_same(conversation(pipeline), expected)


def test_parts_that_do_not_fit_each_other_are_refused(checkpoint):
    message = r"video_vae \(CausalVideoVAE\) has video_latent_channels 6, streamer \(StreamerModel\) has 4"
    with pytest.raises(ValueError, match=message):
        StreamerPipeline.from_pretrained(checkpoint[0], video_vae=other_vae(latent_channels=6))
    with pytest.raises(ValueError, match="nothing can render video"):
        StreamerPipeline.from_pretrained(checkpoint[0], video_vae=None, video_decoder=None)
    with pytest.raises(ValueError, match=r"perception_dim 16, .*has 24"):
        StreamerPipeline.from_pretrained(checkpoint[0], streamer=tiny_pipeline(perception_dim=24).streamer)
    with pytest.raises(ValueError, match="needs a tokenizer"):
        StreamerPipeline.from_pretrained(checkpoint[0], tokenizer=None)


def test_a_replaced_part_need_not_be_in_the_folder(checkpoint, copy):
    shutil.rmtree(copy / "streamer")
    assert_same(conversation(StreamerPipeline.from_pretrained(copy, streamer=tiny_pipeline().streamer)), checkpoint[1])


# ---- the Hub ----

VAE, CORE = "video_vae/diffusion_pytorch_model.safetensors", "streamer/model.safetensors"

ONLINE = """
from causal_codec import CausalAudioEncoder
from causal_vae import CausalAudioVAE

results, errors = {}, {}
pipeline = StreamerPipeline.from_pretrained("org/tiny")
results["loaded"] = conversation(pipeline)
results["vae"] = CausalVideoVAE.from_pretrained("org/tiny", subfolder="video_vae").state_dict()
results["encoder"] = CausalAudioEncoder.from_pretrained("org/tiny", subfolder="audio_encoder").state_dict()
swapped = StreamerPipeline.from_pretrained("org/more", video_vae=None, video_decoder=pipeline.video_decoder)
results["swapped"] = conversation(swapped)
swapped.push_to_hub("org/pushed")
results["pushed"] = conversation(StreamerPipeline.from_pretrained("org/pushed"))
attempts = {
    "no such repository": lambda: StreamerPipeline.from_pretrained("org/none"),
    "no such name": lambda: StreamerPipeline.from_pretrained("not a name"),
    "part missing": lambda: StreamerPipeline.from_pretrained("org/less"),
    "wrong class": lambda: CausalAudioVAE.from_pretrained("org/tiny", subfolder="video_vae"),
}
for name, attempt in attempts.items():
    try:
        attempt()
    except (ValueError, OSError) as error:
        errors[name] = (type(error).__name__, str(error))
torch.save((results, errors), sys.argv[1])
"""


@pytest.fixture(scope="module")
def online(checkpoint, tmp_path_factory):
    """(results, errors) of a process that knows the checkpoint by its Hub name only; the Hub; the process's cache."""
    home = tmp_path_factory.mktemp("home")
    with LoopbackHub() as hub:
        hub.add("org/tiny", checkpoint[0])
        tiny = hub.repos["org/tiny"]
        hub.repos["org/more"] = tiny | {"extra/large.safetensors": b"not a part of the pipeline"}
        hub.repos["org/less"] = {file: content for file, content in tiny.items() if "video_decoder" not in file}
        run_python(ONLINE, hub.environment(home), home / "results")
        yield *torch.load(home / "results"), hub, home


def test_a_pipeline_comes_from_the_hub(online, checkpoint):
    results, _, hub, _ = online
    assert_same(results["loaded"], checkpoint[1])
    assert len(hub.sent) == len(set(hub.sent))  # nothing twice, though components were loaded again alone


def test_a_component_comes_alone(online, checkpoint):
    for name, file in {"vae": VAE, "encoder": "audio_encoder/model.safetensors"}.items():
        expected = load_file(checkpoint[0] / file)
        found = online[0][name]
        assert expected.keys() == found.keys() and all(torch.equal(found[key], expected[key]) for key in expected)


def test_only_what_is_needed_is_fetched(online, checkpoint):
    results, _, hub, _ = online
    assert_same(results["swapped"], checkpoint[1])
    fetched = {file.split("/")[2] for file in hub.sent if file.startswith("org/more/")}
    assert fetched == {"model_index.json", *PARTS} - {"video_vae", "video_decoder"}


def test_pushed_pipelines_load_again(online, checkpoint):
    results, _, hub, _ = online
    assert_same(results["pushed"], checkpoint[1])
    assert VAE not in hub.repos["org/pushed"] and CORE in hub.repos["org/pushed"]


def test_what_the_hub_does_not_have_is_a_clear_error(online):
    errors = online[1]
    assert errors.keys() == {"no such repository", "no such name", "part missing", "wrong class"}
    for name, wanted in {"no such repository": "org/none", "no such name": "not a name"}.items():
        assert errors[name][0] == "OSError"
        assert errors[name][1].startswith(
            f"{wanted!r} is not a folder here, and the Hub gives no pipeline of that name"
        )
    assert errors["part missing"][0] == errors["wrong class"][0] == "ValueError"
    assert "lacks the folder 'video_decoder'" in errors["part missing"][1]
    assert "org/tiny/video_vae do not fit CausalAudioVAE" in errors["wrong class"][1]


def test_the_cache_serves_offline(online, checkpoint, tmp_path):
    _, _, hub, home = online
    num_sent = len(hub.sent)
    code = "torch.save(conversation(StreamerPipeline.from_pretrained('org/tiny')), sys.argv[1])"
    run_python(code, hub.environment(home, HF_HUB_OFFLINE="1", HF_ENDPOINT="http://127.0.0.1:9"), tmp_path / "found")
    assert_same(torch.load(tmp_path / "found"), checkpoint[1])
    assert len(hub.sent) == num_sent
