"""The global random streams, seeded and given back."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def seed_all(seed: int) -> None:
    """Seed every global random stream: PyTorch's, NumPy's and Python's."""
    torch.default_generator.manual_seed(seed)  # torch.manual_seed is slower: it notes each call for later devices
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)


@contextmanager
def own_random(seed: int) -> Iterator[None]:
    """The global random streams, seeded for the time of the block. On leaving they are where they were."""
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    python, array = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=devices):
            seed_all(seed)
            yield
    finally:
        random.setstate(python)
        np.random.set_state(array)
