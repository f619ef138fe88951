"""Training with weights split over processes (FSDP2) is training in one process."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).parents[1] / "sharded_training.py"


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Losses and weights of one process with the whole batch, and of two with a half each."""
    found = []
    for num_processes in (1, 2):
        folder = tmp_path_factory.mktemp(f"processes{num_processes}")
        ran = subprocess.run(
            [sys.executable, str(SCRIPT), str(folder), str(num_processes)], capture_output=True, text=True, check=False
        )
        assert ran.returncode == 0, ran.stderr[-3000:]
        found.append(torch.load(folder / "result.pt"))
    return found


def test_two_processes_have_the_loss_curve_of_one(results):
    alone, sharded = (torch.tensor(result["losses"]) for result in results)
    assert len(alone) == 8
    assert alone.std() > 0.01
    torch.testing.assert_close(sharded, alone, rtol=1e-4, atol=1e-5)


def test_and_its_weights_of_which_each_holds_half(results):
    alone, sharded = results
    assert alone["weights"].keys() == sharded["weights"].keys()
    for name, weight in alone["weights"].items():
        torch.testing.assert_close(sharded["weights"][name], weight, rtol=1e-4, atol=1e-4, msg=name)
    assert sharded["own_numbers"] < 0.6 * alone["own_numbers"]
