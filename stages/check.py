"""Stage `check`: params.yaml is right, before anything computes."""

from pathlib import Path

from bayesft.files import write_text
from stages.common import run
from stages.parameters import load


def main() -> None:
    """Check params.yaml."""
    load()
    # Always the same bytes: every stage waits for this file, and none runs again because of it.
    write_text(Path("data/parameters-checked.txt"), "params.yaml is valid\n")


if __name__ == "__main__":
    run(main)
