"""Masks of a model that was pruned before: what they remove stays removed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property

import torch
from torch import Tensor

from prunella.allocation import NM, Global
from prunella.bitmask import pack
from prunella.errors import UsageError
from prunella.prunable import Prunable
from prunella.sharding import local, part_of, whole

_NEAR = 1e-3  # a final sparsity as near to the masks' as this means the masks themselves


class Given:
    """Masks that a pruner starts from; the weights they remove are among the pruned ones always.

    Args:
        masks: name -> bool tensor of the parameter's shape, True = kept; parameters that are left
            out are kept whole. None or empty = nothing was pruned before.
        prunable: the parameters by name.

    Attributes:
        counts: name -> how many weights of how many are pruned.

    Raises:
        UsageError: a mask of no prunable parameter, or of another shape or dtype.
    """

    def __init__(self, masks: Mapping[str, Tensor] | None, prunable: Mapping[str, Prunable]):
        self._prunable = prunable
        self._masks = {name: whole(mask) for name, mask in (masks or {}).items()}
        self._stays = False
        for name, mask in self._masks.items():
            if name not in prunable:
                raise UsageError(
                    f"masks has {name!r}, which is not pruned here; give masks of what is, such as "
                    f"{next(iter(prunable))!r}, or choose it with parameters"
                )
            shape = tuple(prunable[name].parameter.shape)
            if mask.dtype != torch.bool or tuple(mask.shape) != shape:
                raise UsageError(
                    f"the mask of {name} is {mask.dtype} {tuple(mask.shape)}, but the parameter "
                    f"{shape}; give a bool tensor of its shape, True where a weight is kept"
                )
        self.counts = {
            name: (
                int((~self._masks[name]).sum()) if name in self._masks else 0,
                p.parameter.numel(),
            )
            for name, p in prunable.items()
        }
        self._each = dict(self._by_matrix())  # (name, which matrix of its stack) -> likewise

    def _by_matrix(self) -> Iterator[tuple[tuple[str, int], tuple[int, int]]]:
        for name, prunable in self._prunable.items():
            pruned, total = self.counts[name]
            if prunable.matrices == 1 or not pruned:
                counts = [pruned] * prunable.matrices
            else:
                counts = (~prunable.oriented(self._masks[name])).sum(dim=(1, 2)).tolist()
            for place, count in enumerate(counts):
                yield (name, place), (count, total // prunable.matrices)

    def __bool__(self) -> bool:
        return bool(self._masks)

    def __repr__(self) -> str:
        """States are compared by it: how many weights are pruned, and a checksum of which."""
        pruned = sum(count for count, _ in self.counts.values())
        return f"Given({pruned} pruned, checksum {self._checksum:x})"

    @cached_property
    def _checksum(self) -> int:
        packed = [pack(mask).long() for mask in self._masks.values()]
        return sum(int((p * torch.arange(1, len(p) + 1, device=p.device)).sum()) for p in packed)

    def check(self, allocation: Global, final: float) -> None:
        """Raise UsageError where a mask does not fit the pattern, or the final sparsity is below.

        Within 0.1 % of the masks' own sparsity, the final one means that they stay as they are.
        """
        if not self:
            return
        pruned, totals = zip(*self.counts.values(), strict=True)
        sparsity = sum(pruned) / sum(totals)
        if final < sparsity - _NEAR:
            raise UsageError(
                f"the masks given remove {sparsity:.4f} of the weights, but the schedule ends at "
                f"{final}; let it end at {sparsity:.4f} or above"
            )
        for name, mask in self._masks.items():
            if not allocation.pattern.fits(self._prunable[name].oriented(mask)):
                raise UsageError(
                    f"the mask given for {name} is none of {allocation.pattern!r}; give masks of "
                    "that pattern, or prune without it"
                )
        # N:M promises its count in every group.
        self._stays = final < sparsity + _NEAR and not isinstance(allocation.pattern, NM)

    def suffices(self, allocation: Global, sparsity: float) -> bool:
        """Whether the masks stay as they are when a sparsity is asked for."""
        return bool(self) and (self._stays or allocation.reached(self._each, sparsity))

    def parts(self) -> dict[str, Tensor]:
        """This process's part of every parameter's mask; nothing where no masks were given."""
        return {
            name: part_of(self._masks[name].to(local(p.parameter).device), p.parameter)
            if name in self._masks
            else torch.ones_like(local(p.parameter), dtype=torch.bool)
            for name, p in self._prunable.items()
            if self
        }
