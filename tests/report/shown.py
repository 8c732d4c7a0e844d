"""The rows of the report that these tests speak of."""

from collections.abc import Mapping

from bayesft.report.results import TaskResults
from bayesft.report.rows import Row

PLAIN = {"normalization": None}
DEVICE_ROW = "erm-programmed"  # what ReRAM-V leaves beside its own row
SHOWN = {
    row.name: row
    for row in (
        Row("erm", "erm"),
        Row("erm-no-norm", "erm", network=PLAIN),
        Row("ftna", "ftna"),
        Row("reram_v", "reram_v"),
        Row("awp", "awp"),
        Row("awp-tuned", "awp", tuned=True),
        Row("drift_aware", "drift_aware"),
        Row("drift_aware-tuned", "drift_aware", tuned=True),
        Row("uniform", "uniform"),
        Row("uniform-tuned", "uniform", tuned=True),
        Row("random", "random"),
        Row("bayesft-alg1", "algorithm1"),
        Row("bayesft", "bayesft"),
        Row("bayesft-tuned", "bayesft", tuned=True),
        Row("bayesft-no-norm", "bayesft", network=PLAIN),
        Row("drift_dropout", "drift_dropout"),
        Row("drift_dropout-tuned", "drift_dropout", tuned=True),
    )
}
ROWS = {name: row.title for name, row in SHOWN.items()}
TUNED = "-tuned"
LOOKS = {name: row.look for name, row in SHOWN.items() if not row.tuned}


def gather(files: Mapping[int, dict]) -> TaskResults:
    """The results of files, with these rows shown."""
    return TaskResults.gather(files, SHOWN)
