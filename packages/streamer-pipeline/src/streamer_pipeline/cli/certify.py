"""`wan-streamer certify`: examine parts under the laws of the streaming contract."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from ..checkpoints import BUNDLED
from .options import Device, Dtype, Threads, check_file, console, in_a_sentence, say, use_threads


def certify(
    path_or_id: Annotated[str, typer.Argument(help="folder or hub id of a part or a whole pipeline")] = BUNDLED,
    out: Annotated[Path, typer.Option(help="file for all certificates")] = Path("certificate.json"),
    height: Annotated[int, typer.Option(min=2, help="of the pictures that parts are examined on")] = 96,
    width: Annotated[int, typer.Option(min=2, help="of the pictures that parts are examined on")] = 144,
    package: Annotated[str | None, typer.Option(help="package that defines a stranger's class; imported first")] = None,
    device: Device = "cpu",
    dtype: Dtype = "float32",
    threads: Threads = 0,
) -> None:
    """Examine every streaming part under the laws of the contract; exit with 1 if one is broken."""
    with in_a_sentence():
        check_file(out)
        use_threads(threads)
        from ..checks.certification import certificate_table, certify_checkpoint

        certificates = certify_checkpoint(path_or_id, (height, width), package, device, dtype)
        document = {name: json.loads(certificate.to_json()) for name, certificate in certificates.items()}
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
        for name, certificate in certificates.items():
            console.print(certificate_table(name, certificate))
        say(f"written to {out}")
        broken = [f"{name}: {', '.join(sorted(c.broken))}" for name, c in certificates.items() if not c.passed]
        if broken:
            raise ValueError("the contract is broken. " + "; ".join(broken))
