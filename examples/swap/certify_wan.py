"""Where diffusers' Wan VAE stands under the streaming contract, as it is and as `WanVideoVAE`.

    python examples/swap/certify_wan.py  # prints a markdown table, in a minute

The model is small and has random weights: the laws are about code, not about what was learned. "As it is" uses what
the library offers between two calls, which is nothing. `WanVideoVAE` is the same weights with a state that goes in and
comes out. As it is, the VAE gives one frame for its first latent, so by the contract's clock its later frames come
early, which the look-ahead shows.
"""

from pathlib import Path
from typing import Annotated

import torch
import typer
from causal_vae import State, StreamingModule, WanVideoVAE, compare_parts
from diffusers import AutoencoderKLWan
from torch import Tensor

FRAME_RATE, LATENT_RATE = 25.0, 6.25


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


def small_wan() -> AutoencoderKLWan:
    return AutoencoderKLWan(base_dim=8, z_dim=4, num_res_blocks=1, latents_mean=[0.0] * 4, latents_std=[1.0] * 4).eval()


def main(out: Annotated[Path | None, typer.Option(help="folder for every certificate as JSON")] = None) -> None:
    torch.manual_seed(0)
    vae = small_wan()
    video, latents = 0.5 * torch.randn(2, 3, 16, 16, 24), torch.randn(2, 4, 4, 2, 3)
    parts = {
        "Wan encode": (StockWanEncoder(vae), video, FRAME_RATE),
        "Wan decode": (StockWanDecoder(vae), latents, LATENT_RATE),
        "WanVideoVAE": (WanVideoVAE.from_diffusers(vae), video, FRAME_RATE),
    }
    print(compare_parts(parts, out, num_partitions=4, num_steps=16))


if __name__ == "__main__":
    typer.run(main)
