"""Early stopping: a trial ends half-way when it does worse there than half of the finished trials did."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bayesft.search.objective import Estimate
from bayesft.settings import SearchSettings

if TYPE_CHECKING:
    from bayesft.search.trial import Trial

LEAST = 3  # finished trials before a trial may be stopped


@dataclass(frozen=True)
class EarlyStop:
    """What the finished trials had reached after half of their epochs, and what they gained from there to the end."""

    reached: tuple[float, ...]
    gained: tuple[float, ...]

    @classmethod
    def after(cls, trials: Sequence["Trial"], settings: SearchSettings) -> "EarlyStop | None":
        """The rule after `trials`, or None where the settings do not stop early."""
        if not settings.stop_early:
            return None
        finished = [
            (trial.halfway, trial.objective)
            for trial in trials
            if not trial.stopped and not trial.failed and trial.halfway is not None
        ]
        return cls(
            tuple(halfway for halfway, _ in finished),
            tuple(end - halfway for halfway, end in finished),
        )

    def stops(self, halfway: Estimate) -> bool:
        """Whether a trial is worse than half of the finished ones by more than two standard errors."""
        enough = len(self.reached) >= LEAST
        return enough and halfway.mean + 2 * halfway.standard_error < float(np.median(self.reached))

    def predicted(self, halfway: Estimate) -> Estimate:
        """The objective that a stopped trial would have had with the average gain, and the error of that."""
        error = np.hypot(halfway.standard_error, np.std(self.gained, ddof=1))
        return Estimate(halfway.mean + float(np.mean(self.gained)), float(error))
