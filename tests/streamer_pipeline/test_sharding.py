"""Training in two processes is training in one: weights split over both (FSDP2), or a process on each of two nodes."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).parents[1] / "sharded_training.py"


def run(folder, layout, environments=({},)):
    """What the script wrote, run as one process for each of these additions to the environment."""
    processes = [
        subprocess.Popen(
            [sys.executable, str(SCRIPT), str(folder), layout],
            env=os.environ | environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for environment in environments
    ]
    for process in processes:
        errors = process.communicate()[1]
        assert process.returncode == 0, errors[-3000:]
    return torch.load(folder / "result.pt")


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Losses and weights of one process with the whole batch."""
    return run(tmp_path_factory.mktemp("alone"), "alone")


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """The same of two processes with half the batch and half the weights each."""
    return run(tmp_path_factory.mktemp("shards"), "shards")


@pytest.fixture(scope="module")
def nodes(tmp_path_factory):
    """The same of two nodes with half the batch each; both processes have the local rank 0."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "LOCAL_RANK": "0"}
    return run(tmp_path_factory.mktemp("nodes"), "nodes", [shared | {"NODE_RANK": rank} for rank in "01"])


def assert_same_training(one, other):
    losses, expected = (torch.tensor(result["losses"]) for result in (one, other))
    assert len(expected) == 8
    assert expected.std() > 0.01
    torch.testing.assert_close(losses, expected, rtol=1e-4, atol=1e-5)
    assert one["weights"].keys() == other["weights"].keys()
    for name, weight in other["weights"].items():
        torch.testing.assert_close(one["weights"][name], weight, rtol=1e-4, atol=1e-4, msg=name)


def test_two_processes_train_as_one_and_each_holds_half_of_the_weights(alone, shards):
    """Though the rows of one process have other numbers of words and units that count."""
    assert_same_training(shards["stage2"], alone["stage2"])
    assert shards["stage2"]["own_numbers"] < 0.6 * alone["stage2"]["own_numbers"]


@pytest.mark.parametrize("stage", ["stage2", "stage3"])
def test_two_nodes_train_as_one_process(alone, nodes, stage):
    """Each draws its own rows, of which one has other numbers of words and units that count."""
    assert_same_training(nodes[stage], alone[stage])
