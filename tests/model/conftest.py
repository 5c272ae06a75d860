"""Sizes here are tiny: one thread is fastest, and leaves the other cores to other tests."""

import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    torch.set_num_threads(1)
