"""When masks change, and how sparse the model is then: pure functions of the optimizer step.

Steps count successful optimizer steps from 0. ``begin`` and ``end`` are steps when they are
integers and fractions of the run when they are floats, so ``Cubic(0.9)`` fits a run of any length.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Literal, Self

from prunella.errors import UsageError


@dataclass(frozen=True)
class Schedule:
    """Sparsity grows from ``initial`` at ``begin`` to ``final`` at ``end``.

    Masks are selected anew at every step t with ``begin < t < end`` that ``every`` divides. What
    follows is named by ``after``:

    - ``"freeze"``: one last selection exactly at ``end``; the masks then stay as they are.
    - ``"reselect"``: a selection at ``end`` if ``every`` divides it, then one at every later step
      (as PLATON and PINS were released).

    Args:
        final: sparsity from ``end`` on, in [0, 1).
        begin: last step (int) or fraction of the run (float in [0, 1]) before the ramp.
        end: first step or fraction at which the sparsity is ``final``.
        every: steps between two selections inside the ramp.
        initial: sparsity from which the ramp starts, in [0, final]; nothing is pruned before the
            first selection all the same.
        after: what happens to the masks from ``end`` on.

    Raises:
        UsageError: a value outside its range, or ``begin`` not before ``end``.
    """

    final: float
    begin: int | float = 0.1
    end: int | float = 0.7
    every: int = 10
    initial: float = 0.0
    after: Literal["freeze", "reselect"] = "freeze"

    def __post_init__(self) -> None:
        for name in ("final", "initial"):
            if not 0 <= getattr(self, name) < 1:
                raise UsageError(
                    f"{name} sparsity {getattr(self, name)} is outside [0, 1); "
                    f"it is the fraction of weights removed, {name}=0.9 for 90 %"
                )
        for name in ("begin", "end"):
            value = getattr(self, name)
            if not value >= 0 or (isinstance(value, float) and value > 1):
                raise UsageError(
                    f"{name}={value} is no position in a run; give a step (an integer from 0) or "
                    "a fraction of the run (a float in [0, 1])"
                )
        if self.initial > self.final:
            raise UsageError(
                f"initial sparsity {self.initial} is above the final {self.final}; lower it"
            )
        if self.every < 1 or self.every != int(self.every):
            raise UsageError(f"every={self.every} must be a whole number of steps, at least 1")
        if self.after not in ("freeze", "reselect"):
            raise UsageError(f"after={self.after!r} must be 'freeze' or 'reselect'")
        if isinstance(self.begin, int) is isinstance(self.end, int):
            self._check_order(self.begin, self.end)

    def _check_order(self, begin: float, end: float, run: str = "") -> None:
        if begin >= end:
            raise UsageError(
                f"the sparsity ramp begins at {begin} and ends at {end}{run}: begin must "
                "come before end; train longer (total_steps), or put begin=... and end=... "
                "further apart"
            )

    def resolve(self, total_steps: int | None = None) -> Self:
        """The same schedule with ``begin`` and ``end`` in steps.

        A fraction f becomes step round(f * total_steps), and never one so late that the final
        sparsity would be missed.

        Args:
            total_steps: optimizer steps of the whole run; None where it is not known.

        Raises:
            UsageError: a fraction without ``total_steps``, a ramp that is empty once rounded, or
                one that ends after the run.

        >>> Cubic(0.9).resolve(1000)
        Cubic(final=0.9, begin=100, end=700, every=10, initial=0.0, after='freeze')
        """
        if total_steps is None:
            if isinstance(self.begin, float) or isinstance(self.end, float):
                raise UsageError(
                    f"{self!r} places its ramp by fractions of a run whose length is not known; "
                    "give begin and end in steps, or total_steps"
                )
            return self
        if total_steps < 1:
            raise UsageError(f"total_steps={total_steps} must be at least 1")
        last = max(total_steps - (2 if self.after == "reselect" else 1), 0)
        begin, end = (
            min(round(value * total_steps), last) if isinstance(value, float) else value
            for value in (self.begin, self.end)
        )
        self._check_order(begin, end, f" in a run of {total_steps} steps")
        resolved = replace(self, begin=begin, end=end)
        if resolved.final_update() > total_steps - 1:
            raise UsageError(
                f"the last mask selection falls on step {resolved.final_update()}, but a run of "
                f"{total_steps} steps ends with step {total_steps - 1}; lower end={self.end}"
            )
        return resolved

    def sparsity(self, step: int) -> float:
        """Fraction of the prunable weights to be removed at ``step``; needs begin, end in steps."""
        if step < self.begin:
            return self.initial
        if step >= self.end:
            return self.final
        progress = (step - self.begin) / (self.end - self.begin)
        return self.initial + (self.final - self.initial) * self.shape(progress)

    def shape(self, progress: float) -> float:
        """Part of the way from initial to final sparsity, for progress in [0, 1)."""
        raise NotImplementedError

    def updates(self, step: int) -> bool:
        """Whether masks are selected anew after optimizer step ``step``."""
        if step < self.end:
            return step > self.begin and step % self.every == 0
        if self.after == "freeze":
            return step == self.end
        return step > self.end or step % self.every == 0

    def first_update(self) -> int:
        """The first step at which masks are selected."""
        return next(t for t in range(int(self.begin), int(self.end) + 2) if self.updates(t))

    def final_update(self) -> int:
        """The first step at which masks of the final sparsity are selected."""
        return next(t for t in range(int(self.end), int(self.end) + 2) if self.updates(t))

    def frozen(self, step: int) -> bool:
        """Whether no mask changes after ``step`` any more."""
        return self.after == "freeze" and step >= self.end


class Cubic(Schedule):
    """Fast first, slow at the end: s(t) = s_f - (s_f - s_0)(1 - (t - begin)/(end - begin))^3.

    Source: Zhu & Gupta 2018 (arXiv 1710.01878), equation 1; used by movement pruning, PLATON and
    PINS.

    >>> [round(Cubic(0.8, begin=0, end=100).sparsity(t), 3) for t in (0, 50, 100)]
    [0.0, 0.7, 0.8]
    """

    def shape(self, progress: float) -> float:
        return 1 - (1 - progress) ** 3


class Linear(Schedule):
    """The same number of weights at every selection.

    >>> Linear(0.8, begin=0, end=100).sparsity(50)
    0.4
    """

    def shape(self, progress: float) -> float:
        return progress


class Constant(Schedule):
    """The final sparsity from the first selection after ``begin``; masks move until ``end``.

    >>> Constant(0.5, begin=10, end=100).sparsity(11)
    0.5
    """

    def shape(self, progress: float) -> float:
        return 1.0


@dataclass(frozen=True)
class OneShot(Schedule):
    """One selection, at ``begin``, at the final sparsity; ``end`` and ``every`` play no part.

    >>> [t for t in range(100) if OneShot(0.5, begin=20).updates(t)]
    [20]
    """

    def __post_init__(self) -> None:
        # The ramp has no length: it begins and ends with its only selection.
        object.__setattr__(self, "end", self.begin)
        super().__post_init__()
        if self.after != "freeze":
            raise UsageError("OneShot selects once; after='reselect' needs Cubic or Constant")

    def _check_order(self, begin: float, end: float, run: str = "") -> None:
        pass

    def shape(self, progress: float) -> float:
        return 1.0


@dataclass(frozen=True)
class Ladder(Schedule):
    """From level to level: at each the sparsity rises, then the masks rest and the weights heal.

    Every level takes the same time. In the first half of it the sparsity rises by a cubic from the
    level before; in the middle masks are selected exactly at the level, and then stay.

    Args:
        begin, every: as of every schedule.
        end: step or fraction at which the last level's rest ends: the end of the run.
        levels: rising sparsities, each in (0, 1).

    Raises:
        UsageError: levels that do not rise, or that have too few steps each.

    >>> ladder = Ladder(begin=0, end=80, levels=(0.5, 0.8))
    >>> [round(ladder.sparsity(t), 3) for t in (0, 10, 20, 40, 50, 60)]
    [0.0, 0.438, 0.5, 0.5, 0.763, 0.8]
    >>> [t for t in range(80) if ladder.updates(t)]
    [10, 20, 50, 60]
    >>> ladder.rests()
    {0.5: 40}
    """

    final: float = field(init=False)
    end: int | float = 1.0
    initial: float = field(init=False, default=0.0)
    after: Literal["freeze", "reselect"] = field(init=False, default="freeze")
    levels: tuple[float, ...] = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)

    def __post_init__(self) -> None:
        object.__setattr__(self, "levels", tuple(self.levels))
        falls = any(b <= a for a, b in pairwise((0.0, *self.levels)))
        if not self.levels or falls or self.levels[-1] >= 1:
            raise UsageError(
                f"levels={', '.join(map(str, self.levels)) or '()'} must rise, each "
                "inside (0, 1), such as 0.5, 0.7, 0.9"
            )
        object.__setattr__(self, "final", self.levels[-1])
        super().__post_init__()
        if isinstance(self.begin, int) and isinstance(self.end, int) and self._length < 3:
            raise UsageError(
                f"{len(self.levels)} levels in the {self.end - self.begin} steps from begin to end "
                "have less than 3 each; train longer (total_steps), lower "
                f"begin={self.begin}, or give fewer levels=..."
            )

    @property
    def _length(self) -> float:
        """Steps a level takes."""
        return (self.end - self.begin) / len(self.levels)

    def _peak(self, index: int) -> int:
        """The step at which a level is reached."""
        return round(self.begin + (index + 0.5) * self._length)

    def _index(self, step: int) -> int:
        """Which level a step belongs to."""
        return min(int((step - self.begin) / self._length), len(self.levels) - 1)

    def rests(self) -> dict[float, int]:
        """level -> steps after which it has healed; but for the last, which heals to the end."""
        ends = (int(self.begin + (i + 1) * self._length) for i in range(len(self.levels) - 1))
        return dict(zip(self.levels, ends, strict=False))

    def sparsity(self, step: int) -> float:
        if step < self.begin:
            return 0.0
        index = self._index(step)
        low, high, peak = (0.0, *self.levels)[index], self.levels[index], self._peak(index)
        if step >= peak:
            return high
        start = self.begin + index * self._length
        return low + (high - low) * (1 - (1 - (step - start) / (peak - start)) ** 3)

    def updates(self, step: int) -> bool:
        if step <= self.begin:
            return False
        index = self._index(step)
        start, peak = self.begin + index * self._length, self._peak(index)
        return step == peak or (start < step < peak and step % self.every == 0)

    def final_update(self) -> int:
        return self._peak(len(self.levels) - 1)

    def frozen(self, step: int) -> bool:
        return step >= self.final_update()
