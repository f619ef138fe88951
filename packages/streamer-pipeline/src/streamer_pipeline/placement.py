"""Where a checkpoint runs and in which numbers, by the names that a command line takes."""

from __future__ import annotations

import torch

from .pipeline import StreamerPipeline

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load_pipeline(checkpoint: str, device: str = "cpu", dtype: str = "float32") -> StreamerPipeline:
    """A checkpoint on a device, in a dtype.

    Args:
        checkpoint: folder, hub id or the bundled checkpoint's name.
        device: "cpu", "cuda", "cuda:1". dtype: one of `DTYPES`.

    Raises:
        ValueError: there is no such device or dtype here, which is said before anything is read; or as
            `StreamerPipeline.from_pretrained`, which also raises OSError.
    """
    place, numbers = find_device(device), find_dtype(dtype)
    return StreamerPipeline.from_pretrained(checkpoint, dtype=numbers).to(place)


def find_device(name: str) -> torch.device:
    """The device of that name, if this machine has it; else ValueError."""
    here = ["cpu"]
    if torch.accelerator.is_available():
        kind = torch.accelerator.current_accelerator().type
        here += [kind, *(f"{kind}:{index}" for index in range(torch.accelerator.device_count()))]
    if name not in here:
        raise ValueError(f"this machine has no device {name!r}; it has {', '.join(here)}")
    return torch.device(name)


def find_dtype(name: str) -> torch.dtype:
    """The dtype of that name, with or without "torch." before it; else ValueError."""
    if (found := DTYPES.get(name.removeprefix("torch."))) is None:
        raise ValueError(f"there is no dtype {name!r} for a checkpoint; there are {', '.join(DTYPES)}")
    return found
