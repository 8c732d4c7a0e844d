"""Neural networks that tolerate faults of analog weights: measure, compare and harden any network.

The names below are loaded when they are first used. CONTRIBUTING.md says which subpackage imports which.
"""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bayesft.calibration import calibrate, calibration_reference
    from bayesft.drift.faults import (
        Composite,
        DeviceToDevice,
        FaultModel,
        Float32BitFlips,
        GaussianNoise,
        Int8BitFlips,
        LogNormalDrift,
        PhaseChangeMemory,
        Quantise,
        ReramWan2022,
        Retention,
        StuckBits,
        StuckCells,
    )
    from bayesft.hardening.comparison import compare
    from bayesft.hardening.harden import harden
    from bayesft.hardening.measure import evaluate
    from bayesft.hardening.robustness import Robustness
    from bayesft.hardening.sensitivity import sensitivity
    from bayesft.hardening.sites import find_sites
    from bayesft.hardening.step import Hardening
    from bayesft.hardening.tuning import tune

_FAULTS = (
    "Composite", "DeviceToDevice", "FaultModel", "Float32BitFlips", "GaussianNoise", "Int8BitFlips", "LogNormalDrift",
    "PhaseChangeMemory", "Quantise", "ReramWan2022", "Retention", "StuckBits", "StuckCells",
)  # fmt: skip
_WHERE = {
    "evaluate": "bayesft.hardening.measure",
    "compare": "bayesft.hardening.comparison",
    "Hardening": "bayesft.hardening.step",
    "tune": "bayesft.hardening.tuning",
    "harden": "bayesft.hardening.harden",
    "calibrate": "bayesft.calibration",
    "calibration_reference": "bayesft.calibration",
    "find_sites": "bayesft.hardening.sites",
    "sensitivity": "bayesft.hardening.sensitivity",
    "Robustness": "bayesft.hardening.robustness",
    **dict.fromkeys(_FAULTS, "bayesft.drift.faults"),
}

__all__ = [
    "evaluate", "compare", "Hardening", "tune", "harden", "calibrate", "calibration_reference", "find_sites",
    "sensitivity", "Robustness", "Composite", "DeviceToDevice", "FaultModel", "Float32BitFlips", "GaussianNoise",
    "Int8BitFlips", "LogNormalDrift", "PhaseChangeMemory", "Quantise", "ReramWan2022", "Retention", "StuckBits",
    "StuckCells", "__version__",
]  # fmt: skip

try:
    __version__ = version("bayesft")
except PackageNotFoundError:  # a checkout that is not installed
    __version__ = "0+unknown"


def __getattr__(name: str) -> Any:
    """The public name, from the module that defines it."""
    if name not in _WHERE:
        raise AttributeError(f"module 'bayesft' has no attribute {name!r}")
    return getattr(import_module(_WHERE[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
