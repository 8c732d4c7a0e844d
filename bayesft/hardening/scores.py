"""Scores of outputs: one number an example, or one for all of them; more is better."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from bayesft.hardening.batches import mapped, part, size, tensors

Score = Callable[[Any, Any], Any]
IGNORED = -100  # PyTorch's mark of a position without a label


def accuracy(outputs: Any, labels: Any) -> Tensor:
    """The share of right classes of each example.

    Args:
        outputs: logits (B, C) or (B, ..., C) or (B, C, ...), or an object with such `logits`, or a tuple or dictionary
            with them.
        labels: classes (B,) or (B, ...) of integers; positions of −100 do not count.

    Returns:
        One number in [0, 1] an example, (B,). A position whose logits are not all finite is wrong.

    Raises:
        ValueError: the shapes do not fit, or a label is no class of the outputs.
    """
    logits, counted = aligned(outputs, labels)
    right = (logits.argmax(-1) == labels) & logits.isfinite().all(-1) & counted
    right, counted = right.reshape(len(labels), -1).sum(1), counted.reshape(len(labels), -1).sum(1)
    if bool((counted == 0).any()):
        raise ValueError(f"labels: an example has no label but {IGNORED}")
    return right.double() / counted


def cross_entropy(outputs: Any, labels: Any) -> Tensor:
    """The mean cross entropy, a scalar, of what `accuracy` takes. Half precision is computed in float32.

    Raises:
        ValueError: as `accuracy`.
    """
    logits, _ = aligned(outputs, labels)
    logits = logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
    return F.cross_entropy(logits.flatten(0, -2), labels.flatten().long(), ignore_index=IGNORED)


def aligned(outputs: Any, labels: Any) -> tuple[Tensor, Tensor]:
    """The logits with classes on their last axis, and which of the labels count; checked."""
    logits = _logits(outputs)
    if (
        not isinstance(labels, Tensor)
        or labels.is_floating_point()
        or labels.is_complex()
        or labels.dtype == torch.bool
    ):
        kind = labels.dtype if isinstance(labels, Tensor) else type(labels).__name__
        raise ValueError(f"labels of {kind} are no classes: need a tensor of integers, or give `score`")
    last = logits.dim() > 1 and labels.shape == logits.shape[:-1]
    second = logits.dim() > 1 and labels.shape == logits.shape[:1] + logits.shape[2:]
    if not last and not second:
        raise ValueError(
            f"outputs {tuple(logits.shape)} and labels {tuple(labels.shape)} do not fit; need "
            "(B, C) and (B,), or give `score` or `loss`"
        )
    if last and second and logits.dim() > 2:
        raise ValueError(f"outputs {tuple(logits.shape)} have classes on two axes: give `score`")
    logits = logits if last else logits.movedim(1, -1)
    if logits.shape[-1] < 2:
        raise ValueError("outputs of a single class; give `score`")
    return logits, check_classes(labels, logits.shape[-1])


def check_classes(labels: Tensor, classes: int) -> Tensor:
    """Which of the labels count. Raises ValueError where one of them is no class."""
    labels = labels.long()  # in other types the mark may be a class: −100 is 156 in eight bits without a sign
    counted = labels != IGNORED
    if not labels.numel():
        return counted
    low, high = labels.aminmax()  # most labels have no mark, and this is all that is asked of them
    if bool((low < 0) | (high >= classes)) and bool(((labels < 0) | (labels >= classes))[counted].any()):
        raise ValueError(f"labels from {int(labels[counted].min())} to {int(labels.max())}: need 0 to {classes - 1}")
    return counted


def _logits(outputs: Any) -> Tensor:
    found = outputs if isinstance(outputs, Tensor) else getattr(outputs, "logits", None)
    if found is None and isinstance(outputs, dict):
        found = outputs.get("logits", outputs.get("out"))
    if found is None and isinstance(outputs, (tuple, list)) and outputs:
        found = outputs[0]
    if not isinstance(found, Tensor):
        raise ValueError(f"the outputs are a {type(outputs).__name__} without logits; give `score`")
    return found


class Scorer:
    """A score, and how it must be computed.

    `by_example` is whether it is one number an example, which does not depend on the others: then it is computed batch
    by batch. All else is computed over all outputs at once. `adds_up` is whether the scores of parts are those of the
    whole. Both are found on a batch by `learn`.
    """

    def __init__(self, score: str | Score):
        if score != "accuracy" and not callable(score):
            raise ValueError(f"score = {score!r}: must be 'accuracy' or a function of (outputs, targets)")
        self.score: Score = accuracy if isinstance(score, str) else score
        self.name = score if isinstance(score, str) else getattr(score, "__name__", type(score).__name__)
        self.by_example = self.adds_up = True

    def learn(self, outputs: Any, targets: Any) -> None:
        """Try the score on a batch."""
        count = count_of(outputs, targets)
        value = self(outputs, targets, count)
        if bool(value.isnan().any()) and not bool(self.not_finite(outputs, count).any()):
            raise ValueError("score gives NaN on the first batch, where all outputs are finite")
        if self.score is not accuracy:
            self.adds_up = self.of_parts(outputs, targets, count)
            self.by_example = value.shape == (count,) and (self.adds_up or count == 1)

    def of_parts(self, outputs: Any, targets: Any, count: int) -> bool:
        """Whether the scores of parts are those of the whole, for these outputs and for shuffled ones."""
        shuffled = mapped(
            lambda tensor: tensor.roll(1, 0) if tensor.dim() and len(tensor) == count else tensor, outputs
        )
        return count > 1 and all(self._adds_up(given, targets, count) for given in (outputs, shuffled))

    def _adds_up(self, outputs: Any, targets: Any, count: int) -> bool:
        whole = self(outputs, targets, count)
        each = whole.shape == (count,)
        for cut in {1, count // 2, count - count // 3} - {count}:
            rows = slice(0, cut), slice(cut, count)
            sizes = cut, count - cut
            try:
                parts = [
                    self(part(outputs, r, count), part(targets, r, count), n) for r, n in zip(rows, sizes, strict=True)
                ]
            except Exception:  # a score that can't be had of a part
                return False
            if each:
                if any(p.shape != (n,) for p, n in zip(parts, sizes, strict=True)):
                    return False
                same = torch.cat(parts)
            else:
                same = (parts[0] * sizes[0] + parts[1] * sizes[1]) / count
            if not torch.allclose(same, whole, rtol=1e-4, atol=1e-6, equal_nan=True):
                return False
        return True

    def __call__(self, outputs: Any, targets: Any, count: int, bad: Tensor | None = None) -> Tensor:
        """The score in float64 on the CPU: (count,), or a scalar. Outputs that are not finite get at most 0.

        bad: which examples these are (`not_finite`), where it is known.
        """
        value = self.score(outputs, targets)
        if isinstance(value, (int, float, np.ndarray, np.generic)):
            value = torch.as_tensor(value)
        if not isinstance(value, Tensor) or value.is_complex() or value.shape not in ((), (count,)):
            given = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(f"score gives {given}: need one number, or one for each of {count} examples, ({count},)")
        value = value.detach().double().cpu()
        if value.dim():
            bad = self.not_finite(outputs, count) if bad is None else bad
            value = torch.where(bad, torch.minimum(value, torch.zeros(())), value)
        return value

    def not_finite(self, outputs: Any, count: int) -> Tensor:
        """Which examples have an output that is not finite, (count,) of bool on the CPU."""
        bad = torch.zeros(count, dtype=torch.bool)
        for tensor in tensors(_logits(outputs) if self.score is accuracy else outputs):
            if tensor.dim() and len(tensor) == count and (tensor.is_floating_point() or tensor.is_complex()):
                bad |= ~tensor.detach().isfinite().reshape(count, -1).all(1).cpu()
        return bad


def count_of(outputs: Any, targets: Any) -> int:
    """How many examples a batch has."""
    count = size(targets)
    count = size(outputs) if count is None else count
    if not count:
        raise ValueError("data: a batch has no examples, or neither targets nor outputs have a first dimension of them")
    return count
