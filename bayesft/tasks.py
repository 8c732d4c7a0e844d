"""The tasks of Figure 3, and the ablation of Figure 2: which network on which data."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Task:
    """A network on a data set. `specification` is what `build` takes."""

    data: str
    specification: dict
    title: str
    panel: str = ""


TASKS = {
    "mlp-mnist": Task("mnist", {"network": "mlp"}, "MLP, MNIST", "a"),
    "lenet-mnist": Task("mnist", {"network": "lenet5"}, "LeNet-5, MNIST", "b"),
}


@dataclass(frozen=True)
class Factor:
    """One factor of the ablation: its variants differ from the plain network in this alone."""

    title: str
    panel: str
    variants: dict[str, dict] = field(default_factory=dict)


ABLATION_DATA = "mnist"
PLAIN = {"network": "mlp", "hidden": (192, 32)}
ABLATION = {
    "dropout": Factor(
        "Dropout",
        "a",
        {
            "none": PLAIN,
            "dropout 0.2": {**PLAIN, "dropout": ("dropout", 0.2)},
            "alpha dropout 0.2": {**PLAIN, "dropout": ("alpha", 0.2)},
        },
    ),
    "normalization": Factor(
        "Normalization",
        "b",
        {"none": PLAIN, **{name: {**PLAIN, "normalization": name} for name in ("batch", "layer", "group")}},
    ),
    "depth": Factor(
        "Model complexity",
        "c",
        {
            "3 layers": PLAIN,
            "6 layers": {**PLAIN, "hidden": (392, 256, 128, 64, 32)},
            "9 layers": {**PLAIN, "hidden": (512, 256, 128, 64, 64, 32, 16, 16)},
        },
    ),
    "activation": Factor(
        "Activation functions",
        "d",
        {
            "ReLU": PLAIN,
            **{
                name: {**PLAIN, "activation": key}
                for name, key in (("ELU", "elu"), ("GELU", "gelu"), ("leaky ReLU", "leaky_relu"))
            },
        },
    ),
}
