"""Where transformers' Mimi stands under the streaming contract, as it is and as `MimiAudioVAE`.

    python examples/swap/certify_mimi.py  # prints a markdown table, in a minute

The model is small and has random weights: the laws are about code, not about what was learned. "As it is" uses what
the library offers between two calls: Mimi's own caches, and nothing for its decoder's convolutions. `MimiAudioVAE` is
the same weights with a state that goes in and comes out. Mimi's caches know their age as a Python number, one for the
whole batch; here it is stored in the state and read back, which is also where tracing one graph ends.
"""

from inspect import signature
from pathlib import Path
from typing import Annotated

import torch
import typer
from causal_vae import MimiAudioVAE, State, StreamingModule, compare_parts
from torch import Tensor, nn
from transformers import DynamicCache, MimiConfig, MimiModel
from transformers.models.mimi.modeling_mimi import MimiConv1dPaddingCache

SAMPLE_RATE, LATENT_RATE = 24_000.0, 12.5


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


def small_mimi() -> MimiModel:
    sizes = {"hidden_size": 32, "num_filters": 4, "num_hidden_layers": 2, "intermediate_size": 64, "sliding_window": 8}
    sizes |= {"num_attention_heads": 4, "num_key_value_heads": 4, "upsample_groups": 32}
    sizes |= {"codebook_dim": 16, "codebook_size": 32, "num_quantizers": 4, "vector_quantization_hidden_dimension": 16}
    config = MimiConfig(**sizes, layer_scale_initial_scale=1.0)  # trained size; at 0.01 attention hardly counts
    return MimiModel(config).eval()


def main(out: Annotated[Path | None, typer.Option(help="folder for every certificate as JSON")] = None) -> None:
    torch.manual_seed(0)
    model = small_mimi()
    audio, latents = 0.3 * torch.randn(2, 1, 4 * 1920), torch.randn(2, 32, 4)
    parts = {
        "Mimi encode": (StockMimiEncoder(model), audio, SAMPLE_RATE),
        "Mimi decode": (StockMimiDecoder(model), latents, LATENT_RATE),
        "MimiAudioVAE": (MimiAudioVAE.from_mimi(model), audio, SAMPLE_RATE),
    }
    print(compare_parts(parts, out, num_partitions=4, num_steps=16))


if __name__ == "__main__":
    typer.run(main)
