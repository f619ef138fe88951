"""Where peers stand under the streaming contract: diffusers' Wan VAE and transformers' Mimi, as they are and wrapped.

python examples/swap/certify_peers.py              # prints a markdown table, in a few minutes

Both models are small and have random weights: the laws are about code, not about what was learned. "As it is" uses
what the library offers between two calls: nothing for the VAE and for Mimi's decoder convolutions, Mimi's own caches
otherwise. `WanVideoVAE` and `MimiAudioVAE` are the same weights with a state that goes in and comes out.

How to read the rows of the peers as they are: Wan gives one frame for its first latent, so by the contract's clock its
later frames come early, which the look-ahead shows. Mimi's caches know their age as a Python number, one for the whole
batch; here it is stored in the state and read back, which is also where tracing one graph ends.
"""

from __future__ import annotations

import argparse
from inspect import signature
from pathlib import Path

import torch
from causal_vae import Certificate, MimiAudioVAE, State, StreamingModule, WanVideoVAE, certify
from diffusers import AutoencoderKLWan
from torch import Tensor, nn
from transformers import DynamicCache, MimiConfig, MimiModel
from transformers.models.mimi.modeling_mimi import MimiConv1dPaddingCache

FRAME_RATE, SAMPLE_RATE, LATENT_RATE = 25.0, 24_000.0, 12.5


# ---- as they are ----


class StockWanEncoder(StreamingModule):
    """`AutoencoderKLWan.encode`: its cache lives on the module and is cleared on every call, so there is no state."""

    stride = 4

    def __init__(self, vae: AutoencoderKLWan) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        return self.vae.encode(x).latent_dist.mode(), {}


class StockWanDecoder(StockWanEncoder):
    stride, upsample = 1, 4

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        return self.vae.decode(x).sample, {}


def unpack_cache(cache: DynamicCache, batch_size: int) -> State:
    """Mimi's keys and values as a tree; its one length for the whole batch is given to every row."""
    layers = {f"{i}": {"keys": layer.keys, "values": layer.values} for i, layer in enumerate(cache.layers)}
    return {"layers": layers, "length": torch.full((batch_size,), cache.get_seq_length())}


def cache_argument(module: nn.Module) -> str:
    """What the attention's cache is called, which changed with transformers 5.24. It grows in place."""
    return "cache" if "cache" in signature(module.forward).parameters else "past_key_values"


def pack_cache(state: State | None, config: MimiConfig) -> DynamicCache:
    cache = DynamicCache(config=config)
    if state is None:
        return cache
    for index, layer in enumerate(cache.layers):
        stored = state["layers"][f"{index}"]
        layer.update(stored["keys"], stored["values"])
        layer.keys, layer.values = stored["keys"], stored["values"]
        layer.cumulative_length = int(state["length"][0])
    return cache


class StockMimiEncoder(StreamingModule):
    """`MimiModel.encoder` with `use_streaming`: its padding cache and its key-value cache."""

    stride = 1920

    def __init__(self, model: MimiModel) -> None:
        super().__init__()
        self.encoder = model.encoder

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        cache, padding = pack_cache(state and state["attention"], self.encoder.config), None
        if state is not None:
            padding = MimiConv1dPaddingCache(*self._paddings())
            padding.padding_cache = [state["padding"][f"{index}"] for index in range(len(state["padding"]))]
        caches = {cache_argument(self.encoder): cache, "padding_cache": padding}
        out = self.encoder(x, use_streaming=True, **caches)
        padding = {f"{i}": leaf for i, leaf in enumerate(out.padding_cache.padding_cache)}
        return out.latents, {"padding": padding, "attention": unpack_cache(cache, len(x))}

    def _paddings(self) -> tuple[int, list, list, list]:
        seanet = self.encoder.encoder_seanet
        convs = [seanet.get_submodule(name) for name in seanet._conv1d_layer_names] + [self.encoder.downsample]
        columns = zip(*((conv.padding_total, conv.pad_mode, conv.in_channels) for conv in convs), strict=True)
        return len(convs), *map(list, columns)


