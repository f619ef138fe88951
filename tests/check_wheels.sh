#!/bin/sh
# Install the four wheels of dist/ into a fresh venv, away from this repo, and use them as a stranger would.
set -eu
python="${1:-python3.11}"
wheelhouse="$(pwd)/dist"
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
"$python" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install -q --disable-pip-version-check --find-links "$wheelhouse" wan-streamer-pipeline
cd "$folder"
venv/bin/wan-streamer inspect
venv/bin/python - <<'PYTHON'
import torch
from streamer_pipeline import StreamerPipeline, UserUnit

session = StreamerPipeline.from_pretrained().open_session(seed=0)
unit = session.step(UserUnit(audio=torch.zeros(1, 3840), video=torch.zeros(3, 4, 192, 336)))
assert unit.audio.shape == (1, 3840) and unit.video.shape == (3, 4, 192, 336)
print("the wheels work:", unit.state)
PYTHON
