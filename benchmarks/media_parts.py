"""Decoders against this machine's measured convolution peak, and the audio codec against transformers' Mimi."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from causal_codec import CausalVideoDecoder
from causal_vae import CausalAudioVAE, State
from harness import Row, Setting, alternate, convolution_probe, median, ratio
from streamer_pipeline import SAMPLES_PER_UNIT
from streamer_pipeline.training.flops import count_flops
from torch import Tensor
from transformers import DynamicCache, MimiConfig, MimiModel


@dataclass
class Stream:
    """Feeds one unit after another through `(x, state) -> (y, state)`, so that every call is mid-stream."""

    step: Callable[[Tensor, State | None], tuple[Any, State]]
    unit: Tensor
    state: State | None = field(default=None, init=False)

    def __call__(self) -> Any:
        output, self.state = self.step(self.unit, self.state)
        return output


def decoders(setting: Setting) -> list[Row]:
    """Milliseconds per unit of every decoder, and its GFLOP/s as a share of a good convolution's."""
    pipeline = setting.pipeline()
    c = pipeline.streamer.config
    audio_latents = torch.randn(1, c.audio_latent_channels, c.audio_latents_per_unit)
    video_latents = torch.randn(1, c.video_latent_channels, 1, c.video_latent_height, c.video_latent_width)
    video_decoder = CausalVideoDecoder(
        spatial_strides=pipeline.video_vae.config.spatial_strides, latent_channels=c.video_latent_channels
    ).eval()
    parts = {
        "video VAE decoder": (pipeline.video_vae.decode, video_latents),
        "causal video decoder (default sizes)": (video_decoder, video_latents),
        "audio VAE decoder": (pipeline.audio_vae.decode, audio_latents),
        "causal audio decoder": (pipeline.audio_decoder, audio_latents),
    }
    probe, probe_flops = convolution_probe()
    rows = []
    for name, (part, latents) in parts.items():
        stream = Stream(part, latents)
        with torch.inference_mode():
            flops = count_flops(stream)
        times = alternate({"part": stream, "probe": probe}, setting.count(80, 3), warm_up=setting.count(10, 1))
        share = ratio(times["probe"] / probe_flops, times["part"] / flops)
        details = {
            "ms_per_unit": median(times["part"]),
            "gflop_per_unit": round(flops / 1e9, 4),
            "gflop_per_s": round(flops / median(times["part"]) / 1e6, 1),
            "peak_gflop_per_s": round(probe_flops / median(times["probe"]) / 1e6, 1),
        }
        # The aim is of the parts whose time the budget is made of; the audio decoders' 0.03 GFLOP are all overhead.
        rows.append(Row(f"{name}, share of convolution peak", share, "", ">= 0.6" if "video" in name else "", details))
    return rows


@dataclass
class MimiStream:
    """Encode and decode 160 ms at a time with every cache that transformers offers for it."""

    model: MimiModel
    unit: Tensor
    caches: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        encoder, decoder = (DynamicCache(config=self.model.config) for _ in range(2))
        self.caches = {"encoder": encoder, "decoder": decoder, "padding": None}

    def __call__(self) -> Tensor:
        # The attention's caches grow in place. They go by position: their names differ between versions.
        encoded = self.model.encode(
            self.unit, None, None, self.caches["encoder"], self.caches["padding"], use_streaming=True
        )
        self.caches["padding"] = encoded.padding_cache
        decoded = self.model.decode(encoded.audio_codes, None, self.caches["decoder"])
        return decoded.audio_values


def small_mimi() -> MimiConfig:
    """Mimi's layers at widths that cost about what ours cost."""
    return MimiConfig(
        hidden_size=128,
        num_filters=8,
        codebook_dim=64,
        vector_quantization_hidden_dimension=64,
        codebook_size=256,
        num_quantizers=8,
        upsample_groups=128,
        num_hidden_layers=2,
        intermediate_size=256,
        num_attention_heads=4,
        num_key_value_heads=4,
        head_dim=32,
    )


def audio_codec(setting: Setting) -> list[Row]:
    """A round trip of 160 ms, ours and Mimi's (random weights: speed only), per GFLOP.

    Beside the published size stands one of comparable GFLOP, which is what the aim is about: larger layers are more
    efficient whoever runs them.
    """
    torch.manual_seed(0)
    unit = torch.randn(1, 1, SAMPLES_PER_UNIT) * 0.1
    sides: dict[str, Callable[[], Any]] = {"ours": Stream(CausalAudioVAE().eval(), unit)}
    sides["comparable"] = MimiStream(MimiModel(small_mimi()).eval(), unit)
    if not setting.quick:
        sides["published"] = MimiStream(MimiModel(MimiConfig()).eval(), unit)
    with torch.inference_mode():
        gflop = {name: count_flops(side) / 1e9 for name, side in sides.items()}
    times = alternate(sides, setting.count(60, 2), warm_up=setting.count(5, 1))
    rows = []
    for name in list(sides)[1:]:
        aim = ">= 2" if name == "comparable" else ""
        value = ratio(times[name] / gflop[name], times["ours"] / gflop["ours"])
        details = {f"{side}_ms": median(times[side]) for side in ("ours", name)}
        details |= {f"{side}_gflop": round(gflop[side], 4) for side in ("ours", name)}
        details["theirs/ours in ms"] = round(ratio(times[name], times["ours"]), 2)
        rows.append(Row(f"audio codec round trip, ms per GFLOP: Mimi of {name} size / ours", value, "x", aim, details))
    return rows
