"""Fault models of analog weights, and Monte-Carlo estimates over drifted copies of a network."""

from bayesft.drift.faults import FAULT_MODELS, FaultModel, LogNormalDrift, fault_model
from bayesft.drift.montecarlo import drifted_parameters, drifting, monte_carlo, monte_carlo_grid
from bayesft.drift.scope import scoped

__all__ = [
    "FAULT_MODELS", "FaultModel", "LogNormalDrift", "drifted_parameters", "drifting", "fault_model", "monte_carlo",
    "monte_carlo_grid", "scoped",
]  # fmt: skip
