"""What the tests of the pipeline share."""

from collections.abc import Iterator

import pytest

from tests.pipeline.clone import Clone


@pytest.fixture
def unchanged(clone: Clone) -> Iterator[None]:
    """Put params.yaml and the code of the module's clone back afterwards."""
    yield
    clone.run("git", "checkout", "-q", ".")
