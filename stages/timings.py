"""How long items take: for the table beside a report. Times never repeat, so they are no output and decide nothing."""

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from bayesft.files import read_json, write_text

TIMINGS = Path("data/timings")


def note_times(name: str, seconds: Mapping[str, float], others: bool = False) -> None:
    """Note how long the items of a stage took. One that was found in the store keeps the time that making it took.

    Args:
        name: The stage's name.
        seconds: The time of each item, by its label.
        others: Whether items that are noted already, and not among these, stay.
    """
    file = TIMINGS / f"{name}.json"
    with suppress(ValueError, OSError):
        before = {item: s for item, s in read_json(file).items() if others or item in seconds}
        seconds = {**seconds, **{item: max(s, seconds.get(item, 0)) for item, s in before.items()}}
    write_text(file, json.dumps(seconds, indent=1, sort_keys=True) + "\n")
