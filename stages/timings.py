"""How long items take: for the table beside a report. Times never repeat, so they are no output and decide nothing."""

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from bayesft.files import read_json, write_text

TIMINGS = Path("data/timings")


def note_times(name: str, seconds: Mapping[str, tuple[str, float]], others: bool = False) -> None:
    """Note how long the items of a stage took. One that was found in the store keeps the time that making it took.

    Args:
        name: The stage's name.
        seconds: By the label of each item, its fingerprint, which tells it from one of the same label under other
            settings, and its time.
        others: Whether items that are noted already, and not among these, stay.
    """
    file, noted = TIMINGS / f"{name}.json", {label: list(found) for label, found in seconds.items()}
    with suppress(ValueError, OSError, TypeError):
        for label, (item, before) in read_json(file).items():
            if label in noted and noted[label][0] == item:
                noted[label][1] = max(before, noted[label][1])
            elif label not in noted and others:
                noted[label] = [item, before]
    write_text(file, json.dumps(noted, indent=1, sort_keys=True) + "\n")


def times() -> list[tuple[str, str, float]]:
    """What was noted: stage, label of the item, seconds."""
    return [(file.stem, label, seconds) for file in sorted(TIMINGS.glob("*.json"))
            for label, (_, seconds) in read_json(file).items()]  # fmt: skip
