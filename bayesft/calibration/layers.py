"""Which layers are calibrated, where their channels lie, and how a correction goes into their weights."""

from collections import Counter
from collections.abc import Iterable, Mapping

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.modules.instancenorm import _InstanceNorm

from bayesft.calibration.attention import Projection, named_layers

_BY_SHAPE = (nn.LayerNorm, nn.RMSNorm)  # their parameters have the shape of the output's last dimensions
_NORMALISATIONS = (_BatchNorm, _InstanceNorm, nn.GroupNorm, *_BY_SHAPE)

Layers = str | Iterable[str] | Mapping[str, int | tuple[int, ...]]
Dims = tuple[int, ...]


def calibration_layers(model: nn.Module, layers: Layers = "all") -> dict[str, Dims]:
    """The layers of `model` that are calibrated, and the dimensions of their outputs that tell channels apart.

    Args:
        model: the network.
        layers: "all" is every linear layer, convolution, attention (its projections and its result) and normalisation
            with parameters; "weights" is these without normalisations. Else the names of modules, or of an attention's
            projections ("attention.q_proj", "attention.k_proj", "attention.v_proj"); or a mapping from names to the
            channel dimension, which is needed for modules of a kind that PyTorch does not have.

    Returns:
        For each name the dimensions of the channels: the last of linear layers and attention, the one before the
        positions for convolutions, dimension 1 of batch, group and instance normalisation, and the normalised
        dimensions of layer and RMS normalisation. Embeddings, recurrent layers and parametric activations are left out.

    Raises:
        ValueError: for a name that is no module's, or for a module whose channel dimension is not known.
    """
    modules = named_layers(model)
    if isinstance(layers, str):
        if layers not in ("all", "weights"):
            raise ValueError(f'layers = {layers!r}: must be "all", "weights", or names of modules')
        names = [name for name, module in modules.items() if _channels(module)]
        if layers == "weights":
            names = [name for name in names if not isinstance(modules[name], _NORMALISATIONS)]
        if not names:
            raise ValueError("the network has no layer that can be calibrated: give `layers`, with channel dimensions")
        return {name: _dims(modules[name]) for name in names}
    given = dict(layers) if isinstance(layers, Mapping) else dict.fromkeys(layers)
    for name, dims in given.items():
        if name not in modules:
            raise ValueError(f"layers: {name!r} is no module of the network")
        if dims is None and not _channels(modules[name]):
            kind = type(modules[name]).__name__
            raise ValueError(f"layers: {name!r} is a {kind}: give the dimension of its channels, {{{name!r}: -1}}")
    return {
        name: _dims(modules[name]) if dims is None else (dims,) if isinstance(dims, int) else tuple(dims)
        for name, dims in given.items()
    }


def structure(model: nn.Module) -> dict[str, list[int]]:
    """The fingerprint of a network's structure: its layers with channels, by name, and the shape of their channels."""
    return {name: list(channels) for name, layer in named_layers(model).items() if (channels := _channels(layer))}


def _channels(module: nn.Module | Projection) -> tuple[int, ...]:
    """The shape of the module's channels, () for a module that has none or is not known."""
    if isinstance(module, Projection):
        return (module.attention.embed_dim,)
    if isinstance(module, _ConvNd):
        return (module.out_channels,)
    if isinstance(module, (nn.Linear, nn.Bilinear)):
        return (module.out_features,)
    if isinstance(module, nn.MultiheadAttention):
        return (module.embed_dim,)
    if isinstance(module, _NORMALISATIONS) and module.weight is not None:
        return tuple(module.weight.shape)
    return ()


def _dims(module: nn.Module | Projection) -> Dims:
    if isinstance(module, _ConvNd):
        return (-1 - len(module.kernel_size),)
    if isinstance(module, _BY_SHAPE):
        return tuple(range(-len(module.normalized_shape), 0))
    return (1,) if isinstance(module, _NORMALISATIONS) else (-1,)


# The kinds that compute w·x + b from their own weight and bias: a correction of the output goes into these.
_FOLDING = (
    nn.Linear, nn.Bilinear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d,
    nn.ConvTranspose3d, _BatchNorm, _InstanceNorm, nn.GroupNorm, nn.LayerNorm, nn.MultiheadAttention,
)  # fmt: skip
_FOLDING_FORWARDS = {kind.forward for kind in _FOLDING}


def holders(model: nn.Module) -> Counter[int]:
    """In how many modules each parameter is, by its identity."""
    return Counter(id(theta) for m in model.modules() for theta in m._parameters.values() if theta is not None)


def holder_of_weight(module: nn.Module) -> nn.Module:
    """The module that holds the weight and the bias of the output of `module`."""
    return module.out_proj if isinstance(module, nn.MultiheadAttention) else module


def folds(module: nn.Module, shares: Counter[int]) -> bool:
    """Whether an affine map of the output of `module` can go into its weight and bias.

    It can't where the kind has a forward of its own, the module has hooks, or its weight is computed or shared
    (`shares`: what `holders` says).
    """
    if type(module).forward not in _FOLDING_FORWARDS or module._forward_hooks or module._forward_pre_hooks:
        return False
    own = holder_of_weight(module)._parameters
    shared = any(shares[id(theta)] > 1 for theta in own.values() if theta is not None)
    return own.get("weight") is not None and "bias" in own and not shared


def scaled_weight(module: nn.Module, scale: Tensor) -> Tensor:
    """The weight of `module` with which each of its output channels, without the bias, is `scale` times as large."""
    weight = module.get_parameter("weight").detach()
    if isinstance(module, _ConvTransposeNd):  # (inputs, outputs / groups, ...), the inputs of a group side by side
        per_input = scale.view(module.groups, -1).repeat_interleave(module.in_channels // module.groups, 0)
        return weight * per_input.view(*per_input.shape, *[1] * (weight.dim() - 2))
    return weight * scale.view(*scale.shape, *[1] * (weight.dim() - scale.dim()))
