"""Weights that wait elsewhere until they are needed, as accelerate's hooks do it: the conversation is the same.

"Elsewhere" is the meta device here, where nothing can be computed: what reaches for a weight past its hook fails.
"""

import copy

import pytest
import torch
from accelerate import cpu_offload
from accelerate.hooks import CpuOffload, UserCpuOffloadHook, add_hook_to_module
from accelerate.utils import named_module_tensors, set_module_tensor_to_device
from causal_codec import SiglipVideoEncoder, SiglipVideoEncoderConfig, VoxtralAudioEncoder, VoxtralAudioEncoderConfig
from causal_vae import MimiAudioVAE, WanVideoVAE
from streamer_core import StreamerModel
from streamer_pipeline import StreamerPipeline
from tiny_parts import open_session, random_units, tiny_pipeline


@pytest.fixture(scope="module")
def whole():
    return tiny_pipeline(tie_word_embeddings=False)  # the hook below does not know tied tables


def conversation(pipeline):
    session = open_session(pipeline, seed=7, temperature=1.0)
    return [(unit.audio, unit.video, unit.text) for unit in map(session.step, random_units(4))]


def assert_same(found, expected, tolerance=0.0):
    """Weights from a disk lie elsewhere in memory, which decides how sums are rounded: they have a tolerance."""
    for (audio, video, text), (other_audio, other_video, other_text) in zip(found, expected, strict=True):
        torch.testing.assert_close(audio, other_audio, atol=tolerance, rtol=0)
        torch.testing.assert_close(video, other_video, atol=tolerance, rtol=0)
        assert text == other_text


class Away(CpuOffload):
    """accelerate's own hook, with the meta device in the CPU's place, and the CPU in the accelerator's."""

    def init_hook(self, module):
        if not next(module.parameters()).is_meta:
            self.kept = {name: tensor.clone() for name, tensor in named_module_tensors(module, recurse=True)}
        return module.to("meta")

    def pre_forward(self, module, *args, **kwargs):
        if self.prev_module_hook is not None:
            self.prev_module_hook.offload()
        if next(module.parameters()).is_meta:
            for name, tensor in self.kept.items():
                set_module_tensor_to_device(module, name, "cpu", tensor)
        return args, kwargs


@pytest.mark.parametrize("renderer", ["decoder", "vae"])
def test_one_part_at_a_time_is_where_it_computes(whole, renderer):
    """`enable_model_cpu_offload`: a part comes when it is called, by whatever method, and sends the one before away."""
    without = {"audio_decoder": None, "video_decoder": None} if renderer == "vae" else {}
    expected = conversation(StreamerPipeline.from_pipe(whole, **without))
    pipeline, hook = StreamerPipeline.from_pipe(copy.deepcopy(whole), **without), None
    for name in pipeline.model_cpu_offload_seq.split("->"):
        part, away = getattr(pipeline, name), Away(torch.device("cpu"), hook)
        add_hook_to_module(part, away)
        hook = UserCpuOffloadHook(part, away)
    assert_same(conversation(pipeline), expected)
    waiting = {name: next(part.parameters()).is_meta for name, part in pipeline.components.items()
               if isinstance(part, torch.nn.Module) and hasattr(part, "_hf_hook")}  # fmt: skip
    assert len(waiting) == 5 and waiting.pop(f"video_{renderer}") is False
    assert waiting.pop("audio_encoder") and all(waiting.values())


def test_model_offloading_answers_as_without_it(whole):
    pipeline = copy.deepcopy(whole)
    pipeline.enable_model_cpu_offload(device="cpu")
    assert_same(conversation(pipeline), conversation(whole))


def test_one_layer_at_a_time_is_where_it_computes(whole):
    """What `enable_sequential_cpu_offload` does with an accelerator: a layer's weights come when that layer is called.

    diffusers' method itself asks for "cpu:0" here, which accelerate takes for another device than "cpu".
    """
    pipeline = copy.deepcopy(whole)
    for part in pipeline.components.values():
        if isinstance(part, torch.nn.Module):
            cpu_offload(part, torch.device("cpu"))
    assert all(parameter.is_meta for parameter in pipeline.streamer.parameters())
    assert_same(conversation(pipeline), conversation(whole))


ON_DISK = {
    "slots": ("slot_embedding",),
    "words": ("lm_head", "model.embed_tokens"),
    "most": ("model", "lm_head", "noise_level", "audio_out"),
}


@pytest.mark.parametrize("name", ON_DISK)
def test_a_streamer_on_disk_answers_as_one_in_memory(whole, tmp_path, name):
    whole.streamer.save_pretrained(tmp_path / "streamer")
    places = [child for child, _ in whole.streamer.named_children() if child != "model"]
    places += [f"model.{child}" for child, _ in whole.streamer.model.named_children()]
    placed = StreamerModel.from_pretrained(
        tmp_path / "streamer",
        device_map={place: "disk" if place.startswith(ON_DISK[name]) else "cpu" for place in places},
        offload_folder=tmp_path / "disk",
    )
    assert any(parameter.is_meta for parameter in placed.parameters())
    assert_same(conversation(StreamerPipeline.from_pipe(whole, streamer=placed)), conversation(whole), 1e-3)


MIMI = {"latent_channels": 4, "num_filters": 2, "num_hidden_layers": 1, "intermediate_size": 8, "upsample_groups": 4}
TOWER = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1}
SIGLIP = {"image_height": 48, "image_width": 96, "output_dim": 4, "num_patches": 16}
WAN = {"base_dim": 8, "z_dim": 4, "dim_mult": [1, 1, 1, 1], "num_res_blocks": 1}
WAN |= {"latents_mean": [0.0] * 4, "latents_std": [1.0] * 4}
WAN_22 = {"is_residual": True, "patch_size": 2, "in_channels": 12, "out_channels": 12}
ADAPTERS = {
    "Mimi": (lambda: MimiAudioVAE(**MIMI, num_attention_heads=1, num_key_value_heads=1, head_dim=4), (1, 1, 3840)),
    "SigLIP": (lambda: SiglipVideoEncoder(SiglipVideoEncoderConfig(**TOWER | SIGLIP)), (1, 3, 4, 48, 96)),
    "Voxtral": (
        lambda: VoxtralAudioEncoder(VoxtralAudioEncoderConfig(**TOWER, head_dim=8, sliding_window=8, output_dim=4)),
        (1, 1, 3840),
    ),
    "Wan 2.1": (lambda: WanVideoVAE(**WAN), (1, 3, 8, 16, 16)),
    "Wan 2.2": (lambda: WanVideoVAE(**WAN, **WAN_22), (1, 3, 8, 32, 32)),
}


@pytest.mark.parametrize("name", ADAPTERS)
def test_a_part_with_public_weights_computes_the_same_layer_by_layer(name):
    make, shape = ADAPTERS[name]
    torch.manual_seed(0)
    part, x = make().eval(), torch.randn(shape)
    with torch.no_grad():
        for parameter in part.parameters():  # a norm that begins as 1 would not be missed
            parameter.add_(0.1 * torch.randn_like(parameter))
    waiting = cpu_offload(copy.deepcopy(part), torch.device("cpu"))
    with torch.inference_mode():
        assert torch.equal(waiting(x)[0], part(x)[0])
