"""The four swaps of SWAPPING.md at tiny size: every variant converses, new latents are learned, cards are compared."""

import json
import re
from pathlib import Path

import pytest
import swap_parts
import torch
from causal_codec import CausalVideoEncoder, CausalVideoEncoderConfig
from causal_vae import CausalVideoVAE, certify
from duplex_world import AgentVoice, agent_jsgf, build_dyad, face_box, mouth_box
from duplex_world.face import eye_boxes
from duplex_world.latent_adapters import train_adapters
from duplex_world.linear_video import EigenpictureVAE, LinearVideoDecoder
from duplex_world.media_batches import agent_clips
from duplex_world.shards import write_shard
from duplex_world.speech_judge import SpeechJudge, reference_thresholds
from streamer_core import FlowMatchScheduler, StreamerModel, UniPCFlowScheduler, with_video_latents
from streamer_pipeline import StreamerPipeline
from tiny_parts import open_session, random_units, tiny_pipeline

PAGE = Path(__file__).parents[2] / "packages" / "streamer-pipeline" / "SWAPPING.md"
PICTURE = 192, 336


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A saved pipeline of random parts that draws the world's picture by its VAE's own decoder."""
    grid = {"video_latent_height": 4, "video_latent_width": 7, "video_patch_height": 4}
    parts = tiny_pipeline(**grid).components
    vae = CausalVideoVAE(latent_channels=4, latent_width=8, cell_channels=8, fine_channels=4, decoder_depth=1)
    look = {"image_height": 64, "image_width": 112, "widths": [4, 8], "group_size": 4, "frame_dim": 8, "output_dim": 16}
    eyes = CausalVideoEncoder(CausalVideoEncoderConfig(**look))
    folder = tmp_path_factory.mktemp("checkpoint")
    swapped = {"video_vae": vae, "video_decoder": None, "video_encoder": eyes}
    StreamerPipeline(**parts | swapped).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def clips():
    return agent_clips(6, PICTURE)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder with one stored dyad."""
    folder, voice = tmp_path_factory.mktemp("world"), AgentVoice()
    dyad = build_dyad(2_000_000, "bye", voice)
    write_shard(folder / "test-00000.tar", [dyad])
    owed = {expected["text"] for expected in dyad.labels()["expect"]} - {""}
    thresholds = reference_thresholds(SpeechJudge(agent_jsgf()), owed, lambda phrase: voice(phrase).wave)
    boxes = {"mouth_box": mouth_box(), "face_box": face_box(), "eye_boxes": eye_boxes()}
    description = {"grammar": agent_jsgf(), "thresholds": thresholds, "agent": boxes, "response_delay": 1}
    (folder / "dataset_info.json").write_text(json.dumps(description))
    return folder


