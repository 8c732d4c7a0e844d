"""Stage `ftt-evaluate`: the networks of the chapter on fault-tolerant training under every fault, on test data."""

from pathlib import Path

from bayesft.drift import any_fault
from bayesft.drift.features import MiBB, places, strike_rate
from bayesft.evaluation.devices import on_devices
from bayesft.files import read_json, write_json
from bayesft.methods.ftt import quantise_
from bayesft.models.sizes import size
from bayesft.training import Checkpoint, Trained
from stages.common import MODELS, RESULTS, Item, Stage, run
from stages.problem import load_images


def main() -> None:
    """Evaluate every network of the chapter."""
    stage = Stage("ftt-evaluate", RESULTS / "ftt")
    stage.work(evaluate, stage.items)


def evaluate(stage: Stage, item: Item) -> str:
    """Measure one network under every fault of the item, and calibrated where it says so."""
    content = read_json(finished(stage, item) / "measured.json")
    write_json(RESULTS / "ftt" / f"{_name(item)}.json", {"fault": item["fault"], "row": item["row"],
                                                         "seed": item["seed"], **content})  # fmt: skip
    said = (f"{fault} {_mean(found['accuracy'][found['levels'].index(found['level'])]):.3f}"
            for fault, found in content["faults"].items())  # fmt: skip
    return f"{content['clean']:.3f} clean; " + ", ".join(said)


def network_of(item: Item) -> Path:
    """The file of the network that is measured."""
    return MODELS / "ftt" / _name(item) / f"{item['row']}.safetensors"


def finished(stage: Stage, item: Item) -> Path:
    """The folder of a network's measurements in the store."""
    file = network_of(item)

    def build(folder: Path, checkpoint: Checkpoint) -> None:
        write_json(folder / "measured.json", measured(stage, item, Trained.load(file)))

    return stage.made(item, build, file)


def measured(stage: Stage, item: Item, trained: Trained) -> dict:
    """The size of a network, and its accuracy by fault, level and device.

    Args:
        stage: The stage.
        item: The item, with the faults and their levels.
        trained: The network.

    Returns:
        What is written: sizes, the accuracy without faults, for each fault its levels and accuracies (levels, devices),
        and what is known of network and data.
    """
    images = load_images(item)
    parts = images.standardised(stage.device)
    (network,) = trained.networks(stage.device)
    parameters, macs = size(network, tuple(parts["test"].images.shape[1:]))
    network = quantise_(network, item["bits"]) if item["bits"] else network
    examples, found = parts["train"].images[: item["examples"]], {}
    for name, of in item["faults"].items():
        fault = any_fault(of["model"], of["settings"])
        common = (item["devices"], ("ftt", name, item["seed"]), of["parameters"])
        accuracy = on_devices(network, parts["test"], fault, of["levels"], *common)
        calibrated = {
            how: on_devices(network, parts["test"], fault, [of["level"]], *common, how, examples)[0].tolist()
            for how in of["calibrations"]
        }
        found[name] = {"levels": of["levels"], "level": of["level"], "accuracy": accuracy.tolist(),
                       "calibrated": calibrated}  # fmt: skip
        if isinstance(fault, MiBB):
            rates = [strike_rate(of["level"], place.fan_in) for place in places(network)]
            found[name]["strike_rate"] = _mean(rates)
    clean = on_devices(network, parts["test"], any_fault("lognormal"), [0.0], 1, (), "all")
    return {"parameters": parameters, "macs": macs, "clean": float(clean[0, 0]), "faults": found,
            "about": trained.about, "specification": trained.specification,
            "data": {**images.about, "classes": images.classes}}  # fmt: skip


def _name(item: Item) -> str:
    return f"{item['fault']}-{item['row']}-{item['seed']}"


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


if __name__ == "__main__":
    run(main)
