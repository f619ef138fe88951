"""A whole pipeline of tiny real parts with random weights, for tests."""

import torch
import torch.nn.functional as F
from causal_codec import (
    CausalAudioDecoder,
    CausalAudioEncoder,
    CausalAudioEncoderConfig,
    CausalVideoDecoder,
    CausalVideoEncoder,
    CausalVideoEncoderConfig,
)
from causal_vae import CausalAudioVAE, CausalVideoVAE
from streamer_core import FlowMatchScheduler, StreamerConfig, StreamerModel, StreamerTokenizer
from streamer_pipeline import StreamerPipeline, UserUnit

SIZE = 48, 96


def tiny_pipeline(**streamer_fields) -> StreamerPipeline:
    torch.manual_seed(0)
    tokenizer = StreamerTokenizer.train(["hello there how are you", "it is red"], vocab_size=300)
    config = {
        "vocab_size": len(tokenizer),
        "pad_token_id": tokenizer.pad_token_id,
        "state_token_ids": list(tokenizer.state_ids.values()),
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 12,
        "perception_dim": 16,
        "audio_latent_channels": 4,
        "video_latent_channels": 4,
        "video_latent_height": 2,
        "video_latent_width": 3,
        "video_patch_height": 2,
        "context_window": 6,
        "response_window": 3,
        "hears_words": True,
    }
    audio_vae = CausalAudioVAE(latent_channels=4, encoder_dim=8, encoder_depth=1, decoder_dim=8, decoder_depth=1)
    video = {"latent_channels": 4, "spatial_strides": (3, 1), "latent_width": 8, "cell_channels": 8, "fine_channels": 4}
    return StreamerPipeline(
        streamer=StreamerModel(StreamerConfig(**config | streamer_fields)),
        tokenizer=tokenizer,
        scheduler=FlowMatchScheduler(),
        audio_encoder=CausalAudioEncoder(
            CausalAudioEncoderConfig(num_mels=16, widths=[8, 8, 16], depths=[1, 1, 1], kernel_size=3, output_dim=16)
        ),
        video_encoder=CausalVideoEncoder(
            CausalVideoEncoderConfig(
                image_height=16, image_width=32, widths=[4, 8], group_size=4, frame_dim=8, output_dim=16
            )
        ),
        audio_vae=audio_vae,
        video_vae=CausalVideoVAE(**video, decoder_depth=1),
        audio_decoder=CausalAudioDecoder(latent_channels=4, dim=8, depth=1),
        video_decoder=CausalVideoDecoder(**video, depth=1),
        prompt="hello there",
        num_inference_steps=2,
    )


def random_units(num_units: int, seed: int = 0) -> list[UserUnit]:
    generator = torch.Generator().manual_seed(seed)
    return [
        UserUnit(
            audio=torch.rand(1, 3840, generator=generator) * 0.4 - 0.2,
            video=torch.rand(3, 4, *SIZE, generator=generator) * 2 - 1,
            text="how are you" if index == 3 else None,
        )
        for index in range(num_units)
    ]


def open_session(pipeline: StreamerPipeline, **options):
    return pipeline.open_session(height=SIZE[0], width=SIZE[1], **options)


def talking_pipeline():
    """Tiny parts of random weights that say something in some units and nothing in others.

    Random weights begin words in every unit. The pad is made about as likely as the likeliest word: its row points
    where hidden states are on average, and is as long as it has to be for that.
    """
    pipeline, seen = tiny_pipeline(hears_words=False), []  # whose head would ask the table of words, too
    head, pad = pipeline.streamer.lm_head, pipeline.streamer.config.pad_token_id
    hook = head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].flatten(0, -2)))
    session = open_session(pipeline)
    for unit in random_units(20):
        session.step(unit)
    hook.remove()
    with torch.no_grad():
        head.weight[pad] = 0.09 * F.normalize(torch.cat(seen).mean(dim=0), dim=0)
    return pipeline
