"""`wan-streamer serve`: the agent, live."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..checkpoints import BUNDLED, SUGGESTIONS
from .options import (
    Checkpoint,
    Device,
    Dtype,
    Threads,
    check_folder,
    console,
    finite,
    in_a_sentence,
    needs_extra,
    use_threads,
)


def serve(
    checkpoint: Checkpoint = BUNDLED,
    host: Annotated[str, typer.Option(help="address to listen on; any but loopback needs a token")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8080,
    max_sessions: Annotated[int, typer.Option(min=1, help="conversations at once, if speed and memory allow")] = 1,
    memory: Annotated[float, typer.Option(min=0, callback=finite, help="GiB that all conversations may take")] = 4.0,
    token: Annotated[
        str | None, typer.Option(envvar="WAN_STREAMER_TOKEN", help="what clients must send; made up if one is needed")
    ] = None,
    origin: Annotated[list[str] | None, typer.Option(help="origin of other pages that may call")] = None,
    ice_server: Annotated[
        list[str] | None,
        typer.Option(
            envvar="WAN_STREAMER_ICE_SERVER",
            help="stun:HOST:PORT or turn:USER:SECRET@HOST:PORT, for other networks; several",
        ),
    ] = None,
    resume_seconds: Annotated[float, typer.Option(min=0, callback=finite, help="wait for a lost client")] = 30.0,
    suggest: Annotated[list[str] | None, typer.Option(help="what a user could say, for the page; several")] = None,
    record: Annotated[Path | None, typer.Option(help="folder for conversations whose user consents")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="solver steps; default the checkpoint's own")] = None,
    seed: Annotated[int, typer.Option(help="of all noise")] = 0,
    minutes: Annotated[float, typer.Option(min=0.1, callback=finite, help="length of a conversation")] = 30.0,
    certificate: Annotated[Path | None, typer.Option(help="PEM file, for HTTPS", exists=True)] = None,
    key: Annotated[Path | None, typer.Option(help="PEM file of the certificate's key", exists=True)] = None,
    device: Device = "cpu",
    dtype: Dtype = "float32",
    threads: Threads = 0,
) -> None:
    """Open a page to talk to the agent live, by camera and microphone.

    Needs the extra `serve` of wan-streamer-pipeline.
    """
    options = {
        "host": host,
        "port": port,
        "max_sessions": max_sessions,
        "memory_gib": memory,
        "token": token,
        "origins": tuple(origin or ()),
        "suggestions": tuple(suggest or (SUGGESTIONS if checkpoint == BUNDLED else ())),
        "resume_seconds": resume_seconds,
        "record": record,
        "num_inference_steps": steps,
        "seed": seed,
        "max_seconds": 60 * minutes,
    }
    with in_a_sentence():
        if record is not None:
            check_folder(record)
        use_threads(threads)
        with needs_extra("serve"):
            from ..serve import command
            from ..serve.ice import IceServer
        options["ice_servers"] = tuple(IceServer.parse(each) for each in ice_server or ())
        command.serve(checkpoint, options, certificate, key, console, device, dtype)
