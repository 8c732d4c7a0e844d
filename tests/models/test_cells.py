"""Cells: architectures as text, what is refused, sizes, and networks that share their weights."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from bayesft.drift.features import places
from bayesft.models import build
from bayesft.models.cells import (
    W_FTT_NET,
    Architecture,
    CellNetwork,
    Space,
    cell_network,
    shared_network,
    with_edge,
)
from bayesft.models.operations import FEATURE_OPERATIONS, OPERATIONS, WEIGHT_OPERATIONS, operation
from bayesft.models.resnet20 import mobilenet_v2, resnet20
from bayesft.models.sizes import matched, size

SMALL = Space(2, ("none", "skip", "conv1", "sep3"))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(side: int = 8) -> torch.Tensor:
    return torch.randn(2, 3, side, side, generator=generator())


@given(st.integers(0, 2**31), st.integers(1, 4), st.sampled_from([FEATURE_OPERATIONS, WEIGHT_OPERATIONS]))
def test_an_architecture_is_the_same_after_it_was_text(seed, nodes, operations):
    space = Space(nodes, operations)
    found = space.sample(generator(seed))
    assert Architecture.parse(str(found)) == found
    changed = space.mutated(found, generator(seed))
    differences = [place for place in space.edges() if _at(found, place) != _at(changed, place)]
    assert len(differences) == 1 and Architecture.parse(str(changed)) == changed
    assert sum(a != b for a, b in zip(_at(found, differences[0]), _at(changed, differences[0]), strict=True)) == 1


def _at(architecture: Architecture, place: tuple[int, int, int]):
    kind, node, side = place
    return architecture[kind][node][side]


def test_the_text_of_the_published_network():
    assert str(W_FTT_NET) == (
        "normal: rcb3@0+rcb5@0 conv1@1+dil3@1 sep3@1+sep3@0 max3@2+rcb5@1; "
        "reduce: skip@0+rcb5@1 dil3@2+sep3@0 max3@1+conv1@3 dil3@4+skip@2"
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("normal: sep7@0+skip@1; reduce: skip@0+skip@1", "normal cell, node 2: operation 'sep7': one of"),
        ("normal: skip@0+skip@1; reduce: skip@0+skip@2", "reduce cell, node 2: input 2: must be from 0 to 1"),
        ("normal: none@0+none@1; reduce: skip@0+skip@1", "normal cell: its output does not depend on its inputs"),
        ("normal: none@0+none@1 sep3@2+max3@2; reduce: skip@0+skip@1 skip@0+skip@1", "normal cell: its output does"),
        ("normal: skip@0+skip@1 skip@0+skip@1; reduce: skip@0+skip@1", "2 and 1 nodes: need as many in both"),
        ("normal: ; reduce: ", "0 and 0 nodes"),
        ("normal: skip@0; reduce: skip@0+skip@1", "node 'skip@0' must be"),
        ("normal: skip@x+skip@1; reduce: skip@0+skip@1", "must be 'op@input"),
        ("normal: skip@0+skip@1", "must be 'normal: …; reduce: …'"),
    ],
)
def test_what_is_no_architecture_is_named(text, said):
    with pytest.raises(ValueError, match=said):
        cell_network(text)


def test_more_edges_than_two_are_refused():
    node = ((0, "skip"), (1, "skip"), (1, "skip"))
    with pytest.raises(ValueError, match="node 2: 3 inputs, must be 2"):
        Architecture((node,), (node,)).check()


def test_the_number_of_architectures():
    assert Space(4, WEIGHT_OPERATIONS).size == (120 * 11**4) ** 4
    assert Space(4, FEATURE_OPERATIONS).size == (120 * 8**4) ** 4
    with pytest.raises(ValueError, match="nodes = 0"):
        Space(0)
    with pytest.raises(ValueError, match="operations: 'conv9'"):
        Space(2, ("skip", "conv9"))
    with pytest.raises(ValueError, match="need one that passes"):
        Space(2, ("none",))


def test_a_sample_has_every_operation_and_input_alike_often():
    space, draws = (
        Space(2, ("skip", "conv1", "sep3")),
        [Space(2, ("skip", "conv1", "sep3")).sample(generator(i)) for i in range(300)],
    )
    ops = [op for found in draws for place in space.edges() for op in [_at(found, place)[1]]]
    for op in space.operations:
        assert ops.count(op) / len(ops) == pytest.approx(1 / 3, abs=0.05)
    sources = [found.normal[1][0][0] for found in draws]
    assert set(sources) == {0, 1, 2}


@pytest.mark.parametrize(
    ("channels", "cells", "stride", "parameters", "macs"),
    [(20, 8, 1, 2_712_590, 459_687_040), (8, 8, 1, 441_170, 74_855_680), (8, 5, 2, 252_770, 11_672_320)],
)
def test_the_size_of_the_published_network(channels, cells, stride, parameters, macs):
    network = build({"network": "cell_network", "architecture": str(W_FTT_NET), "channels": channels, "cells": cells,
                     "stem_stride": stride})  # fmt: skip
    assert size(network) == (parameters, macs)


def test_the_size_of_the_others():
    assert size(resnet20()) == (272_474, 40_813_184)
    assert size(mobilenet_v2())[0] == pytest.approx(2.24e6, rel=0.01)
    model = nn.Sequential(nn.Conv2d(3, 4, 3, groups=1), nn.Flatten(), nn.Linear(16, 2)).train()
    assert size(model, (3, 4, 4)) == (4 * 28 + 34, 4 * 27 * 4 + 32)
    assert model.training and not model[0]._forward_hooks


def test_a_width_is_found_that_matches_a_size():
    width = matched(lambda w: resnet20(channels=w), 40.8e6)
    assert width == 16
    between = (size(resnet20(channels=5))[1] + size(resnet20(channels=6))[1]) / 2
    assert matched(lambda w: resnet20(channels=w), between - 1000) == 5
    assert matched(lambda w: resnet20(channels=w), between + 1000) == 6
    assert matched(lambda w: resnet20(channels=w), 1) == 1
    with pytest.raises(ValueError, match="target = 0"):
        matched(lambda w: resnet20(channels=w), 0)


def test_where_faults_of_activations_strike():
    assert len(places(resnet20(channels=4))) == 21
    counts = {}
    for op in WEIGHT_OPERATIONS:
        counts[op] = len(places(nn.Sequential(OPERATIONS[op](4, 1, nn.BatchNorm2d))))
    assert counts == {"none": 0, "max3": 0, "avg3": 0, "skip": 0, "sep3": 4, "sep5": 4, "dil3": 2, "dil5": 2, "rcb3": 1,
                      "rcb5": 1, "conv1": 1}  # fmt: skip


@pytest.mark.parametrize("op", OPERATIONS)
@pytest.mark.parametrize("stride", [1, 2])
def test_every_operation_keeps_its_channels_and_halves_the_size(op, stride):
    for norm in (nn.BatchNorm2d, lambda c: nn.BatchNorm2d(c, affine=False, track_running_stats=False)):
        y = OPERATIONS[op](6, stride, norm)(torch.randn(2, 6, 8, 8, generator=generator()))
        assert y.shape == (2, 6, 8 // stride, 8 // stride)


def test_an_operation_of_ones_own_stands_on_an_edge():
    try:

        @operation("conv7")
        def conv7(channels, stride, norm):
            return nn.Sequential(nn.Conv2d(channels, channels, 7, stride, 3), norm(channels))

        network = cell_network("normal: conv7@0+skip@1; reduce: conv7@1+conv7@1", channels=2, cells=3)
        assert network(images()).shape == (2, 10)
        with pytest.raises(ValueError, match="the name is taken"):
            operation("conv7")(lambda channels, stride, norm: nn.Identity())
        with pytest.raises(ValueError, match="letters, digits and _ alone"):
            operation("a@b")(conv7)
    finally:
        OPERATIONS.pop("conv7", None)


def test_two_equal_edges_of_a_node_are_one_module():
    twice = cell_network("normal: rcb3@0+rcb3@0; reduce: skip@0+skip@1", channels=2, cells=2)
    once = cell_network("normal: rcb3@0+skip@0; reduce: skip@0+skip@1", channels=2, cells=2)
    assert size(twice)[0] == size(once)[0]


def test_images_and_settings_that_do_not_fit_are_named():
    network = cell_network(str(W_FTT_NET), channels=2, cells=3, stem_stride=2)
    assert network(images(16)).shape == (2, 10)
    with pytest.raises(ValueError, match="images of 12 × 12 pixels do not fit the network: .* multiples of 8"):
        network(images(12))
    for wrong, said in (({"cells": 1}, "cells = 1"), ({"stem_stride": 3}, "stem_stride = 3"),
                        ({"preprocess": 5}, "preprocess = 5"), ({"channels": 0}, "channels = 0")):  # fmt: skip
        with pytest.raises(ValueError, match=said):
            cell_network(str(W_FTT_NET), **wrong)


def test_what_trains_a_child_trains_the_shared_network():
    shared = shared_network(SMALL, channels=4, cells=3)
    architecture = SMALL.sample(generator(1))
    child = shared.child(architecture)
    assert isinstance(child, CellNetwork) and child.training
    child(images()).sum().backward()
    reached = {id(theta) for theta in shared.parameters() if theta.grad is not None}
    assert reached == {id(theta) for theta in child.parameters() if theta.grad is not None} and reached
    assert {name for name, _ in child.named_parameters()} <= {name for name, _ in shared.named_parameters()}
    with torch.no_grad():
        next(child.parameters()).zero_()
    assert not next(shared.parameters()).any()
    with pytest.raises(ValueError, match="use child"):
        shared(images())


def test_a_shared_network_has_no_scales_and_no_running_statistics():
    shared = shared_network(SMALL, channels=4, cells=3).eval()
    assert not list(shared.buffers())
    child = shared.child(SMALL.sample(generator(2))).eval()
    x = images()
    assert not torch.allclose(child(x)[:1], child(x[:1]), atol=1e-4)  # the statistics are those of the batch


def test_a_network_of_an_architecture_is_built_alike_by_its_seed():
    specification = {"network": "cell_network", "architecture": str(W_FTT_NET), "channels": 2, "cells": 3}
    first, second = build(specification, 3).state_dict(), build(specification, 3).state_dict()
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_an_edge_can_be_exchanged():
    changed = with_edge(W_FTT_NET, (1, 0, 0), (1, "conv1"))
    assert changed.reduce[0] == ((1, "conv1"), (1, "rcb5")) and changed.normal == W_FTT_NET.normal
