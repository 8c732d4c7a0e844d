"""The tasks of Figure 3, and the ablation of Figure 2: which network on which data."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Task:
    """A network on a data set.

    Args:
        data: The data set.
        specification: What `build` makes the network of.
        title: The name in reports.
        panel: The letter of the panel of Figure 3.
        normalized: Whether the network has batch norm.
        metric: What is measured: "accuracy" or "box mAP@0.5".
        family: The name of a layer of scales.yaml that several tasks share.
        cost: About how long an epoch takes, relative to others; the longest work is begun first.
    """

    data: str
    specification: dict[str, Any]
    title: str
    panel: str = ""
    normalized: bool = False
    metric: str = "accuracy"
    family: str = ""
    cost: float = 1.0


TASKS = {
    "mlp-mnist": Task("mnist", {"network": "mlp"}, "MLP, MNIST", "a", cost=0.1),
    "lenet-mnist": Task("mnist", {"network": "lenet5"}, "LeNet-5, MNIST", "b", cost=0.2),
    "alexnet-cifar10": Task("cifar10", {"network": "alexnet"}, "AlexNet, CIFAR-10", "c"),
    "resnet18-cifar10": Task("cifar10", {"network": "resnet18"}, "ResNet-18, CIFAR-10", "d", True),
    "vgg11-cifar10": Task("cifar10", {"network": "vgg"}, "VGG-11, CIFAR-10", "e", True),
    **{
        f"preact{depth}-cifar10": Task(
            "cifar10",
            {"network": "preact_resnet", "depth": depth},
            f"PreAct-ResNet-{depth}, CIFAR-10",
            panel,
            True,
            family="deep" if depth > 18 else "",
            cost=depth / 9,
        )
        for depth, panel in ((18, "f"), (50, "g"), (152, "h"))
    },
    "stn-gtsrb": Task(
        "gtsrb", {"network": "spatial_transformer", "outputs": 43}, "Spatial transformer, GTSRB", "i", True
    ),
    "maskrcnn-pennfudan": Task(
        "pennfudan", {"network": "detector"}, "Mask R-CNN, PennFudanPed", "j", metric="box mAP@0.5", cost=8.0
    ),
}
IMAGES = {"mnist": (1, 28), "cifar10": (3, 32), "gtsrb": (3, 32)}  # channels and side of classifiers' images
# Accuracy under drift is the area under the curve from σ = 0 to here, by data set, divided by the range. It is fixed:
# it changes neither with `sigma_max` nor with the step of a grid. Beyond it, every network on the data is at chance.
RANGES = {"mnist": 1.5, "cifar10": 0.8, "gtsrb": 0.8, "pennfudan": 0.6}
STAND_INS = {  # the data that stand in for a set, by its name in titles
    "MNIST": "handwritten digits", "CIFAR-10": "drawn shapes", "GTSRB": "drawn signs", "PennFudanPed": "drawn streets",
}  # fmt: skip


def heading(name: str, source: str) -> str:
    """The title of a task, or of an ablation, on data from `source`: stand-ins never carry the real set's name."""
    title = TASKS[name].title if name in TASKS else ABLATIONS[name].title
    if source == "embedded":
        for real, drawn in STAND_INS.items():
            title = title.replace(real, drawn)
    return title


def range_of(name: str) -> float:
    """Where the range of σ ends over which a task, or an ablation ("ablation-mnist"), is measured."""
    return RANGES[TASKS[name].data if name in TASKS else name.removeprefix("ablation-").partition("/")[0]]


CLASSIFICATION = tuple(name for name, task in TASKS.items() if task.metric == "accuracy")
DETECTION = "maskrcnn-pennfudan"


@dataclass(frozen=True)
class Factor:
    """One factor of an ablation: its variants differ from the plain network in this alone.

    Args:
        title: The name in reports.
        panel: The letter of the panel of Figure 2.
        variants: What `build` makes each variant's network of, by the variant's name.
    """

    title: str
    panel: str
    variants: dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Ablation:
    """The study of Figure 2 on one data set: a plain network, and the factors in which others differ from it.

    Args:
        title: The name in reports.
        plain: What `build` makes the plain network of.
        factors: The factors, by name.
    """

    title: str
    plain: dict[str, Any]
    factors: dict[str, Factor]

    def row(self, factor: str, variant: str) -> str:
        """The name of a variant's network. All factors share the plain one, which is trained once."""
        return "plain" if self.factors[factor].variants[variant] == self.plain else variant

    def networks(self, factors: tuple[str, ...]) -> dict[str, dict[str, Any]]:
        """The specifications of every network that `factors` compare, by name."""
        return {
            self.row(factor, variant): specification
            for factor in factors
            for variant, specification in self.factors[factor].variants.items()
        }


def _ablation(
    title: str, panels: str, plain: dict[str, Any], normalizations: tuple[str, ...], depths: dict[str, dict[str, Any]]
) -> Ablation:
    dropouts = {f"{name} 0.2": {**plain, "dropout": (key, 0.2)} for name, key in
                (("dropout", "dropout"), ("alpha dropout", "alpha"))}  # fmt: skip
    activations = (("ELU", "elu"), ("GELU", "gelu"), ("leaky ReLU", "leaky_relu"))
    return Ablation(
        title,
        plain,
        {
            "dropout": Factor("Dropout", panels[0], {"none": plain, **dropouts}),
            "normalization": Factor(
                "Normalization",
                panels[1],
                {"none": plain, **{name: {**plain, "normalization": name} for name in normalizations}},
            ),
            "depth": Factor("Model complexity", panels[2], {k: {**plain, **change} for k, change in depths.items()}),
            "activation": Factor(
                "Activation functions",
                panels[3],
                {"ReLU": plain, **{name: {**plain, "activation": key} for name, key in activations}},
            ),
        },
    )


ABLATIONS = {
    "mnist": _ablation(
        "MLP, MNIST",
        "abcd",
        {"network": "mlp"},
        ("batch", "layer", "group"),
        {
            "3 layers": {},
            "6 layers": {"hidden": (392, 256, 128, 64, 32)},
            "9 layers": {"hidden": (512, 256, 128, 64, 64, 32, 16, 16)},
        },
    ),
    # The larger model of the paper's footnote, which does not name it: a VGG without batch norm, so that
    # normalisation is a factor of its own.
    "cifar10": _ablation(
        "plain VGG, CIFAR-10",
        "efgh",
        {"network": "vgg", "stages": ((64,), (128,), (256,), (256,)), "hidden": (128,), "normalization": None},
        ("batch", "layer", "group", "instance"),
        {
            "6 layers": {},
            "9 layers": {"stages": ((64, 64), (128, 128), (256, 256), (256,))},
            "13 layers": {"stages": ((64, 64), (128, 128, 128), (256, 256, 256), (256, 256, 256))},
        },
    ),
}
FACTORS = tuple(ABLATIONS["mnist"].factors)
