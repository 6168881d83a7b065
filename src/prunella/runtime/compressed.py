"""Weights as compressed-tensors codes them in its form ``sparse-bitmask``.

It is our coding in other words. Of the weight of a module M a file holds ``M.bitmask`` (one bit a
weight, the lowest of a byte first; every row begins with a new byte), ``M.compressed`` (what is not
zero, row by row), ``M.shape`` and ``M.row_offsets`` (where each row begins in it, which the bits
tell too). Source: ``bitmask_compress`` and ``pack_bitmasks`` of compressed-tensors 0.3 to 0.12.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import Tensor

from prunella.bitmask import Coded, pack, unpack
from prunella.errors import UsageError
from prunella.runtime.files import LIMIT

PARTS = ("bitmask", "compressed", "shape", "row_offsets")


def coded(module: str, get: Callable[[str], Tensor]) -> Coded:
    """A module's weight in our own coding, whatever the number of its dimensions.

    Args:
        module: its name.
        get: what a name stands for in the checkpoint.

    Raises:
        UsageError: the parts do not belong together, or the values are of a dtype that is not read.
    """
    bits, values, shape = (get(f"{module}.{part}") for part in ("bitmask", "compressed", "shape"))
    sides = tuple(int(side) for side in shape.flatten())
    rows = (*sides[:-1], -(-sides[-1] // 8)) if sides else ()
    if min(sides, default=-1) < 0 or math.prod(sides) >= LIMIT or tuple(bits.shape) != rows:
        raise UsageError(
            f"the weight of {module} is damaged: a bitmask of {list(bits.shape)} does not fit the "
            f"shape {list(sides)}; fetch the file anew"
        )
    bits = bits.flatten()
    try:
        if sides[-1] % 8:
            kept = unpack(bits, 8 * len(bits)).view(-1, 8 * rows[-1])
            bits = pack(kept[:, : sides[-1]])
        return Coded(sides, bits, values)
    except (UsageError, RuntimeError) as error:
        raise UsageError(f"the weight of {module} cannot be read: {error}") from error
