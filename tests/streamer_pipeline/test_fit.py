"""Parts keep the contract and fit each other, or are refused when a pipeline is built; and they stay as they are."""

import copy
import threading
from itertools import chain

import pytest
import torch
from causal_codec import (
    CausalAudioDecoder,
    CausalAudioEncoder,
    CausalAudioEncoderConfig,
    CausalVideoDecoder,
    CausalVideoEncoder,
    CausalVideoEncoderConfig,
)
from causal_vae import CausalAudioVAE, CausalVideoVAE, MimiAudioVAE, StreamSpec, WanVideoVAE
from diffusers import AutoencoderKL, DDIMScheduler
from streamer_core import StreamerConfig, StreamerModel, StreamerTokenizer
from streamer_pipeline import StreamerPipeline
from streamer_pipeline.checks.fit import streamer_fields
from tiny_parts import open_session, random_units, tiny_pipeline
from transformers import pipeline as transformers_function

SMALL_SOUND = {"latent_channels": 4, "encoder_dim": 8, "encoder_depth": 1, "decoder_dim": 8, "decoder_depth": 1}
SMALL_PICTURE = {"latent_channels": 4, "latent_width": 8, "cell_channels": 8, "fine_channels": 4}
EARS = {"num_mels": 16, "widths": [8, 8, 16], "depths": [1, 1, 1], "kernel_size": 3, "output_dim": 16}
EYES = {"image_height": 16, "image_width": 32, "widths": [4, 8], "group_size": 4, "frame_dim": 8, "output_dim": 16}
MIMI = {"latent_channels": 4, "num_filters": 2, "num_hidden_layers": 1, "intermediate_size": 8, "upsample_groups": 4}
MIMI |= {"num_attention_heads": 1, "num_key_value_heads": 1, "head_dim": 4}
WAN = {"base_dim": 8, "z_dim": 16, "num_res_blocks": 1, "latents_mean": [0.0] * 16, "latents_std": [1.0] * 16}


def ears(**fields) -> CausalAudioEncoder:
    return CausalAudioEncoder(CausalAudioEncoderConfig(**EARS | fields))


def eyes(**fields) -> CausalVideoEncoder:
    return CausalVideoEncoder(CausalVideoEncoderConfig(**EYES | fields))


def tiny_streamer(**fields) -> StreamerModel:
    """The tiny pipeline's, with other fields; alone, because such a pipeline cannot be built."""
    return StreamerModel(StreamerConfig(**tiny_pipeline().streamer.config.to_diff_dict() | fields))


class OneGridDecoder(CausalVideoDecoder):
    """A part that can draw on one grid alone says so."""

    @property
    def stream_spec(self) -> StreamSpec:
        return StreamSpec(video_latent_height=4, video_latent_width=7)


