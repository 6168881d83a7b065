"""Runs that are the same but for the seed, and what is to be known when reading their mean."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Any

from prunella.report.runs import Place, Run

# Settings in which a dense run should be as the pruned one beside it.
_OF_DENSE = ("max_length", "batch_size", "lr", "max_train_samples", "holdout_seed", "precision")


@dataclass(frozen=True, eq=False)
class Cell:
    """Runs that differ in nothing but the seed, one a seed, in order of seed.

    Attributes:
        place: Of all its runs; cells of different ones are never compared.
        lower_is_better: Whether the metric is better when lower.
        sparsity: What was asked for; 0 for dense.
        criterion: As settings have it, such as "pins-released"; "dense" for dense runs.
        regularizers: In order of name.
        method: What people call it, hyper-parameters left out, such as "PINS + self, free": the
            line of a chart that it is on. Whatever differs in the report and is no
            hyper-parameter is in it.
        setting: The hyper-parameters that differ in the report, such as "lr 2e-4"; or "".
        settings: The settings that differ in the report, by name, hyper-parameters included, as
            result.json has them.
        runs: At least one.
        variant: What is not plain about the method: its regularizers, and the settings in `method`
            that are named there, each as a phrase; empty for the criterion alone.
        chosen: Whether it stands for its method: the only cell of the method here, or the one
            whose hyper-parameters are best on the holdout. Charts and comparisons take only these.
        searched: From how many settings of the hyper-parameters the chosen one comes; 1 = none.
        stamps: What to bear in mind, each a phrase such as "chosen on dev".
        dense_latency_ms: Where the cell is dense and was not measured itself: the mean of what
            pruned runs of the same task and model took when computed densely.
    """

    place: Place
    lower_is_better: bool
    sparsity: float
    criterion: str
    regularizers: tuple[str, ...]
    method: str
    setting: str
    settings: Mapping[str, Any]
    runs: tuple[Run, ...]
    variant: tuple[str, ...] = ()
    chosen: bool = True
    searched: int = 1
    stamps: tuple[str, ...] = ()
    dense_latency_ms: float | None = None

    @property
    def task(self) -> str:
        return self.place.task

    @property
    def model(self) -> str:
        return self.place.model

    @property
    def metric(self) -> str:
        return self.place.metric

    @property
    def label(self) -> str:
        """Method and setting."""
        return ", ".join(filter(None, (self.method, self.setting)))

    @property
    def dense(self) -> bool:
        return self.criterion == "dense"

    @property
    def n(self) -> int:
        return len(self.runs)

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(run.seed for run in self.runs)

    @property
    def values(self) -> tuple[float, ...]:
        """The headline metric on dev, by seed, in its own unit."""
        return tuple(run.value for run in self.runs)

    @property
    def mean(self) -> float:
        return mean(self.values)

    @property
    def sd(self) -> float | None:
        """Standard deviation over seeds (n - 1); None for one seed."""
        return stdev(self.values) if self.n > 1 else None

    @property
    def holdout_mean(self) -> float | None:
        """None where a run does not have it."""
        return self.average("holdout")

    @property
    def held_out(self) -> frozenset[str]:
        """Hashes of the rows that were held out, as far as they are known."""
        return frozenset({run.data("holdout")[1] for run in self.runs} - {""})

    @property
    def steps(self) -> int:
        return self.runs[0].steps

    def average(self, name: str) -> float | None:
        """The mean over seeds of a property of `Run` (``size_bytes``); None where one lacks it."""
        values = [getattr(run, name) for run in self.runs]
        return None if None in values else mean(map(float, values))

    def nonzero(self, scope: str) -> float | None:
        """Mean non-zero parameters of a scope: ``prunable``, ``backbone`` or ``model``."""
        values = [run.nonzero(scope) for run in self.runs]
        counts = [float(value) for value in values if value is not None]
        return mean(counts) if len(counts) == len(values) else None

    @property
    def latency_ms(self) -> float | None:
        """Mean milliseconds for one input; `dense_latency_ms` for dense runs not measured."""
        own = self.average("latency_ms")
        return self.dense_latency_ms if own is None else own


def one_holdout(cells: Iterable[Cell]) -> bool:
    """Whether cells may be chosen among by the holdout: all have the same one, as far as known."""
    return len(frozenset().union(*(cell.held_out for cell in cells))) < 2


def twin(cell: Cell, dense: Iterable[Cell]) -> Cell | None:
    """The dense cell of the same place that is most like a pruned one; None where there is none.

    It has the same terms and steps, or else the same other settings, or is the plainest.
    """

    def unlike(other: Cell) -> tuple[bool, bool, int, int]:
        ours, theirs = (each.runs[0].config for each in (cell, other))
        odd = sum(ours.get(name) != theirs.get(name) for name in _OF_DENSE)
        terms = other.regularizers != cell.regularizers
        return terms, other.steps != cell.steps, odd, len(other.variant)

    return min(dense, key=unlike, default=None)
