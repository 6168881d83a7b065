"""One tensor as the bits of what is kept, and the kept values: exact, for every bit pattern.

A weight is kept unless all of its bits are zero, so -0.0 and NaN come back as they were. At density
d and b bits a value this takes 1 + d·b bits a weight. No coding of a random mask can do with less
than its entropy in place of the 1: H(d) = -d·log₂ d - (1-d)·log₂(1-d).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from prunella.errors import UsageError

# The dtypes that can be coded, and integers of the same width: a weight's bits as a number.
_INTEGERS = {
    torch.float64: torch.int64,
    torch.float32: torch.int32,
    torch.float16: torch.int16,
    torch.bfloat16: torch.int16,
}
# For every byte its bits as eight bools, lowest first, seen as one integer; and how many are set.
_BITS = torch.arange(256, device="cpu")[:, None] >> torch.arange(8, device="cpu") & 1
_BOOLS = _BITS.bool().view(torch.int64).flatten()
_ONES = _BITS.sum(1)


@dataclass(frozen=True, eq=False)
class Coded:
    """A tensor in coded form. One that exists is consistent.

    Attributes:
        shape: of the tensor.
        bits: uint8 [ceil(n / 8)] for n weights, the lowest bit first, row-major: whether a weight
            is kept.
        values: [kept], of the tensor's dtype, in the same order.

    Raises:
        UsageError: bits and values do not belong together, or to the shape.
    """

    shape: tuple[int, ...]
    bits: Tensor
    values: Tensor

    def __post_init__(self) -> None:
        count, bits, values = self.count, self.bits, self.values
        if min(self.shape, default=0) < 0:
            raise UsageError(f"the shape {self.shape} has a negative side; give sides of 0 or more")
        if bits.dtype != torch.uint8 or bits.shape != (-(-count // 8),):
            raise UsageError(
                f"{bits.dtype} {list(bits.shape)} is no mask of {count} weights; give uint8 "
                f"[{-(-count // 8)}]"
            )
        if values.dtype not in _INTEGERS or values.ndim != 1:
            raise UsageError(
                f"{values.dtype} {list(values.shape)} cannot be kept values; give a vector of "
                f"{_known()}"
            )
        if count % 8 and int(bits[-1]) >> count % 8:
            raise UsageError(
                f"the mask keeps weights beyond the {count} that there are; clear its last bits"
            )
        kept = int((bits.bincount(minlength=256) * _ONES.to(bits.device)).sum())
        if kept != values.numel():
            raise UsageError(
                f"the mask keeps {kept} weights, but there are {values.numel()} values; give one "
                "for each"
            )

    @property
    def count(self) -> int:
        """How many weights the tensor has, kept or not."""
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        """Bytes of bits and values."""
        return self.bits.nbytes + self.values.nbytes


def can_code(dtype: torch.dtype) -> bool:
    """Whether tensors of a dtype can be coded: float64, float32, float16 and bfloat16."""
    return dtype in _INTEGERS


def coded_bytes(tensor: Tensor) -> int:
    """Bytes that a tensor of such a dtype would take in coded form."""
    kept = int(tensor.detach().view(_INTEGERS[tensor.dtype]).count_nonzero())
    return -(-tensor.numel() // 8) + kept * tensor.itemsize


def encode(tensor: Tensor) -> Coded:
    """Code a tensor; the result is in the machine's own memory, whatever device it came from.

    Raises:
        UsageError: its dtype is not one of float64, float32, float16 and bfloat16.
    """
    if not can_code(tensor.dtype):
        raise UsageError(f"a tensor of {tensor.dtype} cannot be coded; convert it to {_known()}")
    flat = tensor.detach().cpu().flatten()
    kept = flat.view(_INTEGERS[flat.dtype]) != 0
    return Coded(tuple(tensor.shape), pack(kept), flat[kept])


def decode(coded: Coded) -> Tensor:
    """The tensor, bit for bit."""
    flat = coded.values.new_zeros(coded.count)
    return flat.masked_scatter_(unpack(coded.bits, coded.count), coded.values).view(coded.shape)


def pack(kept: Tensor) -> Tensor:
    """Bools, row-major, as the bits of bytes: uint8 [ceil(n / 8)], the lowest bit first."""
    padded = kept.new_zeros(-(-kept.numel() // 8) * 8)
    padded[: kept.numel()] = kept.flatten()
    # Eight bools are one little-endian integer; the product brings bool i to bit 56 + i of it.
    return (padded.view(torch.int64) * 0x0102040810204080 >> 56).to(torch.uint8)


def unpack(bits: Tensor, count: int) -> Tensor:
    """The first ``count`` bools of packed ones: [count]."""
    return _BOOLS.to(bits.device).index_select(0, bits.int()).view(torch.bool)[:count]


def ideal_bytes(count: int, kept: int, bits: int) -> float:
    """Bytes of ideal bitmask coding: one bit for each weight, and the kept values.

    Args:
        count: how many weights there are.
        kept: how many of them are kept.
        bits: bits of a value.
    """
    return (count + kept * bits) / 8


def bound_bytes(count: int, kept: int, bits: int) -> float:
    """Bytes that no coding of a random mask goes below: its entropy, and the kept values."""
    density = kept / count if count else 0.0
    entropy = -sum(p * math.log2(p) for p in (density, 1 - density) if p > 0)
    return (count * entropy + kept * bits) / 8


def _known() -> str:
    return ", ".join(str(dtype).removeprefix("torch.") for dtype in _INTEGERS)
