"""Which weights go at a selection: scores become masks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor

from prunella.allocation import Global
from prunella.criteria.base import Criterion, View, scored
from prunella.errors import Diverged, UsageError
from prunella.given import Given
from prunella.masks import Masks
from prunella.prunable import Prunable
from prunella.sharding import is_sharded, nonzeros, part_of, spread, whole


class Selection(Mapping[str, Tensor]):
    """Chooses masks; as a mapping, the scores it chooses by.

    They are [out, in] or [matrices, out, in] by name, each computed whenever it is asked for, so
    that few are held at once. A sharded one may be laid out as its parameter is.

    Args:
        criterion: gives scores, or masks where sparsity is an outcome.
        allocation: how scores become masks.
        prunable: the parameters by name.
        masks: where the choice goes.
        given: what is pruned already.
        view: a parameter as the criterion sees it now.
    """

    def __init__(
        self,
        criterion: Criterion,
        allocation: Global,
        prunable: Mapping[str, Prunable],
        masks: Masks,
        given: Given,
        view: Callable[[str], View],
    ):
        self._criterion = criterion
        self._allocation = allocation
        self._prunable = prunable
        self._masks = masks
        self._given = given
        self._view = view

    def __getitem__(self, name: str) -> Tensor:
        prunable = self._prunable[name]
        score = self._masks.shut(name, scored(self._criterion, self._view(name)))
        score = spread(score, prunable.parameter)
        return score if self._rows_apart(name) else prunable.oriented(whole(score))

    def __iter__(self) -> Iterator[str]:
        return iter(self._prunable)

    def __len__(self) -> int:
        return len(self._prunable)

    def _rows_apart(self, name: str) -> bool:
        """Whether masks are chosen by processes that see some rows of a matrix each."""
        prunable, allocation = self._prunable[name], self._allocation
        several = prunable.slices > 1 or prunable.parameter.ndim > 2
        together = allocation.ranks_apart and several
        seen = allocation.pattern.within_rows and not prunable.transposed and not together
        return seen and is_sharded(prunable.parameter)

    def choose(self, sparsity: float, step: int) -> None:
        """Masks of a sparsity, after a step.

        Raises:
            UsageError: all scores are zero.
            Diverged: one is NaN.
        """
        if sparsity == 0:
            return
        if self._given.suffices(self._allocation, sparsity):
            self._masks.values |= self._masks.given
            return
        if all(nonzeros(self[name]) == self._given.counts[name][0] for name in self):
            raise UsageError(
                f"every score of {self._criterion!r} is zero at step {step}: no gradient has "
                "reached the prunable parameters, so there is nothing to choose by; choose others, "
                "which are trained, with parameters=[...]"
            )
        try:
            masks = self._allocation.masks(self, sparsity)
        except Diverged as error:
            raise Diverged(f"no masks can be selected at step {step}: {error}") from None
        for name, mask in masks.items():
            prunable = self._prunable[name]
            if not self._rows_apart(name):
                mask = part_of(prunable.stored(mask).contiguous(), prunable.parameter)
            self._masks.choose(name, mask)

    def take_outcome(self) -> None:
        """The criterion's own masks, matrix by matrix.

        Raises:
            Diverged: a score is NaN.
        """
        for name, prunable in self._prunable.items():
            view = self._view(name)
            score = view.state["score"]
            if score.isnan().any():
                raise Diverged(f"the scores of {name} hold NaN at step {view.step}")
            score = spread(self._masks.shut(name, score), prunable.parameter)
            score = whole(score)
            each = [
                self._criterion.outcome(matrix, view.progress)
                for matrix in score.chunk(prunable.matrices)
            ]
            mask = torch.cat([matrix for matrix in each if matrix is not None])
            self._masks.choose(name, part_of(mask, prunable.parameter))
