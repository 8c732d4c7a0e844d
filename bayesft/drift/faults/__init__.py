"""Fault models: what a device does to a stored parameter, one short file for each family.

To add one, put a file here, or a class anywhere, with `@register("name")` above a class with `traits` and `faulty`
(a `WeightFault`) or `cells` (a `CellFault`). Every file of this folder is read.
"""

import pkgutil
from importlib import import_module

from bayesft.drift.faults.bits import Float32BitFlips, Int8BitFlips, StuckBits
from bayesft.drift.faults.composite import Composite
from bayesft.drift.faults.device import DeviceToDevice
from bayesft.drift.faults.gaussian import GaussianNoise
from bayesft.drift.faults.interface import (
    CellFault,
    FaultModel,
    Traits,
    WeightFault,
    check_fault_level,
    check_trains,
    default_level,
    drawn,
    traits_of,
)
from bayesft.drift.faults.lognormal import LogNormalDrift
from bayesft.drift.faults.pcm import PhaseChangeMemory
from bayesft.drift.faults.quantise import Quantise
from bayesft.drift.faults.registry import FAULT_MODELS, fault_model, register
from bayesft.drift.faults.reram import ReramWan2022
from bayesft.drift.faults.retention import Retention
from bayesft.drift.faults.stuck import StuckCells

__all__ = [
    "FAULT_MODELS", "CellFault", "Composite", "DeviceToDevice", "FaultModel", "Float32BitFlips", "GaussianNoise",
    "Int8BitFlips", "LogNormalDrift", "PhaseChangeMemory", "Quantise", "ReramWan2022", "Retention", "StuckBits",
    "StuckCells", "Traits", "WeightFault", "check_fault_level", "check_trains", "default_level", "drawn",
    "fault_model", "register", "traits_of",
]  # fmt: skip

for _file in pkgutil.iter_modules(__path__, __name__ + "."):
    import_module(_file.name)
