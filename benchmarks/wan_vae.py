"""One live unit through Wan's video VAE: WanVideoVAE against diffusers' AutoencoderKLWan with the same weights.

python benchmarks/wan_vae.py [--num-units 7] [--num-threads 1]

diffusers codes whole clips, latent frame by latent frame, over a cache on the module: its cost per unit is that of one
turn of the loop in its own `encode` and `decode`. Both sides see the same units of one clip, in turn, in one process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Annotated, Any

import torch
import typer
from causal_vae import WanVideoVAE
from diffusers import AutoencoderKLWan
from harness import alternate, median, ratio
from rich.console import Console
from rich.table import Table
from torch import Tensor

BASE_DIMS = (16, 32)
HEIGHT, WIDTH = 192, 336
WARM_UP = 1


class Stream:
    """Codes the next unit at each call and keeps what came out."""

    def __init__(self, step: Callable[[Tensor], Tensor], units: Iterator[Tensor]) -> None:
        self.step, self.units, self.outputs = step, iter(units), []

    def __call__(self) -> None:
        self.outputs.append(self.step(next(self.units)))


def rows(num_units: int = 7, base_dims: tuple[int, ...] = BASE_DIMS, size: tuple[int, int] = (HEIGHT, WIDTH)) -> list:
    """Median milliseconds per unit, float32, random weights.

    Args:
        num_units: measured units per row; one more, at the start, is not measured.
        base_dims: widths of the VAE; Wan 2.1's own is 96.
        size: height and width in pixels, multiples of 8.

    Returns:
        A dict per direction and width: name, ours_ms, theirs_ms, ratio (median over units of theirs / ours) and
        max_difference of the outputs: raw latents, and pixels in [-1, 1].
    """
    found = []
    for base_dim in base_dims:
        torch.manual_seed(0)
        theirs = AutoencoderKLWan(base_dim=base_dim).eval()
        ours = WanVideoVAE.from_diffusers(theirs)
        for direction, prepare in (("encode", encode_streams), ("decode", decode_streams)):
            with torch.inference_mode():
                sides = prepare(theirs, ours, WARM_UP + num_units, size)
            times = alternate(sides, num_units, WARM_UP)
            outputs = [torch.cat(side.outputs, dim=2) for side in sides.values()]
            found.append(
                {
                    "name": f"{direction}, base_dim {base_dim}",
                    "ours_ms": median(times["ours"]),
                    "theirs_ms": median(times["theirs"]),
                    "ratio": round(ratio(times["theirs"], times["ours"]), 2),
                    "max_difference": (outputs[0] - outputs[1]).abs().max().item(),
                }
            )
    return found


def encode_streams(
    theirs: AutoencoderKLWan, ours: WanVideoVAE, num_units: int, size: tuple[int, int]
) -> dict[str, Stream]:
    frame, *units = (torch.rand(1, 3, 1 + 4 * num_units, *size) * 2 - 1).split([1] + [4] * num_units, dim=2)
    theirs.clear_cache()
    cache: dict[str, Any] = {"theirs": theirs._enc_feat_map, "ours": ours.prefill_encode(frame)[1]}
    theirs.encoder(frame, feat_cache=cache["theirs"], feat_idx=[0])

    def their_step(unit: Tensor) -> Tensor:
        return theirs.quant_conv(theirs.encoder(unit, feat_cache=cache["theirs"], feat_idx=[0])).chunk(2, dim=1)[0]

    def our_step(unit: Tensor) -> Tensor:
        posterior, cache["ours"] = ours.encode(unit, cache["ours"])
        return ours.latent_norm.restore(posterior.mean)

    return {"ours": Stream(our_step, units), "theirs": Stream(their_step, units)}


def decode_streams(
    theirs: AutoencoderKLWan, ours: WanVideoVAE, num_units: int, size: tuple[int, int]
) -> dict[str, Stream]:
    shape = 1, ours.config.z_dim, 1 + num_units, *(side // ours.spatial_stride for side in size)
    latent, *units = torch.randn(shape).split(1, dim=2)
    theirs.clear_cache()
    cache: dict[str, Any] = {"theirs": theirs._feat_map, "ours": ours.prefill_decode(latent)[1]}

    def their_step(unit: Tensor, first: bool = False) -> Tensor:
        raw = theirs.post_quant_conv(ours.latent_norm.restore(unit))
        return theirs.decoder(raw, feat_cache=cache["theirs"], feat_idx=[0], first_chunk=first).clamp(-1, 1)

    def our_step(unit: Tensor) -> Tensor:
        video, cache["ours"] = ours.decode(unit, cache["ours"])
        return video

    their_step(latent, first=True)
    return {"ours": Stream(our_step, units), "theirs": Stream(their_step, units)}


def main(
    num_units: Annotated[int, typer.Option(help="Measured units per row.")] = 7,
    num_threads: Annotated[int, typer.Option(help="Threads of torch.")] = 1,
) -> None:
    torch.set_num_threads(num_threads)
    table = Table(title=f"Wan VAE, one unit of 4 x {HEIGHT} x {WIDTH}, float32, {num_threads} thread(s)")
    for heading in ("", "ours, ms", "diffusers, ms", "ratio", "max difference"):
        table.add_column(heading, justify="right")
    for row in rows(num_units):
        table.add_row(
            row["name"],
            f"{row['ours_ms']:.0f}",
            f"{row['theirs_ms']:.0f}",
            f"{row['ratio']:.2f}",
            f"{row['max_difference']:.1e}",
        )
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
