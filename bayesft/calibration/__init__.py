"""Calibration of faulty copies: two numbers a channel, from a few unlabelled examples (docs/calibration.md)."""

from bayesft.calibration.batch_norm import reestimate_batch_norm
from bayesft.calibration.calibrate import calibrate, calibrated, calibrator, corrections, uncalibrate
from bayesft.calibration.gradient import calibrated_gradient
from bayesft.calibration.layers import calibration_layers
from bayesft.calibration.moments import Correction
from bayesft.calibration.reference import Reference, calibration_reference

__all__ = [
    "Correction",
    "Reference",
    "calibrate",
    "calibrated",
    "calibrated_gradient",
    "calibration_layers",
    "calibration_reference",
    "calibrator",
    "corrections",
    "reestimate_batch_norm",
    "uncalibrate",
]
