"""What is odd about a model or its figures, in words: nobody should have to find it in a table."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor

from prunella.tasks import Record, Task

_BLOCK = re.compile(r"^(.*?\.\d+)\.")


def empty(matrices: Mapping[str, Tensor]) -> list[str]:
    """Names of the matrices of which nothing is left; of stacks of such, as ``name[3]``."""
    found = []
    for name, matrix in matrices.items():
        if not matrix.count_nonzero():
            found.append(name)
        elif matrix.ndim > 2:
            gone = (number for number, part in enumerate(matrix) if not part.count_nonzero())
            found += [f"{name}[{number}]" for number in gone]
    return found


def of_matrices(names: Iterable[str], gone: Sequence[str], pruned: bool) -> list[str]:
    """Of matrices without a weight that is not zero, those that make up whole layers apart.

    Args:
        names: of all prunable matrices.
        pruned: whether the model was.
    """
    blocks: dict[str, list[str]] = {}
    for name in names:
        if found := _BLOCK.match(name):
            blocks.setdefault(found[1], []).append(name)
    whole = [block for block, inside in blocks.items() if {*inside} <= {*gone}]
    apart = [name for name in gone if not any(name in blocks[block] for block in whole)]
    verb = "pruned whole, nothing is left of" if pruned else "all zero, without any pruning, are"
    said = [f"{verb} the layer{'s' * (len(whole) > 1)} {_listed(whole)}"] if whole else []
    matrices = "matrix" if len(apart) == 1 else f"{len(apart)} matrices"
    return said + ([f"{verb} the {matrices} {_listed(apart)}"] if apart else [])


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def of_metrics(
    metrics: Mapping[str, Mapping[str, float]],
    trivial: Mapping[str, Mapping[str, float]],
    headline: str,
    minimize: bool,
) -> list[str]:
    """Where metrics are no numbers, or a model is no better than an answer that looks at nothing.

    Args:
        metrics: of the model, by split.
        trivial: the best that such answers reach, by split, where that is known.
    """
    said = [
        f"the {name} on {split} is {value}: there is nothing to compare"
        for split, values in metrics.items()
        for name, value in values.items()
        if not math.isfinite(value)
    ]
    for split, values in trivial.items():
        best, value = values[headline], metrics[split][headline]
        if value >= best if minimize else value <= best:
            said.append(
                f"at chance on {split}: its {headline} of {value:.4f} is no better than the "
                f"{best:.4f} of one and the same answer to every row"
            )
    return said


def trivial(
    task: Task, records: Sequence[Record], labels: Iterable[Sequence[int]], headline: str
) -> dict[str, float] | None:
    """The best metrics that answers reach which look at nothing; None where none is known.

    Args:
        labels: of the split's features, where they have such.
    """
    scores = [task.score(constant) for constant in task.constants(records, labels)]
    if not scores:
        return None
    lower = task.minimize and headline == task.metrics[0]
    return (min if lower else max)(scores, key=lambda score: score[headline])


def of_predictions(task: Task, records: Sequence[Record], split: str) -> list[str]:
    """Whether a model says one and the same of every row, where it should not."""
    said, right = task.said(records)
    if len(said) != 1 or len(right) < 2:
        return []
    return [f"all {len(records)} predictions on {split} are the same: {next(iter(said))}"]
