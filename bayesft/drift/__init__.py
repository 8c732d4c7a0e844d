"""Fault models of analog weights, and Monte-Carlo estimates over drifted copies of a network."""

from bayesft.drift.faults import FAULT_MODELS, FaultModel, LogNormalDrift
from bayesft.drift.montecarlo import drifted_parameters, drifting, monte_carlo, monte_carlo_grid

__all__ = [
    "FAULT_MODELS",
    "FaultModel",
    "LogNormalDrift",
    "drifted_parameters",
    "drifting",
    "monte_carlo",
    "monte_carlo_grid",
]
