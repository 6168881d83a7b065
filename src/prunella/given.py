"""Masks of a model that was pruned before: what they remove stays removed."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from prunella.allocation import NM, Global
from prunella.bitmask import pack
from prunella.errors import UsageError
from prunella.prunable import Prunable, few
from prunella.sharding import local, nonzeros, part_of, spread, whole

logger = logging.getLogger("prunella")

Start = Mapping[str, Tensor] | Literal["afresh"] | None

_NEAR = 1e-3  # a final sparsity as near to the masks' as this means the masks themselves


def shown(prunable: Mapping[str, Prunable]) -> dict[str, Tensor]:
    """Masks that keep what is not zero, of a model that shows that it was pruned.

    It does so where more than one in a thousand of its prunable weights are zero, and more than
    eight. Tensors that are zero throughout (as many adapters and heads begin) and the padding rows
    of look-up tables do not speak for it. Where others do, matrices that are zero throughout are
    taken for pruned too, but not biases.

    Returns:
        name -> bool tensor of the parameter's shape and layout, True = kept; empty where the model
        does not show it.
    """
    total = zeros = 0
    odd: set[str] = set()
    for name, p in prunable.items():
        size = p.parameter.numel()
        pruned = size - nonzeros(spread(p.kept(), p.parameter))
        if pruned == size:
            odd.add(name)
            continue
        if isinstance(p.module, nn.Embedding) and p.module.padding_idx is not None:
            pruned = max(pruned - p.module.embedding_dim, 0)
        total, zeros = total + size, zeros + pruned
    if zeros <= few(total):
        return {}
    return {
        name: spread(p.kept(), p.parameter)
        for name, p in prunable.items()
        if name not in odd or p.parameter.ndim > 1
    }


class Given:
    """Masks that a pruner starts from; the weights they remove are among the pruned ones always.

    Args:
        start: name -> bool tensor of the parameter's shape, True = kept; parameters that are left
            out are kept whole. ``"afresh"`` = nothing was pruned before, whatever is zero. None =
            as the model shows (see ``shown``).
        prunable: the parameters by name.

    Attributes:
        counts: name -> how many weights of how many are pruned.
        follows: whether the masks are those that the model shows.

    Raises:
        UsageError: a mask of no prunable parameter, or of another shape or dtype.
    """

    def __init__(self, start: Start, prunable: Mapping[str, Prunable]):
        if isinstance(start, str) and start != "afresh":
            raise UsageError(
                f"masks={start!r} is no choice; give masks by name, 'afresh' to let zeros come "
                "back, or leave it out: what is zero then stays zero"
            )
        self._prunable = prunable
        self.follows = start is None
        self.take(shown(prunable) if start is None else {} if start == "afresh" else start)

    def take(self, masks: Mapping[str, Tensor]) -> None:
        """Start from these masks."""
        self._masks = {name: whole(mask) for name, mask in masks.items()}
        self._stays = False
        for name, mask in self._masks.items():
            if name not in self._prunable:
                raise UsageError(
                    f"masks has {name!r}, which is not pruned here; give masks of what is, such as "
                    f"{next(iter(self._prunable))!r}, or choose it with parameters"
                )
            shape = tuple(self._prunable[name].parameter.shape)
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
            for name, p in self._prunable.items()
        }
        self._each = dict(self._by_matrix())  # (name, which matrix of its stack) -> likewise
        packed = [pack(mask).long() for mask in self._masks.values()]
        self._checksum = sum(
            int((p * torch.arange(1, len(p) + 1, device=p.device)).sum()) for p in packed
        )

    def _by_matrix(self) -> Iterator[tuple[tuple[str, int], tuple[int, int]]]:
        for name, prunable in self._prunable.items():
            pruned, total = self.counts[name]
            if prunable.matrices == 1 or not pruned:
                counts = [pruned] * prunable.matrices
            else:
                counts = (~prunable.oriented(self._masks[name])).sum(dim=(1, 2)).tolist()
            for place, count in enumerate(counts):
                yield (name, place), (count, total // prunable.matrices)

    def look(self) -> bool:
        """Whether the model shows other masks by now, which are then taken."""
        before = repr(self)
        self.take(shown(self._prunable))
        return repr(self) != before

    def __bool__(self) -> bool:
        return bool(self._masks)

    def __repr__(self) -> str:
        """States are compared by it: how many weights are pruned, and a checksum of which."""
        pruned = sum(count for count, _ in self.counts.values())
        return f"Given({pruned} pruned, checksum {self._checksum:x})"

    @property
    def sparsity(self) -> float:
        """Fraction of the prunable weights that the masks remove."""
        pruned, totals = zip(*self.counts.values(), strict=True)
        return sum(pruned) / sum(totals)

    def say(self) -> None:
        """Tell the log of zeros that were found and stay."""
        if not self:
            return
        dead = [n for n, (pruned, total) in self.counts.items() if pruned == total]
        logger.warning(
            "%.2f%% of the prunable weights are zero already: they stay zero, and the schedule "
            "counts them in%s. To let them come back, start with masks='afresh' (by command, "
            "--masks-from afresh)",
            100 * self.sparsity,
            f"; {len(dead)} matrices are zero throughout, {dead[0]} to begin with" if dead else "",
        )

    def check(self, allocation: Global, final: float) -> None:
        """Raise UsageError where a mask does not fit the pattern, or the final sparsity is below.

        Within 0.1 % of the masks' own sparsity, the final one means that they stay as they are.
        """
        if not self:
            return
        sparsity = self.sparsity
        afresh = "start with masks='afresh'"
        if final < sparsity - _NEAR:
            raise UsageError(
                f"the masks at the start remove {sparsity:.4f} of the weights, which stay zero, "
                f"but the schedule ends at {final}; let it end at {sparsity:.4f} or above, by a "
                f"higher final={final}, or {afresh}"
            )
        for name, mask in self._masks.items():
            if not allocation.pattern.fits(self._prunable[name].oriented(mask)):
                raise UsageError(
                    f"the mask at the start of {name}, whose zeros stay, is none of "
                    f"{allocation.pattern!r}; prune without that pattern, or {afresh}"
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
