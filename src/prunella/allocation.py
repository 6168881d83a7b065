"""Which weights go: scores become masks of an exact sparsity.

An allocation is a scope (one ranking over all matrices, or one in each) and a pattern (single
weights, N:M groups, blocks). Counts are exact, equal scores are decided by position (the earlier
weight survives: matrices in the order of the mapping, then row by row), and nothing is random, so
every process that sees the same scores chooses the same masks.

Matrices come as [out, in], or stacked as [matrices, out, in]; the caller turns a transposed
storage (GPT-2's Conv1D) around.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from prunella.errors import Diverged, UsageError
from prunella.sharding import gathered, is_sharded, local, shard_group

_STRIDE = 521  # every such score is in the sample; prime, so that it sees all columns


@dataclass(frozen=True)
class Element:
    """Every weight stands alone."""

    @property
    def within_rows(self) -> bool:
        """Whether what is kept or pruned as a whole lies in one row, so that rows can be apart."""
        return True

    def check(self, name: str, shape: tuple[int, ...], final: float) -> None:
        """Raise UsageError where the pattern cannot be laid on a tensor or reach a sparsity."""

    def units(self, scores: Tensor) -> Tensor:
        """One score for each thing that is kept or pruned as a whole."""
        return scores

    def expand(self, mask: Tensor) -> Tensor:
        """The mask over weights that belongs to a mask over units."""
        return mask

    def fits(self, mask: Tensor) -> bool:
        """Whether a mask over weights [..., out, in] can come about on the way to this pattern."""
        # Where weights are worth 1 or 0 as they are kept or not, what has any worth is kept whole.
        return not bool((self.expand(self.units(mask.float()) > 0) & ~mask).any())


@dataclass(frozen=True)
class Block(Element):
    """Blocks of ``h`` outputs by ``w`` inputs, kept or pruned whole by their mean score."""

    h: int
    w: int

    def __post_init__(self) -> None:
        if self.h < 1 or self.w < 1:
            raise UsageError(f"Block({self.h}, {self.w}): both sides must be at least 1")

    @property
    def within_rows(self) -> bool:
        return self.h == 1

    def check(self, name: str, shape: tuple[int, ...], final: float) -> None:
        if len(shape) < 2 or shape[-2] % self.h or shape[-1] % self.w:
            raise UsageError(
                f"Block({self.h}, {self.w}) does not divide {name} of shape {shape[-2:]} "
                "(outputs, inputs); choose sides that divide it, or, with parameters=[...], "
                "matrices that they divide"
            )

    def units(self, scores: Tensor) -> Tensor:
        *stack, rows, columns = scores.shape
        tiles = scores.reshape(*stack, rows // self.h, self.h, columns // self.w, self.w)
        return tiles.mean(dim=(-3, -1))

    def expand(self, mask: Tensor) -> Tensor:
        return mask.repeat_interleave(self.h, -2).repeat_interleave(self.w, -1)


@dataclass(frozen=True)
class NM(Element):
    """At least ``n`` of every ``m`` consecutive inputs survive; at the end, exactly ``n``.

    On the way there only the ``m - n`` lowest of each group are candidates, and the lowest
    candidates go first.
    """

    n: int
    m: int

    def __post_init__(self) -> None:
        if not 0 < self.n < self.m:
            raise UsageError(f"NM({self.n}, {self.m}) keeps n of m weights: it needs 0 < n < m")

    def check(self, name: str, shape: tuple[int, ...], final: float) -> None:
        if len(shape) < 2 or shape[-1] % self.m:
            raise UsageError(
                f"NM({self.n}, {self.m}) does not divide {name} of shape {shape[-2:]} (outputs, "
                f"inputs): the inputs must be a multiple of {self.m}; choose such matrices alone, "
                "with parameters=[...]"
            )
        if final and abs(final - (1 - self.n / self.m)) > 1e-9:
            raise UsageError(
                f"NM({self.n}, {self.m}) means a sparsity of {1 - self.n / self.m:g}, "
                f"not {final}; give final={1 - self.n / self.m:g}, or another pattern"
            )

    def units(self, scores: Tensor) -> Tensor:
        groups = scores.reshape(-1, self.m)
        winners = groups.argsort(dim=1, descending=True, stable=True)[:, : self.n]
        units = groups.scatter(1, winners, torch.inf)
        return units.masked_fill_(groups.isnan(), torch.nan).reshape(scores.shape)


@dataclass(frozen=True)
class Global:
    """One ranking over all matrices: exactly round(sparsity * n) of n weights (or blocks) go."""

    pattern: Element = field(default_factory=Element)

    @property
    def ranks_apart(self) -> bool:
        """Whether every matrix is ranked by itself, those of a stack too."""
        return False

    def masks(self, scores: Mapping[str, Tensor], sparsity: float) -> dict[str, Tensor]:
        """Bool masks, True = kept, of the shapes of the scores.

        Args:
            scores: name -> [out, in] or [matrices, out, in] scores, higher = keep. Each value is
                asked for a few times and dropped at once, so a mapping that computes them saves
                their memory. Of a sharded one (DTensor, cut along its rows) the mask is this
                process's part.
            sparsity: fraction to remove, in [0, 1].

        Raises:
            Diverged: a score is NaN.
            UsageError: the sparsity is outside its range.
        """
        if not 0 <= sparsity < 1:
            raise UsageError(f"sparsity {sparsity} is outside [0, 1)")
        masks = _select(scores, self.pattern, sparsity)
        return {name: self.pattern.expand(mask) for name, mask in masks.items()}

    def reached(self, counts: Mapping[Any, tuple[int, int]], sparsity: float) -> bool:
        """Whether masks that remove so many weights of so many, by matrix, are sparse enough."""
        pruned, totals = zip(*counts.values(), strict=True)
        return sum(pruned) >= round(sparsity * sum(totals))

    def check(self, shapes: Mapping[str, tuple[int, ...]], final: float) -> None:
        """Raise UsageError where the pattern does not fit the shapes or the final sparsity."""
        for name, shape in shapes.items():
            self.pattern.check(name, shape, final)


@dataclass(frozen=True)
class PerMatrix(Global):
    """A ranking in each matrix: exactly round(sparsity * n) of its n weights (or blocks) go."""

    @property
    def ranks_apart(self) -> bool:
        return True

    def masks(self, scores: Mapping[str, Tensor], sparsity: float) -> dict[str, Tensor]:
        masks: dict[str, Tensor] = {}
        for name in scores:
            score = scores[name]
            stack = score.unbind() if score.ndim > 2 else [score]
            each = [super(PerMatrix, self).masks({name: one}, sparsity)[name] for one in stack]
            masks[name] = torch.stack(each) if score.ndim > 2 else each[0]
        return masks

    def reached(self, counts: Mapping[Any, tuple[int, int]], sparsity: float) -> bool:
        return all(pruned >= round(sparsity * total) for pruned, total in counts.values())


def _select(scores: Mapping[str, Tensor], pattern: Element, sparsity: float) -> dict[str, Tensor]:
    """Masks over units without the round(sparsity * n) lowest scores.

    A sample guesses an interval that holds the cut. One pass compares everything with the
    interval and gathers only what lies inside, which is then ranked exactly. A wrong guess is
    noticed by the counts and widened. Of sharded scores every process passes over its own rows;
    only the sample and what lies inside the interval travels.
    """
    group = None
    samples: dict[str, Tensor] = {}
    sizes: dict[str, Tensor] = {}
    shards = set()
    for name in scores:
        score = scores[name]
        if is_sharded(score):
            shards.add(name)
            if group not in (None, shard_group(score)):
                raise UsageError(
                    f"{name} is sharded over other processes than the matrices before it; rank "
                    "matrices on one device mesh together, or use PerMatrix()"
                )
            group = shard_group(score)
        units = pattern.units(local(score)).flatten()
        samples[name] = _wide(units[::_STRIDE])
        sizes[name] = torch.tensor([units.numel()], device=units.device)
    total = _sum(_gather(sizes, shards, group))
    sample = torch.cat(_flat(_gather(samples, shards, group)))
    prune = round(sparsity * total)
    for margin in (3.0, 30.0, torch.inf):
        low, high = _bracket(sample, prune / total, margin)
        masks: dict[str, Tensor] = {}
        places: dict[str, Tensor] = {}
        values: dict[str, Tensor] = {}
        kept: dict[str, Tensor] = {}
        for name in scores:
            units = pattern.units(local(scores[name]))
            masks[name] = (units <= low).logical_not_()  # NaN is kept here, and so comes inside
            # As bytes: torch subtracts them faster than it combines bools.
            inside = masks[name].view(torch.uint8) - (units > high).view(torch.uint8)
            places[name] = _places(inside.flatten())
            values[name] = _wide(units.flatten()[places[name]])
            kept[name] = masks[name].count_nonzero().view(1)
        candidates = _gather(values, shards, group)
        for name, parts in candidates.items():
            if any(part.isnan().any() for part in parts):
                raise Diverged(f"the scores of {name} hold NaN")
        below = total - _sum(_gather(kept, shards, group))
        if below <= prune <= below + sum(part.numel() for part in _flat(candidates)):
            break
    parts = _flat(candidates)
    lost = _lowest(torch.cat(parts), prune - below).split([part.numel() for part in parts])
    here = 0 if group is None else torch.distributed.get_rank(group)
    first = 0
    for name, parts in candidates.items():
        mask = masks[name].flatten()
        mine = lost[first + (here if name in shards else 0)].to(mask.device)
        mask[places[name][mine]] = False
        masks[name] = mask.view_as(masks[name])
        first += len(parts)
    return masks


def _gather(vectors: Mapping[str, Tensor], shards: set[str], group: Any) -> dict[str, list[Tensor]]:
    """Of each matrix the vectors that belong to it: one from every process where it is sharded."""
    if group is None:
        return {name: [vector] for name, vector in vectors.items()}
    cut = [name for name in vectors if name in shards]
    mine = [vectors[name] for name in cut]
    lengths = torch.tensor([vector.numel() for vector in mine], device=mine[0].device)
    ranks = [
        dict(zip(cut, every.split(counts.tolist()), strict=True))
        for every, counts in zip(
            gathered(torch.cat(mine), group), gathered(lengths, group), strict=True
        )
    ]
    return {
        name: [parts[name] for parts in ranks] if name in shards else [vector]
        for name, vector in vectors.items()
    }


def _flat(parts: Mapping[str, list[Tensor]]) -> list[Tensor]:
    """One after the other, on the first one's device: a model may be spread over several."""
    every = [part for of_one in parts.values() for part in of_one]
    return [part.to(every[0].device) for part in every]


