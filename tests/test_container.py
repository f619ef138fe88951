"""The steps of the container's recipe, run in a fresh Debian: no container engine is needed for that, or used."""

import json
import os
import shlex
import shutil
import socket
import subprocess
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.request import urlopen

import pytest

ROOT = Path(__file__).parents[1]
PYPI = "https://pypi.org/simple"
# What makes this machine's registries reachable has to be there, too.
HOSTS_OWN = ("/etc/resolv.conf", "/etc/hosts", "/etc/ssl/certs/ca-certificates.crt")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("debootstrap") is None, reason="debootstrap is not installed: apt-get install it"),
    pytest.mark.skipif(os.geteuid() != 0, reason="only root may make a root of its own"),
]


def recipe() -> list[tuple[str, str]]:
    """(instruction, argument) pairs of the Containerfile."""
    lines = (ROOT / "Containerfile").read_text(encoding="utf-8").splitlines()
    return [tuple(line.split(" ", 1)) for line in lines if line and not line.startswith("#")]


def test_every_instruction_of_the_recipe_runs_and_the_server_answers(tmp_path):
    root, variables = tmp_path / "root", {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
    variables |= {name: value for name, value in os.environ.items() if name.startswith(("PIP_", "SSL_CERT", "http"))}
    user, entry = "root", []
    for instruction, argument in recipe():
        match instruction:
            case "FROM":
                suite = argument.split(":")[1].removesuffix("-slim")
                subprocess.run(["debootstrap", "--variant=minbase", suite, root], check=True)
            case "RUN":
                for path in filter(os.path.exists, HOSTS_OWN):
                    (root / path[1:]).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy(path, root / path[1:])
                subprocess.run(["chroot", root, "/bin/sh", "-c", argument], env=variables, check=True)
            case "COPY":
                source, target = argument.split()
                ignored = shutil.ignore_patterns("__pycache__", "dist", "*.egg-info")
                shutil.copytree(ROOT / source, root / target[1:], ignore=ignored)
            case "ARG":
                variables["TORCH_INDEX"] = PYPI  # argument of the recipe; PyTorch's own index may not be reachable
            case "ENV":
                variables |= dict([argument.split("=", 1)])
            case "USER":
                user = argument
            case "ENTRYPOINT":
                entry = json.loads(argument)
            case _:
                assert instruction == "EXPOSE"
    with kernel_of_this_machine(root):
        answer_within(600, ["chroot", f"--userspec={user}", str(root), *entry], variables | {"HOME": f"/home/{user}"})
    shutil.rmtree(root)  # some GB, which pytest would keep


@contextmanager
def kernel_of_this_machine(root: Path):
    """/proc and /dev, which every container has."""
    with ExitStack() as mounted:
        for name in ("proc", "dev"):
            subprocess.run(["mount", "--bind", f"/{name}", root / name], check=True)
            mounted.callback(subprocess.run, ["umount", "--lazy", root / name], check=True)
        yield


def answer_within(seconds: float, command: list[str], variables: dict[str, str]) -> None:
    """Start the server on a free port of this machine, ask how it is, and end it."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = subprocess.Popen([*command, "--port", str(port)], env=variables | {"WAN_STREAMER_TOKEN": "secret"})
    try:
        for _ in range(round(seconds)):
            assert server.poll() is None, shlex.join(command)
            try:
                with urlopen(f"http://127.0.0.1:{port}/healthz") as answer:
                    assert json.load(answer)["status"] == "ok"
                return
            except OSError:
                time.sleep(1)
        raise AssertionError("the server did not answer")
    finally:
        server.terminate()
        server.wait(60)
