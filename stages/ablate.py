"""Stage `ablate`: the networks of Figure 2, which differ in one factor, trained alike."""

from bayesft.tasks import ABLATION
from bayesft.training import erm
from stages.common import data_file, models_folder, run, stage
from stages.problem import load_problem


def main(factor: str, seed: int) -> None:
    """Train the variants of one factor with one seed."""
    with stage("ablate", f"{factor}-{seed}", lambda p: p.recipe, (data_file("ablation"),)) as s:
        for variant, specification in ABLATION[factor].variants.items():
            problem = load_problem(s, "ablation", seed, specification)
            trained = erm.train(problem, variant)
            trained.save(models_folder("ablation", factor, seed) / f"{variant}.safetensors")


if __name__ == "__main__":
    run(main, "factor", "seed")
