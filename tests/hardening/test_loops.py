"""The loops of docs/library/own-loop.md, with the classes that stand there, against a plain loop."""

import re
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from bayesft.hardening.step import Hardening
from tests.hardening.conftest import Net, data, seeded

PAGE = (Path(__file__).parents[2] / "docs" / "library" / "own-loop.md").read_text(encoding="utf-8")
STEPS, RATE = 3, 0.1


def defined(name: str) -> type:
    """The class of this name, as the page defines it."""
    block = next(
        b for b in re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE) if f"class {name}" in b
    )
    code = re.search(rf"^class {name}.*?(?=^\S)", block, re.DOTALL | re.MULTILINE).group(0)
    names: dict = {}
    exec("\n".join(re.findall(r"^(?:import|from) .*$", block, re.M)) + "\n" + code, names)
    return names[name]


def by_hand(model: nn.Module, hardening: Hardening, loss) -> None:
    optimizer = torch.optim.SGD(model.parameters(), RATE)
    for step in range(STEPS):
        optimizer.zero_grad()
        with hardening.step(step / STEPS):
            loss(model).backward()
        optimizer.step()


def assert_equal(first: nn.Module, second: nn.Module, start: nn.Module) -> None:
    for (name, one), (_, two) in zip(first.named_parameters(), second.named_parameters(), strict=True):
        torch.testing.assert_close(one, two, msg=name)
    assert not torch.equal(next(first.parameters()), next(start.parameters()))


def test_hugging_face_trainer(tmp_path):
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    config = transformers.BertConfig(
        vocab_size=20, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, num_labels=2
    )
    start = seeded(lambda: transformers.BertForSequenceClassification(config)).train()
    one, two = deepcopy(start), deepcopy(start)
    words = torch.randint(0, 20, (16, 6), generator=torch.Generator().manual_seed(0))
    given = {"input_ids": words, "labels": words[:, 0] % 2}
    by_hand(one, Hardening(one, rate=0.2, level=0.5), lambda model: model(**given).loss)
    options = transformers.TrainingArguments(
        tmp_path, max_steps=STEPS, per_device_train_batch_size=16, optim="sgd", learning_rate=RATE, max_grad_norm=0,
        lr_scheduler_type="constant", report_to=[], use_cpu=True, disable_tqdm=True, save_strategy="no",
    )  # fmt: skip
    rows = [{name: value[i] for name, value in given.items()} for i in range(16)]
    trainer = defined("HardeningTrainer")(
        two, options, train_dataset=rows, hardening=Hardening(two, rate=0.2, level=0.5)
    )
    trainer._get_train_sampler = lambda *_: torch.utils.data.SequentialSampler(rows)
    trainer.train()
    assert_equal(one, two, start)


def test_lightning():
    lightning = pytest.importorskip("lightning")
    x, y = data(16)
    start = seeded(Net)
    one, two = deepcopy(start), deepcopy(start)
    by_hand(one, Hardening(one, rate=0.2, level=0.5), lambda model: F.cross_entropy(model(x), y))

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = two

        def training_step(self, batch, index):
            return F.cross_entropy(self.net(batch[0]), batch[1])

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), RATE)

    trainer = lightning.Trainer(
        max_steps=STEPS, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[defined("HardeningCallback")(Hardening(two, rate=0.2, level=0.5))],
    )  # fmt: skip
    trainer.fit(Module(), DataLoader(TensorDataset(x, y), batch_size=16))
    assert_equal(one, two, start)


def test_a_detector_learns_under_faults():
    detection = pytest.importorskip("torchvision.models.detection")
    from torchvision.models.detection.anchor_utils import AnchorGenerator

    def build():
        backbone = nn.Sequential(nn.Conv2d(3, 8, 3, 4, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 4, 1), nn.ReLU())
        backbone.out_channels = 8
        return detection.FasterRCNN(
            backbone, 2, min_size=64, max_size=64, rpn_anchor_generator=AnchorGenerator(((16, 32),), ((1.0,),))
        )

    model = seeded(build).train()
    images = list(torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)))
    targets = [{"boxes": torch.tensor([[8.0, 8.0, 40.0, 40.0]]), "labels": torch.tensor([1])} for _ in images]
    kept = [image.clone() for image in images]
    h = Hardening(model, rate=0.1, level=0.3)
    with h.step(1.0):
        sum(model(images, targets).values()).backward()
    assert all(theta.grad is not None and theta.grad.isfinite().all() for theta in model.parameters())
    assert {"backbone.1", "backbone.3", "rpn.head.conv.0.1"} <= {place.name for place in h.sites}
    assert all(torch.equal(a, b) for a, b in zip(images, kept, strict=True))
    for one, two in zip(model.parameters(), seeded(build).parameters(), strict=True):
        assert torch.equal(one, two)
