"""`python -m streamer_pipeline` is `wan-streamer`."""

from .cli import app

app()