def _sum(counts: Mapping[str, list[Tensor]]) -> int:
    return int(torch.cat(_flat(counts)).sum())


def _places(marks: Tensor) -> Tensor:
    """Where few bytes of a vector are not zero, in order: eight at a time, then one by one."""
    if marks.numel() % 8:
        return marks.nonzero().squeeze(1)
    words = marks.view(torch.int64).nonzero()
    places = (words * 8 + torch.arange(8, device=marks.device)).flatten()
    return places[marks[places].bool()]


def _bracket(sample: Tensor, fraction: float, margin: float) -> tuple[float, float]:
    """An interval (low, high] around a quantile, ``margin`` standard errors of its rank wide.

    Without a lower end, low is NaN: nothing compares with it, so not even -inf lies below.
    """
    n = sample.numel()
    error = margin * (n * fraction * (1 - fraction)) ** 0.5 + 1 if margin < torch.inf else n
    low, high = n * fraction - error, n * fraction + error
    return (
        sample.kthvalue(int(low)).values.item() if low >= 1 else torch.nan,
        sample.kthvalue(int(high) + 1).values.item() if high < n else torch.inf,
    )


def _lowest(values: Tensor, count: int) -> Tensor:
    """A bool vector that is True at the ``count`` lowest values; among equals, at the last ones."""
    if count == 0:
        return torch.zeros_like(values, dtype=torch.bool)
    cut = values.kthvalue(count).values
    lowest = values < cut
    ties = (values == cut).nonzero().squeeze(1)
    lowest[ties[ties.numel() - (count - int(lowest.count_nonzero())) :]] = True
    return lowest


def _wide(scores: Tensor) -> Tensor:
    return scores.to(torch.promote_types(scores.dtype, torch.float32))
