"""Faults of the bits that hold digital weights."""

from typing import ClassVar, Literal

import torch
from torch import Tensor

from bayesft.drift.faults.interface import Traits, WeightFault, largest, straight_through, uniform
from bayesft.drift.faults.quantise import uniform_step
from bayesft.drift.faults.registry import register

_SHARES = (0.0, 1e-5, 1e-4, 1e-3, 1e-2)


def struck_bits(theta: Tensor, bits: int, level: float, generator: torch.Generator) -> Tensor:
    """For each weight a mask of the bits that a fault strikes, each with probability `level`: int32."""
    mask = torch.zeros(theta.shape, dtype=torch.int32, device=theta.device)
    for bit in range(bits):  # one bit at a time: 32 numbers a weight would fill the memory
        mask |= (uniform(theta, generator) < level).int() << bit
    return mask


class _Int8Fault(WeightFault):
    """A fault of weights that are stored as 8-bit integers in two's complement: write `strike`."""

    def faulty(self, theta: Tensor, level: float, generator: torch.Generator) -> Tensor:
        peak = largest(theta)
        if peak == 0:
            return theta.clone()
        step = uniform_step(peak, 8)
        q = (theta.detach() / step).round().int()
        return straight_through(self.strike(q, struck_bits(theta, 8, level, generator)) * step, theta)

    def strike(self, q: Tensor, mask: Tensor) -> Tensor:
        """The integers in −128…127 that `q`, in −127…127, becomes; `mask` has the bits that the fault strikes."""
        raise NotImplementedError


def _signed(code: Tensor) -> Tensor:
    """The integer in −128…127 of which `code` has the lowest 8 bits."""
    code = code & 0xFF
    return code - 256 * (code > 127).int()


@register("bitflip_int8")
class Int8BitFlips(_Int8Fault):
    """Flipped bits of 8-bit integers. At level 0 the weights are quantised. The gradient is 1 (straight-through).

    Device: digital memory, or a link to it, with soft errors.

    Formula: θ′ = s·q′, s = max|θ|/127; q = round(θ/s) in 8-bit two's complement; each bit of q flips with
    probability p; q′ = −128 is possible

    Source: PyTorchFI `single_bit_flip_func`; enpheeph `BitFlip`
    """

    traits: ClassVar[Traits] = Traits("share of flipped bits", "p", grid=_SHARES, maximum=1.0)

    def strike(self, q: Tensor, mask: Tensor) -> Tensor:
        return _signed(q ^ mask)


@register("stuck_bit")
class StuckBits(_Int8Fault):
    """Bits of 8-bit integers that are stuck. At level 0 the weights are quantised. The gradient is 1.

    Args:
        value: what the bits are stuck at, 0 or 1.

    Device: digital memory with broken cells.

    Formula: as `bitflip_int8`, but each bit of q is set to `value` with probability p

    Source: enpheeph `StuckAtZero`, `StuckAtOne`
    """

    value: Literal[0, 1] = 1

    traits: ClassVar[Traits] = Traits("share of stuck bits", "p", grid=_SHARES, maximum=1.0)

    def strike(self, q: Tensor, mask: Tensor) -> Tensor:
        return _signed(q | mask if self.value else q & ~mask)


@register("bitflip_float32")
class Float32BitFlips(WeightFault):
    """Flipped bits of float32 numbers, whatever the dtype of the weights. NaN and infinity stay where they arise.

    A weight without a flipped bit is given back bit for bit. Training under this fault makes no sense: one flipped bit
    of an exponent makes the loss infinite.

    Device: digital memory of weights that are not quantised, with soft errors.

    Formula: each of the 32 bits of θ in IEEE 754 flips with probability p

    Source: enpheeph `BitFlip`
    """

    traits: ClassVar[Traits] = Traits(
        "share of flipped bits", "p", grid=(0.0, 1e-8, 1e-7, 1e-6, 1e-5, 1e-4), maximum=1.0,
        identity_at_zero=True, differentiable=False,
    )  # fmt: skip

    def faulty(self, theta: Tensor, level: float, generator: torch.Generator) -> Tensor:
        mask = struck_bits(theta, 32, level, generator)
        return torch.where(mask == 0, theta, flip_float32(theta.detach(), mask))


def flip_float32(theta: Tensor, mask: Tensor) -> Tensor:
    """`theta` with the bits of `mask` (int32) flipped in its float32 form; the dtype of `theta`."""
    return (theta.float().contiguous().view(torch.int32) ^ mask).view(torch.float32).to(theta.dtype)