def answer(pipeline: StreamerPipeline) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Sound and picture of eight units."""
    session = open_session(pipeline, seed=5)
    units = [session.step(unit) for unit in random_units(8)]
    return [unit.audio for unit in units], [unit.video for unit in units]


def differing(found: list[torch.Tensor], expected: list[torch.Tensor]) -> list[int]:
    return [k for k, (a, b) in enumerate(zip(found, expected, strict=True)) if not torch.allclose(a, b, atol=1e-5)]


def test_another_decoder_changes_the_picture_alone(checkpoint, clips):
    sound, picture = answer(StreamerPipeline.from_pretrained(checkpoint))
    pipeline = swap_parts.another_decoder(checkpoint, clips)
    assert isinstance(pipeline.video_decoder, LinearVideoDecoder)
    heard, seen = answer(pipeline)
    assert not differing(heard, sound) and len(differing(seen, picture)) == 8
    assert seen[0].shape == (3, 4, *PICTURE)


def test_another_cache_forgets_where_its_window_ends(checkpoint):
    sound, _ = answer(StreamerPipeline.from_pretrained(checkpoint))  # windows of 6 and 3 units
    full = swap_parts.another_cache(checkpoint, None, None)
    short = swap_parts.another_cache(checkpoint, 2, 1)
    assert differing(answer(full)[0], sound) == [4, 5, 6, 7]  # unit 4 is the first that has lost response 0
    assert differing(answer(short)[0], sound) == [2, 3, 4, 5, 6, 7]
    assert short.open_session().nbytes() < full.open_session().nbytes()


def test_another_solver_is_asked_for_its_own_number_of_steps(checkpoint):
    one = swap_parts.another_solver(checkpoint, FlowMatchScheduler(), num_steps=1)
    unipc = swap_parts.another_solver(checkpoint, UniPCFlowScheduler(), num_steps=1)
    assert one.open_session().options.num_inference_steps == 1
    for found, wanted in zip(answer(unipc)[0], answer(one)[0], strict=True):
        assert torch.allclose(found, wanted, atol=1e-4)  # one step of UniPC is a step of Euler


def test_new_latents_are_learned_by_the_adapters_alone(checkpoint, clips):
    torch.manual_seed(0)
    old = StreamerModel.from_pretrained(checkpoint / "streamer")
    vae = EigenpictureVAE(latent_channels=12, grid=(8, 7)).fit(clips)
    streamer = with_video_latents(old, 12, 8, 7)
    assert streamer.config.agent_video_tokens == old.config.agent_video_tokens
    pipeline = StreamerPipeline.from_pretrained(checkpoint, streamer=streamer, video_vae=vae)
    before, after = train_adapters(pipeline, num_dyads=2, num_steps=12)
    assert after < 0.8 * before
    kept, found = old.state_dict(), streamer.state_dict()
    changed = {
        name for name in kept if kept[name].shape != found[name].shape or not torch.equal(kept[name], found[name])
    }
    assert changed == {f"video_{way}.{kind}" for way in ("in", "out") for kind in ("weight", "bias")}
    assert answer(pipeline)[1][0].shape == (3, 4, *PICTURE)


def test_the_strangers_parts_keep_the_contract_and_their_latents(clips):
    vae = EigenpictureVAE(latent_channels=12, grid=(8, 7)).fit(clips)
    latents = torch.cat([vae.encode(clip)[0].mean for clip in clips])
    assert latents.mean().abs() < 0.05 and latents.square().mean() < 1.05
    picture = vae.decode(latents[:1])[0]
    assert torch.allclose(vae.encode(picture)[0].mean, latents[:1], atol=1e-3)
    decoder = LinearVideoDecoder(12, (8, 7), PICTURE).fit([(latents[k : k + 1], clip) for k, clip in enumerate(clips)])
    errors = [(render(latents)[0] - torch.cat(clips)).square().mean() for render in (decoder, vae.decode)]
    assert errors[0] < errors[1] < 0.01  # a regression per cell is never worse than one basis per row
    small = EigenpictureVAE(3, (2, 3), (16, 24)).fit([torch.randn(1, 3, 16, 16, 24)])
    certificate = certify(small, torch.randn(2, 3, 16, 16, 24), rate=25, num_partitions=2, num_steps=8)
    assert certificate.passed, certificate.table


def test_the_script_scores_and_compares(checkpoint, world, tmp_path):
    options = {"num_dyads": 1, "num_clips": 6, "adapter_dyads": 1, "adapter_steps": 1, "out": tmp_path}
    swap_parts.main(checkpoint, world, only=["eigenpicture-vae"], **options)
    header = (tmp_path / "comparison.md").read_text().partition("\n")[0]
    assert header == "| measure | aim | as-it-is | eigenpicture-vae |"
    assert (tmp_path / "comparison.png").stat().st_size > 1000


def test_the_page_shows_what_the_script_runs():
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    script = Path(swap_parts.__file__).read_text()
    assert len(blocks) >= 4
    assert [block for block in blocks if block not in script] == []
