"""What every test shares: the project's root, one thread, no window, a still generator."""
import os
from pathlib import Path

os.environ.setdefault('MPLBACKEND', 'agg')
os.environ.setdefault('OMP_NUM_THREADS', '1')

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
torch.set_num_threads(1)


@pytest.fixture(scope='session')
def root() -> Path:
    "The folder that holds settings.ini."
    return ROOT


@pytest.fixture(autouse=True)
def seeded():
    "The global generator is at the same place for every test, whatever ran before and in whatever order."
    torch.manual_seed(0)
