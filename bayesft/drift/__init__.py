"""Fault models of weights and activations, and Monte-Carlo estimates over drifted copies of a network."""

from bayesft.drift.copies import drifted_parameters, select
from bayesft.drift.faults import FAULT_MODELS, FaultModel, LogNormalDrift, fault_model
from bayesft.drift.features import FEATURE_FAULTS, FeatureFault, any_fault, struck
from bayesft.drift.montecarlo import monte_carlo, monte_carlo_grid
from bayesft.drift.passes import faulty_outputs, under_fault
from bayesft.drift.scope import scoped

__all__ = [
    "FAULT_MODELS", "FEATURE_FAULTS", "FaultModel", "FeatureFault", "LogNormalDrift", "any_fault", "drifted_parameters",
    "fault_model", "faulty_outputs", "monte_carlo", "monte_carlo_grid", "scoped", "select", "struck", "under_fault",
]  # fmt: skip