class StockMimiDecoder(StreamingModule):
    """`MimiModel.decoder` with `past_key_values`, which is all the past that it takes."""

    upsample = 1920

    def __init__(self, model: MimiModel) -> None:
        super().__init__()
        self.decoder = model.decoder

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        cache = pack_cache(state, self.decoder.config)
        out = self.decoder(x, use_cache=True, **{cache_argument(self.decoder): cache})
        return out.audio_values, unpack_cache(cache, len(x))


# ---- the table ----


def small_wan() -> AutoencoderKLWan:
    return AutoencoderKLWan(base_dim=8, z_dim=4, num_res_blocks=1, latents_mean=[0.0] * 4, latents_std=[1.0] * 4).eval()


def small_mimi() -> MimiModel:
    config = MimiConfig(
        hidden_size=32,
        num_filters=4,
        num_hidden_layers=2,
        intermediate_size=64,
        num_attention_heads=4,
        num_key_value_heads=4,
        codebook_dim=16,
        vector_quantization_hidden_dimension=16,
        codebook_size=32,
        num_quantizers=4,
        upsample_groups=32,
        sliding_window=8,
        layer_scale_initial_scale=1.0,  # trained size; at its initial 0.01 attention hardly counts
    )
    return MimiModel(config).eval()


def columns_of_the_table() -> dict[str, tuple[nn.Module, Tensor, float]]:
    """Parts by the name of their column, with an example of what they take and its rate in Hz."""
    torch.manual_seed(0)
    wan, mimi = small_wan(), small_mimi()
    video, wan_latents = 0.5 * torch.randn(2, 3, 16, 16, 24), torch.randn(2, 4, 4, 2, 3)
    audio, mimi_latents = 0.3 * torch.randn(2, 1, 4 * 1920), torch.randn(2, 32, 4)
    return {
        "Wan encode": (StockWanEncoder(wan), video, FRAME_RATE),
        "Wan decode": (StockWanDecoder(wan), wan_latents, FRAME_RATE / 4),
        "WanVideoVAE": (WanVideoVAE.from_diffusers(wan), video, FRAME_RATE),
        "Mimi encode": (StockMimiEncoder(mimi), audio, SAMPLE_RATE),
        "Mimi decode": (StockMimiDecoder(mimi), mimi_latents, LATENT_RATE),
        "MimiAudioVAE": (MimiAudioVAE.from_mimi(mimi), audio, SAMPLE_RATE),
    }


def main(arguments: list[str] | None = None) -> None:
    known = columns_of_the_table()
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, help="folder for every certificate as json")
    parser.add_argument("--only", nargs="+", choices=known, default=list(known), help="columns; default all")
    options = parser.parse_args(arguments)
    columns: dict[str, Certificate] = {}
    for name in options.only:
        part, example, rate = known[name]
        columns[name] = certify(part, example, rate=rate, num_partitions=4, num_steps=16)
    laws = list(dict.fromkeys(row.finding.law for certificate in columns.values() for row in certificate.rows))
    print("| law | " + " | ".join(columns) + " |")
    print("|---" * (1 + len(columns)) + "|")
    for law in laws:
        print(f"| {law} | " + " | ".join(cell(certificate, law) for certificate in columns.values()) + " |")
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        for name, certificate in columns.items():
            file = options.out / f"{name.replace(', ', '-').replace(' ', '-').lower()}.json"
            file.write_text(certificate.to_json())


def cell(certificate: Certificate, law: str) -> str:
    """The law in all ways of the part: yes with the largest number, or no with it."""
    findings = [row.finding for row in certificate.rows if row.finding.law == law]
    if not findings:
        return "—"
    numbers = [finding.measured for finding in findings if finding.measured is not None]
    number = f"{max(numbers):.3g} {findings[0].unit}" if numbers else "raises"
    return number if all(finding.passed for finding in findings) else f"**no**: {number}"


if __name__ == "__main__":
    main()
