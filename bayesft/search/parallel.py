"""Trials side by side: the processes are joblib's, so any of its backends does (loky, Ray)."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import joblib

Job = tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]  # a call, as `joblib.delayed` gives it


@contextmanager
def workers(batch: int, n_jobs: int | None) -> Iterator[Callable[[list[Job]], Iterable[Any]]]:
    """What runs the jobs of a batch, and gives their results in order, each as soon as those before it are there.

    Args:
        batch: The number of jobs of a batch. One at a time runs in this process.
        n_jobs: The number of processes. None: as `joblib.parallel_config` says.
    """
    if batch == 1:
        yield lambda jobs: (call(*arguments, **named) for call, arguments, named in jobs)
        return
    try:
        parallel = joblib.Parallel(n_jobs, return_as="generator")
    except ValueError:  # Ray's backend hands over the whole batch at once
        parallel = joblib.Parallel(n_jobs)
    with parallel:  # the same processes for all batches
        yield parallel
