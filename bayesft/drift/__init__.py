"""Fault models of analog weights, and Monte-Carlo estimates over drifted copies of a network."""

from bayesft.drift.faults import FAULT_MODELS, FaultModel, LogNormalDrift
from bayesft.drift.montecarlo import drifted_parameters, monte_carlo

__all__ = ["FAULT_MODELS", "FaultModel", "LogNormalDrift", "drifted_parameters", "monte_carlo"]
