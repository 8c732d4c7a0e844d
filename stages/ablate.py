"""Stage `ablate`: the networks of Figure 2, which differ in one factor, trained alike."""

from bayesft.tasks import ABLATIONS
from bayesft.training import erm
from stages.common import data_file, models_folder, run, stage
from stages.problem import load_problem


def main(data: str, seed: int) -> None:
    """Train the variants of every factor on one data set with one seed."""
    name = f"ablation-{data}"

    def matters(p):
        return p.recipe(name), p.budget(name).train.width, p.ablation.factors

    with stage("ablate", f"{data}-{seed}", matters, (data_file(name),)) as s:
        p = s.parameters
        for network, specification in ABLATIONS[data].networks(p.ablation.factors).items():
            problem = load_problem(s, name, seed, {**specification, "width": p.budget(name).train.width})
            erm.train(problem, network).save(models_folder(name, seed) / f"{network}.safetensors")


if __name__ == "__main__":
    run(main, "data", "seed")
