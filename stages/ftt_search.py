"""Stage `ftt-search`: architectures are searched under each fault; what they are compared with is chosen."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from bayesft.data import Split
from bayesft.drift import any_fault
from bayesft.fault_tolerance import cells
from bayesft.files import read_json, write_json
from bayesft.methods import load
from bayesft.models.cells import Architecture, SharedNetwork, Space, shared_network
from bayesft.search.architecture import (
    ArchitectureSearch,
    FaultSetting,
    MeanReward,
    SharedReward,
    halving,
    reward_of,
    search_architectures,
    train_shared,
)
from bayesft.search.controller import Reinforce
from bayesft.search.controls import agreement, alone_reward, of_its_size
from bayesft.seeds import derive_seed
from bayesft.settings import Recipe
from bayesft.tensors import load_tensors, save_tensors
from bayesft.training import Checkpoint
from stages.common import RESULTS, Item, Stage, run
from stages.problem import load_images, load_problem

FOLDER = RESULTS / "ftt-search"


def main() -> None:
    """Train the shared networks, and search."""
    stage = Stage("ftt-search", FOLDER)
    networks = {stage.key(shared): shared for item in stage.items for shared in item["shared"]}
    stage.work(train, list(networks.values()), "shared")
    stage.work(search, stage.items)


def train(stage: Stage, item: Item) -> str:
    """Train one shared network, where the store does not have it."""
    shared(stage, item)
    return "trained"


def shared(stage: Stage, item: Item) -> tuple[SharedNetwork, Reinforce | None]:
    """A trained shared network, and the controller that learnt with it, where REINFORCE searches."""
    space = Space(item["nodes"], tuple(item["operations"]))
    controller = Reinforce(space, item["seed"]) if item["controller"] is not None else None

    def build(folder: Path, checkpoint: Checkpoint) -> None:
        parts = load_images(item).standardised(stage.device)
        network = train_shared(
            space, parts["train"], Recipe(**item["recipe"]), _setting(item), alpha=item["alpha"], seed=item["seed"],
            validation=_validation(item, parts), controller=controller, alpha_reward=item["controller"] or 0.0,
            checkpoint=checkpoint, **item["network"],
        )  # fmt: skip
        learnt = controller.state_dict() if controller else {}
        tensors = {f"network.{name}": value for name, value in network.state_dict().items()}
        save_tensors(folder / "shared.safetensors", tensors | learnt)

    place = stage.made(item, build)
    tensors, _ = load_tensors(place / "shared.safetensors")
    network = shared_network(space, **item["network"]).to(stage.device)
    network.load_state_dict({n.removeprefix("network."): t for n, t in tensors.items() if n.startswith("network.")})
    if controller:
        controller.load_state_dict(tensors)
    return network.eval(), controller


def search(stage: Stage, item: Item) -> str:
    """Search once, and write what was found."""
    content = read_json(finished(stage, item) / "found.json")
    write_json(FOLDER / f"{item['fault']}-{item['search']}.json", content)
    gate = content.get("gate")
    agrees = f"; two shared networks: Spearman's ρ = {gate['rho']:.2f}, p = {gate['p']:.2g}" if gate else ""
    return f"{content['best']}{agrees}"


def finished(stage: Stage, item: Item) -> Path:
    """The folder of a search's result in the store."""

    def build(folder: Path, checkpoint: Checkpoint) -> None:
        parts = load_images(item).standardised(stage.device)
        write_json(
            folder / "found.json", (_alone if item["search"] == "alone" else _found)(stage, item, parts, checkpoint)
        )

    return stage.made(item, build)


def _setting(item: Item) -> FaultSetting:
    drift = item["drift"]
    return FaultSetting(any_fault(drift["model"], drift["settings"]), item["level"], drift["parameters"], item["bits"])


def _validation(item: Item, parts: dict[str, Split]) -> Split:
    return Split(*(tensor[: item["reward_images"]] for tensor in parts["validation"]))


def _found(stage: Stage, item: Item, parts: dict[str, Split], checkpoint: Checkpoint) -> dict[str, Any]:
    """The candidates of a search with shared weights, the best of them, and whether two shared networks agree."""
    space, settings = Space(item["nodes"], tuple(item["operations"])), ArchitectureSearch(**item["strategy"])
    trained = [shared(stage, each) for each in item["shared"]]
    rewards = [
        SharedReward(network, _validation(item, parts), _setting(item), item["draws"], ("ftt", item["fault"], "reward"))
        for network, _ in trained
    ]
    mean, policy = MeanReward(tuple(rewards)), trained[0][1]
    found = search_architectures(
        space, mean, settings, seed=item["seed"], checkpoint=checkpoint, n_jobs=1, strategy=policy
    )

    def worth(pair: tuple[float, float]) -> float:
        return reward_of(pair, settings.alpha)

    networks = _networks(item, found.architecture, parts)
    content = {
        "best": found.best.architecture,
        "candidates": [asdict(c) for c in found.candidates],
        "networks": networks,
        "rewards": {
            name: worth(mean(Architecture.parse(of["architecture"]), "search"))
            for name, of in networks.items() if "architecture" in of
        },
    }  # fmt: skip
    if len(rewards) > 1:
        content["gate"] = agreement(rewards, space, item["gate"], item["seed"], worth)
    return content


def _alone(stage: Stage, item: Item, parts: dict[str, Split], checkpoint: Checkpoint) -> dict[str, Any]:
    """The best architecture of successive halving, each trained by itself."""
    space = Space(item["nodes"], tuple(item["operations"]))
    generator = torch.Generator().manual_seed(derive_seed(item["seed"], "architectures", "alone"))
    rounds = [tuple(each) for each in item["rounds"]]
    kept: dict[str, float] = (checkpoint.load("alone") or ({}, {}))[1]

    def reward(architecture: Architecture, epochs: int) -> float:
        name = f"{epochs} {architecture}"
        if name not in kept:
            specification = cells(str(architecture), item["settings"], item["preprocess"])
            recipe = {**item["recipe"], "epochs": epochs}
            problem = load_problem(stage, {**item, "specification": specification, "recipe": recipe})
            values = {**load("ftt").Settings().model_dump(), "alpha": item["alpha"], "bits": item["bits"]}
            trained = load("ftt").train(problem, values, {})["ftt"]
            (network,) = trained.networks(stage.device)
            kept[name] = alone_reward(
                network, _validation(item, parts), _setting(item), item["draws"], item["strategy"]["alpha"]
            )
            checkpoint.save("alone", {}, kept)
        return kept[name]

    best, seen = halving([space.sample(generator) for _ in range(rounds[0][0])], reward, rounds)
    return {"best": str(best), "rounds": seen, "networks": _networks(item, best, parts)}


def _networks(item: Item, found: Architecture, parts: dict[str, Split]) -> dict[str, dict]:
    space, image = Space(item["nodes"], tuple(item["operations"])), tuple(parts["train"].images.shape[1:])
    return of_its_size(found, space, item["settings"], item["preprocess"], image, item["seed"], item["samples"])


if __name__ == "__main__":
    run(main)
