"""What all tests share."""

import stages  # noqa: F401 (before PyTorch: the tests use the instructions that a run uses)

# isort: split
import sys
from collections.abc import Iterator

import pytest
import torch
from threadpoolctl import threadpool_limits


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """One thread: the products here are small, and threads on a busy machine wait for one another."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with threadpool_limits(1):
        yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def no_figure_left() -> Iterator[None]:
    """A figure that a test has drawn is closed, so that no other test finds it."""
    yield
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")


def pytest_collection_modifyitems(config, items):
    """The fast tests first, then the slow ones, then those that run the pipeline.

    Where several processes share the tests, the longest are begun first, so that none is left alone at the end.
    """
    side_by_side = hasattr(config, "workerinput")
    items.sort(
        key=lambda item: [item.get_closest_marker(name) is not None for name in ("pipeline", "slow")],
        reverse=side_by_side,
    )
