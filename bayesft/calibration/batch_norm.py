"""The control: batch normalisation whose statistics are estimated again on the faulty copy."""

from collections.abc import Iterable
from copy import deepcopy

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from bayesft.calibration.moments import Batch, forward
from bayesft.calibration.reference import batches_of, example_tensors
from bayesft.modes import eval_mode


@torch.no_grad()
def reestimate_batch_norm(model: nn.Module, data: Batch | Iterable[Batch]) -> nn.Module:
    """A copy of a faulty network whose batch normalisations have the running statistics of `data`.

    It is the usual way to adapt a network to a device (Joshi et al., Nature Communications 11, 2473, 2020). It needs no
    reference. It does nothing for a drift of the normalisations' own scale and shift, or for a network without them.

    Args:
        model: the faulty copy. It is copied, never modified; all but the statistics is in eval mode.
        data: examples without labels, in the forms that `calibration_reference` takes. Of several batches the means and
            variances are averaged.

    Returns:
        The copy, in the mode of `model`.

    Raises:
        ValueError: if the network has no batch normalisation with running statistics, or if there is no batch.
    """
    copy = deepcopy(model)
    norms = [module for module in copy.modules() if isinstance(module, _BatchNorm) and module.track_running_stats]
    if not norms:
        raise ValueError("the network has no batch normalisation with running statistics")
    momenta = [norm.momentum for norm in norms]
    with eval_mode(copy):
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # the average over all batches
            norm.train()
        examples = 0
        for batch in batches_of(data):
            forward(copy, batch)
            examples += len(example_tensors(batch)[0])
    if not examples:
        raise ValueError("data: there is no batch")
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return copy
