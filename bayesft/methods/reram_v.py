"""ReRAM-V (Chen et al., DATE 2017): diagnose a device, fix its worst weights at what it holds, retrain the others.

A device multiplies each programmed parameter by its own variation e^λ, λ ~ N(0, σ_d²), which stays the same when the
parameter is programmed again. Round by round, the next worst-varying share of the parameters is fixed at what the
device holds, and the others are retrained for one epoch to make up for them; the device then holds the fixed values
and the programmed others. Where the network has batch norm, its statistics are estimated again on the device, from 512
training images without labels. All rounds are run; the state of the best validation accuracy is kept, that before the
first round included. In use the device then meets new drift, as every method does.

Departures: σ_d and the numbers of rounds and devices are ours (the paper gives none), and so is the estimation of the
statistics. Left out is the mapping of the 2017 paper, which moves large weights away from bad cells by a permutation
of rows. The code published with BayesFT compares the weights with themselves and retrains with a learning rate of 0.
"""

from collections.abc import Mapping
from typing import Any

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor, nn

from bayesft.calibration import reestimate_batch_norm
from bayesft.methods.method import Look, Method
from bayesft.models import build
from bayesft.seeds import derive_seed
from bayesft.training import Problem, Trained, accuracy, fit

SHARE_PER_ROUND = 0.1
IMAGES, BATCH = 512, 128  # from which the statistics of batch norm are estimated on the device
PROGRAMMED = "erm-programmed"  # the row of ERM on the same devices without repair


def _repair(
    problem: Problem,
    erm: Trained,
    sigma_device: float,
    device: int,
    rounds: int,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The best state of a device, and its state as it was programmed."""
    where = problem.train.labels.device
    model = build(erm.specification).to(where)
    model.load_state_dict(erm.members[0])
    parameters = dict(model.named_parameters())
    variation = {}
    for name, p in parameters.items():
        seed = derive_seed(problem.task, problem.seed, "device", device, name, tuple(p.shape))
        lam = torch.randn(p.shape, generator=torch.Generator(where).manual_seed(seed), device=where)
        variation[name] = (sigma_device * lam).exp()
    severity = torch.cat([v.log().abs().flatten() for v in variation.values()])  # |λ| of every parameter
    frozen = {name: torch.zeros_like(v, dtype=torch.bool) for name, v in variation.items()}
    held = {name: (p.detach() * variation[name]).clone() for name, p in parameters.items()}

    def on_device() -> dict[str, Tensor]:
        state = {name: value.clone() for name, value in model.state_dict().items()}
        for name, p in parameters.items():
            state[name] = torch.where(frozen[name], held[name], p.detach() * variation[name])
        return state

    images = problem.train.images[:IMAGES]
    shown = list(images.tensor_split(max(1, len(images) // BATCH)))  # batches of about one size: each counts as much

    def deployed(state: dict[str, Tensor]) -> tuple[dict[str, Tensor], float]:
        """The state with statistics of its device, and its validation accuracy."""
        network = build(erm.specification).to(where)
        network.load_state_dict(state)
        if any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in network.modules()):
            network = reestimate_batch_norm(network, shown)
        return network.state_dict(), accuracy(network, problem.validation)

    @torch.no_grad()
    def keep_frozen() -> None:
        for name, p in parameters.items():
            p.copy_(torch.where(frozen[name], held[name], p))

    programmed = on_device()
    best, best_accuracy = deployed(programmed)
    recipe = problem.recipe.model_copy(update={"epochs": 1, "lr": problem.recipe.lr / 10, "schedule": "constant"})
    for turn in range(rounds):
        worst = severity.kthvalue(round(len(severity) * (1 - SHARE_PER_ROUND * (turn + 1))) + 1).values
        for name, v in variation.items():
            newly = (v.log().abs() >= worst) & ~frozen[name]
            held[name] = torch.where(newly, parameters[name].detach() * v, held[name])
            frozen[name] |= newly
        keep_frozen()
        seed = derive_seed(problem.seed, "repair", device, turn)
        label = problem.label(f"reram_v device {device} round {turn}")
        fit(model, problem.train, recipe, seed=seed, label=label, after_step=keep_frozen, checkpoint=problem.checkpoint)
        state, value = deployed(on_device())
        if value > best_accuracy:
            best, best_accuracy = state, value
    return _on_cpu(best), _on_cpu(programmed)


def _on_cpu(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.cpu() for name, value in state.items()}


class ReramV(Method):
    """Repair of trained networks, device by device."""

    title = "ReRAM-V"
    look = Look("#ca9161", ":", "v")
    needs = ("erm",)

    class Settings(Method.Settings):
        """Settings of the repair.

        Args:
            sigma_device: σ_d of the devices' variation (no unit).
            rounds: The number of rounds of repair.
            devices: The number of devices.
        """

        sigma_device: PositiveFloat = 0.5
        rounds: int = Field(5, ge=1, le=9)
        devices: PositiveInt = 3

    def train(self, problem: Problem, values: Mapping[str, Any], given: Mapping[str, Trained]) -> dict[str, Trained]:
        """Repair ERM's network on each device.

        Args:
            problem, values: As for `Method.train`.
            given: The trained network of "erm".

        Returns:
            By name: the repaired networks, one a device, and as PROGRAMMED those of ERM on the same devices without any
            repair, nor new statistics: what the programming error alone costs.

        Raises:
            Diverged: The loss or its gradient is no longer finite.
        """
        erm, sigma_device, devices = given["erm"], values["sigma_device"], values["devices"]
        states = [_repair(problem, erm, sigma_device, device, values["rounds"]) for device in range(devices)]
        repaired, programmed = map(list, zip(*states, strict=True))
        about = {
            "epochs": problem.recipe.epochs,
            "epochs_repair_per_device": values["rounds"],
            "sigma_device": sigma_device,
            "devices": devices,
        }
        bare = {**about, "epochs_repair_per_device": 0}
        return {
            self.name: Trained(erm.specification, repaired, None, about),
            PROGRAMMED: Trained(erm.specification, programmed, None, bare),
        }


METHOD = ReramV()