# What is put in, and the two numbers of the error.
MISFITS = {
    "ears of four tokens": (
        lambda: {"audio_encoder": ears(strides=[2, 2, 1], tokens_per_unit=4)},
        r"audio_encoder \(CausalAudioEncoder\) has user_audio_tokens 4, streamer \(StreamerModel\) has 2",
    ),
    "eyes of four tokens": (
        lambda: {"video_encoder": eyes(tokens_per_unit=4)},
        r"video_encoder \(CausalVideoEncoder\) has user_video_tokens 4, streamer \(StreamerModel\) has 2",
    ),
    "eyes of another width": (
        lambda: {"video_encoder": eyes(output_dim=24)},
        r"video_encoder \(CausalVideoEncoder\) has perception_dim 24, streamer \(StreamerModel\) has 16",
    ),
    "a camera of another rate": (
        lambda: {"video_encoder": eyes(input_frame_rate=50.0)},
        r"video_encoder \(CausalVideoEncoder\) has frames_per_unit 8, pipeline has 4",
    ),
    "Wan's latents": (
        lambda: {"video_vae": WanVideoVAE(**WAN)},
        r"video_vae \(WanVideoVAE\) has video_latent_channels 16, streamer \(StreamerModel\) has 4",
    ),
    "Mimi's latents": (
        lambda: {"audio_vae": MimiAudioVAE(**MIMI)},
        r"audio_vae \(MimiAudioVAE\) has audio_latents_per_unit 2, streamer \(StreamerModel\) has 4",
    ),
    "a VAE of another sample rate": (
        lambda: {"audio_vae": CausalAudioVAE(**SMALL_SOUND, sample_rate=48_000, hop_length=480)},
        r"audio_vae \(CausalAudioVAE\) has sample_rate 48000, pipeline has 24000",
    ),
    "a decoder of another sample rate": (
        lambda: {"audio_decoder": CausalAudioDecoder(12_000, hop_length=120, latent_channels=4, dim=8, depth=1)},
        r"audio_decoder \(CausalAudioDecoder\) has sample_rate 12000, pipeline has 24000",
    ),
    "a VAE of eight frames": (
        lambda: {"video_vae": CausalVideoVAE(frames_per_latent=8, spatial_strides=(3, 1), **SMALL_PICTURE)},
        r"video_vae \(CausalVideoVAE\) has frames_per_latent 8, pipeline has 4",
    ),
    "a decoder of larger cells": (
        lambda: {"video_decoder": CausalVideoDecoder(spatial_strides=(3, 2), **SMALL_PICTURE, depth=1)},
        r"video_decoder \(CausalVideoDecoder\) has pixels_per_cell 48, video_vae \(CausalVideoVAE\) has 24",
    ),
    "a decoder of one grid": (
        lambda: {"video_decoder": OneGridDecoder(spatial_strides=(3, 1), **SMALL_PICTURE, depth=1)},
        r"video_decoder \(OneGridDecoder\) has video_latent_height 4, streamer \(StreamerModel\) has 2",
    ),
    "more words": (
        lambda: {"tokenizer": StreamerTokenizer.train([f"word{number}" for number in range(400)], vocab_size=662)},
        f"tokenizer has 653 words, the streamer a vocabulary of {len(tiny_pipeline().tokenizer)}",
    ),
    "other control tokens": (
        lambda: {"streamer": tiny_streamer(pad_token_id=1, state_token_ids=[0, 2])},
        r"<\|pad\|> is token 0 of the tokenizer and 1 of the streamer",
    ),
    "states in another order": (
        lambda: {"streamer": tiny_streamer(state_names=["speak", "listen"])},
        r"<\|listen\|> is token 1 of the tokenizer and 2 of the streamer",
    ),
    "a function": (lambda: {"video_vae": transformers_function}, "pipeline cannot be the video_vae: it has no stride"),
    "a part that forgets": (
        lambda: {"video_vae": AutoencoderKL(block_out_channels=(32,))},
        "AutoencoderKL cannot be the video_vae: it has no stride, upsample, chunk_shape, init_state",
    ),
    "a decoder as a VAE": (
        lambda: {"audio_vae": tiny_pipeline().audio_decoder},
        "CausalAudioDecoder cannot be the audio_vae: it has no encode, decode",
    ),
    "no solver": (lambda: {"scheduler": DDIMScheduler()}, "DDIMScheduler cannot be the scheduler: it has no solve"),
    "nothing to hear": (lambda: {"audio_vae": None, "audio_decoder": None}, "nothing can render audio"),
    "no words": (lambda: {"tokenizer": None}, "needs a tokenizer"),
}


@pytest.fixture(scope="module")
def whole():
    return tiny_pipeline()


@pytest.mark.parametrize("name", MISFITS)
def test_what_does_not_fit_is_refused_when_built_with_both_numbers(whole, name):
    make, message = MISFITS[name]
    with pytest.raises(ValueError, match=message):
        StreamerPipeline(**whole.components | make())


def modules(pipeline) -> list[tuple[str, torch.nn.Module]]:
    return [(name, part) for name, part in pipeline.components.items() if isinstance(part, torch.nn.Module)]


def test_the_shipped_parts_declare_what_they_take_and_give():
    specs = {name: part.stream_spec for name, part in modules(StreamerPipeline.from_pretrained())}
    assert specs["audio_encoder"] == StreamSpec(sample_rate=24_000, user_audio_tokens=2, perception_dim=128)
    assert specs["video_encoder"] == StreamSpec(frames_per_unit=4, user_video_tokens=2, perception_dim=128)
    sound = StreamSpec(sample_rate=24_000, audio_latents_per_unit=4, audio_latent_channels=16)
    assert specs["audio_vae"] == specs["audio_decoder"] == sound
    assert specs["video_vae"] == StreamSpec(frames_per_latent=4, video_latent_channels=32, pixels_per_cell=48)
    streamer = specs["streamer"]
    assert (streamer.video_latent_height, streamer.video_latent_width, streamer.perception_dim) == (4, 7, 128)
    assert not any(list(streamer.conflicts(spec)) for spec in specs.values())


# ---- parts are the caller's ----


def modes(parts) -> list[bool]:
    modules = (part.modules() for part in parts.values() if isinstance(part, torch.nn.Module))
    return [module.training for module in chain.from_iterable(modules)]


def test_parts_stay_in_the_mode_in_which_they_were_given(whole):
    """Some modules of one part are frozen in evaluation mode while the rest is trained: each is what it was."""
    parts = copy.deepcopy(whole.components)
    parts["streamer"].train().model.layers[0].eval()
    parts["video_decoder"].train()
    parts["audio_encoder"].eval()
    before = modes(parts)
    assert True in before and False in before
    pipeline = StreamerPipeline(**parts)
    assert modes(parts) == before
    session = open_session(pipeline)
    session.step(random_units(1)[0])
    assert modes(parts) == before


