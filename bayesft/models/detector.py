"""Mask R-CNN (He et al., ICCV 2017) with a feature pyramid, torchvision's, for pedestrians, and its dropout sites.

This module imports torchvision, so nothing imports it but what detects.
"""

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.ops import FeaturePyramidNetwork, MultiScaleRoIAlign

from bayesft.models.dropout import Site
from bayesft.models.networks import BACKBONES, NETWORKS
from bayesft.modes import eval_mode

CLASSES = 2  # background and pedestrian


def detector(backbone: str = "slim", size: int = 128, seed: int | None = None) -> MaskRCNN:
    """A Mask R-CNN for pedestrians, from fresh weights, which scales an image to `size` pixels on its longer side.

    Args:
        backbone: one of `BACKBONES`. "slim" is a small network for a CPU; the others are torchvision's.
        size: Pixels of an image's longer side.
        seed: What the initialisation is drawn from, without touching the global generator; None for that generator.

    Returns:
        The detector. It takes lists of images (3, H, W) in [0, 1].

    Raises:
        ValueError: There is no such backbone.
    """
    if backbone not in BACKBONES:
        raise ValueError(f"backbone = {backbone!r}: must be one of {', '.join(BACKBONES)}")
    with torch.random.fork_rng(devices=[]):
        if seed is not None:
            torch.default_generator.manual_seed(seed)
        return _slim(size) if backbone == "slim" else _resnet(backbone, size)


# By name, for specifications in files. It is registered here, since nothing imports this module but what detects.
NETWORKS["detector"] = detector


class _Block(nn.Sequential):
    """Two convolutions, each with normalisation; the first halves the size, the second is residual."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__(_convolution(inputs, outputs, 2), nn.ReLU(), _convolution(outputs, outputs, 1), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        x = self[1](self[0](x))
        return self[3](x + self[2](x))


def _convolution(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False), nn.GroupNorm(outputs // 8, outputs)
    )


class _Pyramid(nn.Module):
    """Four stages, at 1/4 to 1/32 of the image's size, and the feature pyramid on them."""

    def __init__(self, channels: tuple[int, ...] = (16, 32, 64, 96), out_channels: int = 32):
        super().__init__()
        stem = nn.Sequential(_convolution(3, channels[0], 2), nn.ReLU())
        stages = [nn.Sequential(stem, _Block(channels[0], channels[0]))]
        stages += [_Block(a, b) for a, b in zip(channels, channels[1:], strict=False)]
        self.body = nn.Sequential(OrderedDict((f"layer{i}", stage) for i, stage in enumerate(stages, 1)))
        self.fpn = FeaturePyramidNetwork(list(channels), out_channels)
        self.out_channels = out_channels

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        maps = OrderedDict()
        for i, stage in enumerate(self.body):
            x = maps[str(i)] = stage(x)
        return self.fpn(maps)


def _anchors(size: int, levels: int) -> AnchorGenerator:
    """Anchors that grow with the level; upright ones, since pedestrians are."""
    shares = (0.12, 0.22, 0.35, 0.5, 0.75)[:levels]
    return AnchorGenerator(tuple((share * size,) for share in shares), ((1.5, 2.5),) * levels)


def _slim(size: int) -> MaskRCNN:
    pyramid = _Pyramid()
    width = pyramid.out_channels
    pools = [
        MultiScaleRoIAlign(["0", "1", "2", "3"], resolution, 2, canonical_scale=0.875 * size) for resolution in (7, 14)
    ]
    return MaskRCNN(
        pyramid,
        min_size=size,
        max_size=size,
        rpn_anchor_generator=_anchors(size, 4),
        rpn_pre_nms_top_n_train=200,
        rpn_pre_nms_top_n_test=200,
        rpn_post_nms_top_n_train=50,
        rpn_post_nms_top_n_test=50,
        rpn_batch_size_per_image=64,
        box_roi_pool=pools[0],
        box_head=TwoMLPHead(width * 49, 128),
        box_predictor=FastRCNNPredictor(128, CLASSES),
        box_batch_size_per_image=32,
        box_detections_per_img=20,
        mask_roi_pool=pools[1],
        mask_head=MaskRCNNHeads(width, (width, width), 1),
        mask_predictor=MaskRCNNPredictor(width, width, CLASSES),
    )


def _resnet(backbone: str, size: int) -> MaskRCNN:
    pyramid = resnet_fpn_backbone(backbone_name=backbone, weights=None, norm_layer=nn.BatchNorm2d, trainable_layers=5)
    return MaskRCNN(
        pyramid,
        CLASSES,
        min_size=size,
        max_size=size,
        rpn_anchor_generator=_anchors(size, 5),
        rpn_pre_nms_top_n_train=500,
        rpn_pre_nms_top_n_test=500,
        rpn_post_nms_top_n_train=200,
        rpn_post_nms_top_n_test=200,
        box_batch_size_per_image=128,
        box_detections_per_img=20,
    )


@torch.no_grad()
def detection_sites(model: MaskRCNN, example: Tensor) -> list[Site]:
    """The dropout sites of a detector, in the order in which a forward pass of `example` (3, H, W) meets them.

    One rate each for: every stage of the backbone, after it; the maps of the pyramid; the two layers of the box head;
    the layers of the mask head. The outputs of the heads, and the region proposals' own layers, have none.
    """
    names = {name: module for name, module in model.named_modules()}
    candidates = [
        (f"backbone stage {i}", [f"backbone.body.layer{i}"]) for i in range(1, 5) if f"backbone.body.layer{i}" in names
    ]
    candidates += [
        ("feature pyramid", _below(names, "backbone.fpn.layer_blocks", nn.Conv2d)),
        ("box head", _below(names, "roi_heads.box_head", nn.Linear)),
        ("mask head", _below(names, "roi_heads.mask_head", nn.ReLU)),
    ]
    calls: list[str] = []
    hooks = [
        names[name].register_forward_hook(lambda *_, name=name: calls.append(name))
        for _, modules in candidates
        for name in modules
    ]
    try:
        with eval_mode(model):
            model([example])
    finally:
        for hook in hooks:
            hook.remove()
    sites = [Site(name, tuple(module for module in modules if module in calls)) for name, modules in candidates]
    met = [site for site in sites if site.modules]
    return sorted(met, key=lambda site: calls.index(site.modules[0]))


def _below(names: dict[str, nn.Module], start: str, kind: type) -> list[str]:
    return [name for name, module in names.items() if name.startswith(f"{start}.") and isinstance(module, kind)]
