"""A part of a package that is not ours: saved and loaded by the index once imported; otherwise the error says how."""

import importlib
import json
import sys

import pytest
import torch
from streamer_pipeline import StreamerPipeline
from tiny_parts import open_session, random_units, tiny_pipeline

DECODER = '''
import torch
from causal_vae import StreamingModule
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config


class BlurryDecoder(ModelMixin, StreamingModule, ConfigMixin):
    """Every latent cell is one colour, faded in from the cell before."""

    upsample = 4

    @register_to_config
    def __init__(self, latent_channels=4, cell_size=24):
        super().__init__()
        self.color = torch.nn.Conv3d(latent_channels, 3, 1)

    def chunk_shape(self, height, width):
        return self.config.latent_channels, 1, height, width

    def forward(self, latents, state=None):
        now = self.color(latents)
        before = torch.zeros_like(now[:, :, :1]) if state is None else state
        mixed = (torch.cat([before, now[:, :, :-1]], dim=2) + now) / 2
        for axis, times in ((2, 4), (3, self.config.cell_size), (4, self.config.cell_size)):
            mixed = mixed.repeat_interleave(times, dim=axis)
        return mixed, now[:, :, -1:].clone()
'''
# What the Hub would give as `pip install blurry_lab`: one file, or a package that names its classes at the top.
LAYOUTS = {
    "module": {"blurry_lab.py": DECODER},
    "package": {
        "blurry_lab/video/decoder.py": DECODER,
        "blurry_lab/__init__.py": "from diffusers import ModelMixin\nfrom .video.decoder import BlurryDecoder\n",
    },
}


def forget_lab() -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "blurry_lab"]:
        del sys.modules[name]


@pytest.fixture(params=LAYOUTS)
def saved(request, tmp_path, monkeypatch):
    """(folder of a pipeline with a stranger's decoder, what it rendered), from a process that does not know the lab."""
    for file, text in LAYOUTS[request.param].items():
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    lab = importlib.import_module("blurry_lab")
    torch.manual_seed(3)
    pipeline = StreamerPipeline(**tiny_pipeline().components | {"video_decoder": lab.BlurryDecoder()})
    pipeline.save_pretrained(tmp_path / "checkpoint")
    expected = rendered(pipeline)
    forget_lab()
    yield tmp_path / "checkpoint", expected
    forget_lab()


def rendered(pipeline: StreamerPipeline) -> list[torch.Tensor]:
    session = open_session(pipeline, seed=7)
    return [session.step(unit).video for unit in random_units(3)]


def test_a_strangers_part_loads_once_it_is_imported(saved):
    folder, expected = saved
    assert json.loads((folder / "model_index.json").read_text())["video_decoder"] == ["blurry_lab", "BlurryDecoder"]
    lab = importlib.import_module("blurry_lab")
    loaded = StreamerPipeline.from_pretrained(folder)
    assert type(loaded.video_decoder) is lab.BlurryDecoder
    assert all(torch.equal(found, wanted) for found, wanted in zip(rendered(loaded), expected, strict=True))


def test_without_its_package_the_error_says_what_to_install(saved):
    folder, _ = saved
    message = "BlurryDecoder of the package 'blurry_lab' as its video_decoder: install that package and import it"
    with pytest.raises(ValueError, match=message):
        StreamerPipeline.from_pretrained(folder)


def test_a_session_with_a_strangers_part_is_continued(saved, tmp_path):
    folder, expected = saved
    importlib.import_module("blurry_lab")
    pipeline = StreamerPipeline.from_pretrained(folder)
    session, units = open_session(pipeline, seed=7), random_units(3)
    session.step(units[0])
    session.save(tmp_path / "session")
    later = type(session).load(tmp_path / "session", pipeline)
    assert torch.equal(later.step(units[1]).video, expected[1])


def test_a_strangers_part_that_declares_nothing_is_compared_by_its_config(saved):
    lab = importlib.import_module("blurry_lab")
    message = r"video_decoder \(BlurryDecoder\) has video_latent_channels 6, streamer \(StreamerModel\) has 4"
    with pytest.raises(ValueError, match=message):
        StreamerPipeline.from_pretrained(saved[0], video_decoder=lab.BlurryDecoder(latent_channels=6))