class Forgetful(CausalVideoDecoder):
    """A decoder with dropout, as a stranger's may have."""

    def forward(self, latents, state=None):
        video, state = super().forward(latents, state)
        return torch.nn.functional.dropout(video, 0.5, self.training), state


def test_a_session_computes_as_in_evaluation(whole):
    torch.manual_seed(4)
    decoder = Forgetful(spatial_strides=(3, 1), **SMALL_PICTURE, depth=1)
    pipeline = StreamerPipeline(**whole.components | {"video_decoder": decoder.eval()})
    user = random_units(1)[0]
    expected = open_session(pipeline, seed=3).step(user).video
    decoder.train()
    assert torch.equal(open_session(pipeline, seed=3).step(user).video, expected)
    assert decoder.training


def test_an_adapter_that_was_added_computes_as_in_evaluation(whole):
    """What is added to a part in evaluation mode, as PEFT does, is in training mode alone: its dropout stays still."""
    pipeline = StreamerPipeline(**copy.deepcopy(whole.components))
    streamer, user = pipeline.streamer.eval(), random_units(1)[0]
    expected = open_session(pipeline, seed=3).step(user).audio
    streamer.audio_out = torch.nn.Sequential(streamer.audio_out, torch.nn.Dropout(0.5))
    assert streamer.audio_out.training and not streamer.training
    assert torch.equal(open_session(pipeline, seed=3).step(user).audio, expected)
    assert streamer.audio_out.training and not streamer.training


def test_the_last_of_several_threads_restores_the_mode(whole):
    pipeline = StreamerPipeline(**copy.deepcopy(whole.components))
    pipeline.streamer.train()
    inside, leave = threading.Event(), threading.Event()

    def stay():
        with pipeline.evaluating():
            inside.set()
            leave.wait()

    thread = threading.Thread(target=stay)
    thread.start()
    inside.wait()
    with pipeline.evaluating():
        pass
    mode = pipeline.streamer.training
    leave.set()
    thread.join()
    assert mode is False
    assert all(module.training for module in pipeline.streamer.modules())


# ---- from another pipeline ----


def test_a_pipeline_of_a_pipeline_has_the_same_parts_prompt_and_steps(whole):
    half = StreamerPipeline(**copy.deepcopy(whole.components), prompt="it is red", num_inference_steps=3)
    half.to(torch.bfloat16)
    second = StreamerPipeline.from_pipe(half)
    assert second is not half and all(
        a is b for a, b in zip(second.components.values(), half.components.values(), strict=True)
    )
    assert (second.config.prompt, second.config.num_inference_steps) == ("it is red", 3)
    assert second.streamer.dtype == torch.bfloat16  # also where they are
    other = StreamerPipeline.from_pipe(half, video_decoder=None, num_inference_steps=1)
    assert other.video_decoder is None and other.video_vae is half.video_vae
    assert (other.config.prompt, other.config.num_inference_steps) == ("it is red", 1)


def test_a_pipeline_of_something_else_is_refused(whole):
    with pytest.raises(TypeError, match="from_pipe takes a StreamerPipeline; got a dict"):
        StreamerPipeline.from_pipe(whole.components)
    with pytest.raises(TypeError, match="did you mean 'prompt'"):
        StreamerPipeline.from_pipe(whole, promt="it is red")


def test_components_are_the_parts_alone(whole):
    """As in diffusers: what is configured beside them is not among them."""
    assert StreamerPipeline(**whole.components).config.num_inference_steps == 4 != whole.config.num_inference_steps


def test_the_parts_say_what_streamer_fits_them():
    """Without a number of its own: a streamer built from the fields is one that the same parts accept."""
    parts = tiny_pipeline().components
    media = {name: parts[name] for name in ("audio_encoder", "video_encoder", "audio_vae", "video_vae")}
    fields = streamer_fields(media, 48, 96)
    side = parts["video_vae"].spatial_stride
    assert (fields["video_latent_height"], fields["video_latent_width"]) == (48 // side, 96 // side)
    streamer = tiny_streamer(**fields, video_patch_height=1)
    StreamerPipeline(**parts | {"streamer": streamer})
    assert fields.items() <= streamer.config.to_dict().items()
    with pytest.raises(ValueError, match=f"a multiple of {side} pixels"):
        streamer_fields(media, 50, 96)
    with pytest.raises(ValueError, match=r"video_encoder has perception_dim 24, audio_encoder has 16: no streamer"):
        streamer_fields(media | {"video_encoder": eyes(output_dim=24)}, 48, 96)
