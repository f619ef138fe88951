"""Code in a process of its own: what only shows where nothing is imported or cached yet."""

import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).parent


def run_python(code: str, env: dict[str, str] | None = None, *arguments: object) -> None:
    """Run code that finds the tests' own modules, and the arguments as sys.argv[1:]; fails with what it wrote."""
    setup = "import sys; sys.path[:0] = sys.argv[1:3]; del sys.argv[1:3]\n"
    command = [sys.executable, "-c", setup + code, TESTS, TESTS / "streamer_pipeline", *arguments]
    done = subprocess.run(list(map(str, command)), env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
