"""One thread for every test and every process it starts: the number of threads decides how sums are rounded."""

import os

import pytest
import torch

os.environ["OMP_NUM_THREADS"] = "1"


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(1)
