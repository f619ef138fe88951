"""Where a checkpoint runs and in which numbers, by the names that a command line takes."""

from __future__ import annotations

import torch

from ..pipeline import StreamerPipeline

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load_pipeline(checkpoint: str, device: str = "cpu", dtype: str = "float32") -> StreamerPipeline:
    """A checkpoint on a device, in a dtype.

    Args:
        checkpoint: folder, hub id or the bundled checkpoint's name.
        device, dtype: as for `find_place`.

    Raises:
        ValueError: of `find_place`, before anything is read; or as `StreamerPipeline.from_pretrained`, which also
            raises OSError.
    """
    place, numbers = find_place(device, dtype)
    return StreamerPipeline.from_pretrained(checkpoint, dtype=numbers).to(place)


def find_place(device: str, dtype: str) -> tuple[torch.device, torch.dtype]:
    """The device and the dtype of these names.

    Args:
        device: "cpu", "cuda", "cuda:1". dtype: one of `DTYPES`, with or without "torch." before it.

    Raises:
        ValueError: this machine has no such device, or no such dtype on it.
    """
    here = ["cpu"]
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if accelerator is not None:
        kind = accelerator.type
        here += [kind, *(f"{kind}:{index}" for index in range(torch.accelerator.device_count()))]
    if device not in here:
        raise ValueError(f"this machine has no device {device!r}; it has {', '.join(here)}")
    if (numbers := DTYPES.get(dtype.removeprefix("torch."))) is None:
        raise ValueError(f"there is no dtype {dtype!r} for a checkpoint; there are {', '.join(DTYPES)}")
    if device == "cpu" and numbers == torch.float16:
        raise ValueError("float16 is for accelerators: on a cpu take float32, or bfloat16 where the processor has it")
    return torch.device(device), numbers
