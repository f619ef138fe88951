"""What `wan-streamer serve` does."""

from __future__ import annotations

import logging
import secrets
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.logging import RichHandler

from ..hub.placement import load_pipeline
from ..units import UNIT_MS
from .app import run
from .listening import check_certificate, listen
from .options import ServeOptions, is_loopback
from .server import LiveServer


def serve(
    checkpoint: str,
    options: dict[str, Any],
    certificate: Path | None,
    key: Path | None,
    console: Console,
    device: str = "cpu",
    dtype: str = "float32",
) -> None:
    """Check everything that can be checked, load, measure, say where the page is, and serve until interrupted.

    Raises:
        ValueError, OSError: an option or the checkpoint is not usable.
    """
    if not options["token"] and not is_loopback(options["host"]):
        options = {**options, "token": secrets.token_urlsafe(16)}
    checked = ServeOptions(**options)
    check_certificate(certificate, key)
    with ExitStack() as opened:
        sockets = [opened.enter_context(each) for each in listen(checked.host, checked.port)]
        if checked.record is not None:
            checked.record.mkdir(parents=True, exist_ok=True)
        server = LiveServer(load_pipeline(checkpoint, device, dtype), checked)
        _introduce(server, "https" if certificate else "http", console)
        logging.basicConfig(
            format="%(message)s", datefmt="%X", handlers=[RichHandler(console=console, show_path=False)]
        )
        logging.getLogger("streamer_pipeline").setLevel(logging.INFO)
        run(server, certificate, key, sockets)


def _introduce(server: LiveServer, scheme: str, console: Console) -> None:
    options, capacity = server.options, server.capacity
    host = "localhost" if is_loopback(options.host) else options.host
    fragment = f"#token={options.token}" if options.token else ""
    console.print(f"talk at [bold]{scheme}://{host}:{options.port}/{fragment}[/bold]", highlight=False)
    console.print(
        f"up to {capacity.num_sessions} at once ({capacity.reason}); a unit takes {capacity.unit_ms[0]:.0f} of its "
        f"{UNIT_MS} ms, a session {capacity.session_nbytes / 2**20:.1f} MiB",
        highlight=False,
    )
    if not capacity.is_real_time:
        console.print(
            "[yellow]note:[/yellow] this machine is too slow or too busy for this checkpoint now: the agent will "
            "stutter; fewer solver steps (--steps 1) may help",
            highlight=False,
        )
    if options.record is not None:
        console.print(f"conversations whose user consents are recorded in {options.record}", highlight=False)
