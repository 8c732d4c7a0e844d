"""The rows of the report that these tests speak of."""

from collections.abc import Mapping

from bayesft.report.results import TaskResults
from bayesft.report.rows import rows_of

PLAIN = {"normalization": None}
DEVICE_ROW = "erm-programmed"  # what ReRAM-V leaves beside its own row
OTHERS = {  # rows that are not named like their method
    "erm-no-norm": {"method": "erm", "network": PLAIN},
    "bayesft-alg1": {"method": "algorithm1"},
    "bayesft-no-norm": {"method": "bayesft", "network": PLAIN},
}
NAMES = ("erm", "erm-no-norm", "ftna", "reram_v", "awp", "awp-tuned", "drift_aware", "drift_aware-tuned", "uniform",
         "uniform-tuned", "random", "bayesft-alg1", "bayesft", "bayesft-no-norm", "drift_dropout",
         "drift_dropout-tuned")  # fmt: skip
PLAIN_ROWS = {n: {"method": n.removesuffix("-tuned"), "tuned": n.endswith("-tuned"), "network": {}} for n in NAMES}
SHOWN = rows_of({name: {**entry, **OTHERS.get(name, {})} for name, entry in PLAIN_ROWS.items()})
ROWS = {name: row.title for name, row in SHOWN.items()}
TUNED = "-tuned"
LOOKS = {name: row.look for name, row in SHOWN.items() if not row.tuned}


def gather(files: Mapping[int, dict]) -> TaskResults:
    """The results of files, with these rows shown."""
    return TaskResults.gather(files, SHOWN)
