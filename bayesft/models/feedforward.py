"""Networks that are a plain sequence of layers."""

from torch import nn

from bayesft.models.parts import ACTIVATIONS, DROPOUTS, he_normal, normalize, scaled


def mlp(
    outputs: int = 10,
    inputs: int = 784,
    hidden: tuple[int, ...] = (192, 32),
    activation: str = "relu",
    normalization: str | None = None,
    dropout: tuple[str, float] | None = None,
    width: float = 1.0,
) -> nn.Sequential:
    """A multi-layer perceptron. The defaults are the paper's MLP, 784-192-32-10.

    Each hidden layer is linear, normalisation, activation, dropout, of which the second and the last may be missing.
    The logits carry none.

    Args:
        outputs: The number of classes.
        inputs: The number of values of an example, whatever its shape.
        hidden: The units of each hidden layer, at width 1.
        activation: One of ACTIVATIONS.
        normalization: One of NORMALIZATIONS; None: none.
        dropout: One of DROPOUTS, and its rate; None: none.
        width: The units of the hidden layers, relative to `hidden`.

    Returns:
        The network, from inputs (B, ...) to logits (B, outputs).
    """
    layers: list[nn.Module] = [nn.Flatten()]
    for base in hidden:
        units = scaled(base, width)
        layers += [nn.Linear(inputs, units), *normalize(normalization, units, maps=False), ACTIVATIONS[activation]()]
        if dropout:
            layers.append(DROPOUTS[dropout[0]](dropout[1]))
        inputs = units
    return nn.Sequential(*layers, nn.Linear(inputs, outputs))


def lenet5(outputs: int = 10, channels: int = 1, width: float = 1.0) -> nn.Sequential:
    """LeNet-5 for 28 × 28 images (LeCun et al., 1998): 6@5, pool, 16@5, pool, 120@4, 84, outputs; ReLU, max-pool.

    ReLU follows the pool, where it has a quarter of the work: the maximum of rectified values is the rectified maximum.

    Args:
        outputs: The number of classes.
        channels: Those of an image.
        width: The channels and units, relative to the published ones.

    Returns:
        The network, from images (B, channels, 28, 28) to logits (B, outputs).
    """
    first, second, third, features = (scaled(base, width) for base in (6, 16, 120, 84))
    return nn.Sequential(
        nn.Conv2d(channels, first, 5),
        nn.MaxPool2d(2),
        nn.ReLU(),
        nn.Conv2d(first, second, 5),
        nn.MaxPool2d(2),
        nn.ReLU(),
        nn.Conv2d(second, third, 4),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(third, features),
        nn.ReLU(),
        nn.Linear(features, outputs),
    )


def alexnet(outputs: int = 10, width: float = 1.0) -> nn.Sequential:
    """AlexNet (Krizhevsky et al., 2012) for 32 × 32 images: torchvision's layers, all kernels 3 × 3, pools of 2.

    The first convolution has stride 2, for the original's 4. The original's dropout is left out: where it acts, and
    at which rate, is what a method decides.
    """
    a, b, c, d = (scaled(base, width) for base in (64, 192, 384, 256))
    features = scaled(4096, width)
    return he_normal(
        nn.Sequential(
            nn.Conv2d(3, a, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(a, b, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(b, c, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(c, d, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(d, d, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(d * 2 * 2, features),
            nn.ReLU(),
            nn.Linear(features, features),
            nn.ReLU(),
            nn.Linear(features, outputs),
        )
    )


def vgg(
    outputs: int = 10,
    stages: tuple[tuple[int, ...], ...] = ((64,), (128,), (256, 256), (512, 512), (512, 512)),
    hidden: tuple[int, ...] = (),
    normalization: str | None = "batch",
    activation: str = "relu",
    dropout: tuple[str, float] | None = None,
    width: float = 1.0,
) -> nn.Sequential:
    """VGG (Simonyan and Zisserman, 2015): stages of 3 × 3 convolutions, each with a pool at its end.

    A convolution is followed by normalisation, activation, dropout of single values, where there are any; a `hidden`
    fully connected layer by the last two. The defaults are VGG-11 with batch norm and, as is usual for 32 × 32 images,
    one linear classifier.

    Args:
        outputs: The number of classes.
        stages: The channels of each convolution of each stage, at width 1.
        hidden: The units of each fully connected layer before the classifier, at width 1.
        normalization: One of MAP_NORMALIZATIONS; None: none.
        activation, dropout: As for `mlp`.
        width: The channels and units, relative to `stages` and `hidden`.

    Returns:
        The network, from images (B, 3, H, W) to logits (B, outputs).
    """
    layers: list[nn.Module] = []

    def activate() -> list[nn.Module]:
        return [ACTIVATIONS[activation](), *([DROPOUTS[dropout[0]](dropout[1])] if dropout else [])]

    inputs = 3
    for stage in stages:
        for base in stage:
            channels = scaled(base, width)
            layers.append(nn.Conv2d(inputs, channels, 3, padding=1))
            layers += [*normalize(normalization, channels), *activate()]
            inputs = channels
        layers.append(nn.MaxPool2d(2))
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    for base in hidden:
        units = scaled(base, width)
        layers += [nn.Linear(inputs, units), *activate()]
        inputs = units
    return he_normal(nn.Sequential(*layers, nn.Linear(inputs, outputs)))
