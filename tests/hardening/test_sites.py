"""Sites of networks of all kinds, by structure; which channels are dropped; what the table says."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from bayesft.hardening.sites import find_sites
from bayesft.models import build
from bayesft.models import find_sites as sites_of_the_study
from bayesft.models.sites import dropping
from bayesft.tasks import CLASSIFICATION, TASKS
from tests.hardening.conftest import Net, seeded


def names(model, example, **more) -> list[str]:
    return [place.name for place in find_sites(model, example, **more)]


def axes(sites) -> dict[str, int | None]:
    return {place.name: place.axis for place in sites}


@pytest.mark.parametrize("task", CLASSIFICATION)
def test_the_networks_of_the_study(task):
    model = build({**TASKS[task].specification, "width": 1 / 16}, 0)
    example = torch.randn(2, *((1, 28, 28) if "mnist" in task else (3, 32, 32)))
    sites = find_sites(model, example)
    assert [place.name for place in sites] == [site.name for site in sites_of_the_study(model, example)]
    for place in sites:  # an activation of its own for each, or the activations of a residual block
        assert place.axis == (1 if len(place.shape) == 4 else None) and len(place.calls) == place.of


def test_vision_transformer():
    models = pytest.importorskip("torchvision.models")
    vit = models.VisionTransformer(8, 4, num_layers=1, num_heads=2, hidden_dim=8, mlp_dim=16, num_classes=3)
    block = "encoder.layers.encoder_layer_0"
    found = find_sites(vit, torch.rand(2, 3, 8, 8))
    assert axes(found) == {
        "conv_proj": 1, f"{block}.self_attention": None, f"{block}.mlp.1": None, f"{block}.mlp.3": None
    }  # fmt: skip
    assert found.without == {"heads.head": "feeds no other layer"}


def test_channels_last_lose_channels_and_never_rows():
    models = pytest.importorskip("torchvision.models")
    blocks = [models.convnext.CNBlockConfig(8, 16, 1), models.convnext.CNBlockConfig(16, None, 1)]
    convnext = models.convnext.ConvNeXt(blocks, num_classes=4)
    x = torch.rand(2, 3, 32, 32)
    found = find_sites(convnext, x)
    assert axes(found) == {
        "features.0.0": 1, "features.1.0.block.0": 1, "features.1.0.block.4": -1, "features.1.0.block.5": -1,
        "features.2.1": 1, "features.3.0.block.0": 1, "features.3.0.block.4": -1, "features.3.0.block.5": -1,
    }  # fmt: skip
    seen = {}
    for name in ("features.1.0.block.5", "features.1.0.block.3"):
        module = convnext.get_submodule(name)
        module.register_forward_pre_hook(lambda _, given, name=name: seen.__setitem__(name, given[0].detach()))
    with dropping(convnext, found, [0.5] * len(found)):
        convnext(x)
    dropped = (seen["features.1.0.block.5"] == 0).flatten(1, 2)  # (B, positions, channels)
    assert 0.2 < dropped.float().mean() < 0.8 and torch.equal(dropped.all(1), dropped.any(1))

    swin = models.swin_transformer.SwinTransformer([4, 4], 8, [1, 1], [2, 2], [2, 2], num_classes=4)
    assert axes(find_sites(swin, x)) == {
        "features.0.0": 1, "features.1.0.attn": -1, "features.1.0.mlp.1": -1, "features.1.0.mlp.3": -1,
        "features.2.reduction": -1, "features.3.0.attn": -1, "features.3.0.mlp.1": -1, "features.3.0.mlp.3": -1,
    }  # fmt: skip


def test_mobilenet_has_its_bottlenecks_after_the_norm():
    models = pytest.importorskip("torchvision.models")
    setting = [[1, 8, 1, 1], [2, 8, 1, 2]]
    found = names(models.MobileNetV2(4, inverted_residual_setting=setting), torch.rand(2, 3, 32, 32))
    assert found == [
        "features.0.2", "features.1.conv.0.2", "features.1.conv.2", "features.2.conv.0.2", "features.2.conv.1.2",
        "features.2.conv.3", "features.3.2",
    ]  # fmt: skip


class UNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.down, self.mid, self.up = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 8, 3, 2, 1), None
        self.up = nn.ConvTranspose2d(8, 4, 2, 2)
        self.join, self.out, self.act = nn.Conv2d(8, 4, 3, padding=1), nn.Conv2d(4, 2, 1), nn.ReLU(inplace=True)

    def forward(self, x):
        skip = self.act(self.down(x))
        up = self.up(F.gelu(self.mid(skip)))
        return self.out(self.act(self.join(torch.cat([skip, up], 1))))


def test_a_u_net_has_sites_on_both_ways():
    found = find_sites(UNet(), torch.rand(2, 1, 8, 8))
    assert axes(found) == {"act": 1, "mid": 1, "up": 1}
    assert {place.name: place.after for place in found}["act"] == ("down", "join")
    assert found.without == {"out": "feeds no other layer"}


class Reader(nn.Module):
    def __init__(self, state: bool):
        super().__init__()
        self.words, self.lstm = nn.Embedding(9, 6), nn.LSTM(6, 8, batch_first=True)
        self.hidden, self.act, self.out, self.state = nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3), state

    def forward(self, words):
        outputs, (state, _) = self.lstm(self.words(words))
        return self.out(self.act(self.hidden(state[-1] if self.state else outputs)))


@pytest.mark.parametrize("state", [False, True])
def test_recurrent_layers_drop_what_is_read_of_them(state):
    model, words = seeded(lambda: Reader(state)), torch.randint(9, (50, 5))
    found = find_sites(model, words)
    assert [place.name for place in found] == ["lstm", "act"] and found[0].outputs == (int(state),)
    seen = []
    model.hidden.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    with dropping(model, found, [0.5, 0]):
        model(words)
    assert 0.4 < (seen[0] == 0).float().mean() < 0.6


def test_attention_and_coordinates_steer_and_have_no_site():
    class Attends(nn.Module):
        def __init__(self, fused):
            super().__init__()
            self.q, self.k, self.v, self.o, self.out = (nn.Linear(8, 8) for _ in range(5))
            self.fused = fused

        def forward(self, x):
            q, k, v = self.q(x), self.k(x), self.v(x)
            if self.fused:
                mixed = F.scaled_dot_product_attention(q, k, v)
            else:
                mixed = F.dropout((q @ k.mT / 8**0.5).softmax(-1), 0.1, self.training) @ v
            return self.out(self.o(mixed))

    for fused in (False, True):
        found = find_sites(Attends(fused), torch.rand(2, 5, 8))
        assert [place.name for place in found] == ["o"] and set(found.without) == {"q", "k", "v", "out"}
        assert "attention" in found.without["v"]

    class Samples(nn.Module):
        def __init__(self):
            super().__init__()
            self.where, self.what, self.out = nn.Linear(64, 6), nn.Conv2d(1, 3, 1), nn.Conv2d(3, 2, 1)

        def forward(self, x):
            grid = F.affine_grid(self.where(x.flatten(1)).view(-1, 2, 3), (len(x), 3, 8, 8), align_corners=False)
            return self.out(F.grid_sample(self.what(x), grid, align_corners=False))

    found = find_sites(Samples(), torch.rand(2, 1, 8, 8))
    assert [place.name for place in found] == ["what"] and "coordinates" in found.without["where"]


def test_activations_are_known_by_what_they_do():
    class Swish(nn.Module):
        def __init__(self):
            super().__init__()
            self.gate = nn.Sigmoid()

        def forward(self, x):
            return x * self.gate(x)

    class Snake(nn.Module):
        def forward(self, x):
            return x + x.sin().square()

    for act in (Swish(), Snake(), nn.PReLU(), nn.Softsign(), nn.Sequential(nn.ReLU(), nn.Dropout(0.1))):
        model = nn.Sequential(nn.Linear(4, 6), act, nn.Linear(6, 2))
        assert names(model, torch.randn(3, 4)) == (["1.0"] if isinstance(act, nn.Sequential) else ["1"])
    for other in (nn.Softmax(-1), nn.Dropout(0.5), nn.LayerNorm(6, elementwise_affine=False), nn.Identity()):
        assert names(nn.Sequential(nn.Linear(4, 6), other, nn.Linear(6, 2)), torch.randn(3, 4)) == ["0"]


def test_several_outputs_tied_heads_and_frozen_parts():
    class Heads(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.act, self.one, self.two = nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2), nn.Linear(6, 3)

        def forward(self, x):
            h = self.act(self.body(x))
            return {"one": self.one(h), "two": self.two(h)}

    found = find_sites(Heads().requires_grad_(False), torch.randn(3, 4))
    assert [place.name for place in found] == ["act"] and set(found.without) == {"one", "two"}


def test_without_a_graph_the_order_of_calls_tells():
    class NoGraph(Net):
        @torch.no_grad()
        def forward(self, x):
            return super().forward(x)

    assert names(seeded(NoGraph), torch.randn(3, 8)) == ["act"]


def test_ignore_and_the_table():
    x = torch.randn(3, 8)

    class Deep(Net):
        def __init__(self):
            super().__init__()
            self.block = nn.Sequential(nn.Linear(16, 16), nn.Tanh())

        def forward(self, x):
            return self.b(self.block(self.act(self.a(x))))

    model = seeded(Deep)
    assert names(model, x) == ["act", "block.1"]
    for ignore in ("block", ["block*"], [nn.Tanh], ["block.0"]):
        found = find_sites(model, x, ignore=ignore)
        assert [place.name for place in found] == ["act"] and found.without["block.0"] == "ignored"
    table = str(find_sites(model, x, ignore="block")).splitlines()
    assert table[0].split() == ["site", "class", "after", "output", "drops"]
    assert table[1].split() == ["act", "ReLU", "a", "3×16", "features"]
    assert "layers without a site" in table and any("feeds no other layer" in line for line in table)
    for ignore in (["nothing"], [3]):
        with pytest.raises(ValueError, match="ignore"):
            find_sites(model, x, ignore=ignore)
    with pytest.raises(ValueError, match="no site"):
        find_sites(nn.Linear(8, 2), x)
    with pytest.raises(ValueError, match="model"):
        find_sites("model", x)


def test_the_network_is_left_alone_and_examples_may_be_tuples_or_dictionaries():
    class Two(Net):
        def forward(self, x, scale=None):
            x += 1
            return super().forward(x if scale is None else x * scale)

    model, x = seeded(Two).train(), torch.zeros(3, 8)
    model.a.requires_grad_(False)
    for example in (x, (x, torch.ones(3, 1)), {"x": x, "scale": torch.ones(3, 1)}):
        assert names(model, example) == ["act"]
    assert (x == 0).all() and model.training and not model.a.weight.requires_grad and model.b.weight.requires_grad
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert names(torch.compile(model, backend="eager"), x) == ["_orig_mod.act"]


# Other people's libraries


def test_bert_and_gpt2():
    transformers = pytest.importorskip("transformers")
    words = torch.randint(0, 50, (2, 6))
    for implementation in ("eager", "sdpa"):
        config = transformers.BertConfig(
            vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
            attn_implementation=implementation,
        )  # fmt: skip
        layers = [f"bert.encoder.layer.{i}" for i in (0, 1)]
        parts = "attention.output.dense", "intermediate.intermediate_act_fn", "output.dense"
        found = find_sites(transformers.BertForSequenceClassification(config), {"input_ids": words})
        assert [place.name for place in found] == [
            *(f"{layer}.{part}" for layer in layers for part in parts), "bert.pooler.activation",
        ]  # fmt: skip
        config = transformers.GPT2Config(
            vocab_size=50, n_positions=8, n_embd=16, n_layer=1, n_head=2, attn_implementation=implementation,
            bos_token_id=0, eos_token_id=0,
        )  # fmt: skip
        found = find_sites(transformers.GPT2LMHeadModel(config), {"input_ids": words})
        assert [place.name.removeprefix("transformer.h.0.") for place in found] == [
            "attn.c_proj", "mlp.act", "mlp.c_proj",
        ]  # fmt: skip


def test_timm():
    timm = pytest.importorskip("timm")
    vit = timm.models.VisionTransformer(32, 8, embed_dim=16, depth=1, num_heads=2, num_classes=5)
    assert names(vit, torch.rand(2, 3, 32, 32)) == [
        "patch_embed.proj", "blocks.0.attn.proj", "blocks.0.mlp.act", "blocks.0.mlp.fc2",
    ]  # fmt: skip
    convnext = timm.models.ConvNeXt(depths=(1, 1, 1, 1), dims=(8, 8, 16, 16), num_classes=4)
    found = axes(find_sites(convnext, torch.rand(2, 3, 64, 64)))
    assert found["stages.0.blocks.0.mlp.act"] == found["stages.0.blocks.0.mlp.fc2"] == -1
    assert found["stages.0.blocks.0.conv_dw"] == found["stem.0"] == 1 and len(found) == 16
