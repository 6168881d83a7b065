"""Figures that others published, to be shown beside ours as hollow marks and never mixed in."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """A figure from another's table.

    Budgets, teachers and the choice of what was reported differ from row to row, and from ours.

    Attributes:
        task, metric: As ours are called, such as "glue/mnli" and "accuracy".
        model: Such as "BERT-base".
        method: As its authors call it, such as "movement + KD".
        sparsity: Of the linear layers in the encoder; 0 for dense.
        value: In our unit: a fraction of 1 for accuracy and F1.
        source: Whose figure it is.
    """

    task: str
    metric: str
    model: str
    method: str
    sparsity: float
    value: float
    source: str


_COLUMNS = (("glue/mnli", "accuracy"), ("glue/qqp", "accuracy"), ("qa/squad", "f1"))

_SANH = "Sanh, Wolf & Rush 2020, Movement Pruning, and its repository"
_KURTIC = "Kurtic et al. 2022, The Optimal BERT Surgeon, and its repository"
_XU = "Xu et al. 2022, Static Model Pruning (SMP), and its repository"

# Of BERT-base on dev. By density of the encoder, in percent: a figure for each of _COLUMNS.
_ROWS: tuple[tuple[str, str, dict[float, tuple[float, float, float]]], ...] = (
    ("dense", _SANH, {100: (84.5, 91.4, 88.1)}),
    ("magnitude + KD", _SANH, {10: (78.3, 79.8, 80.1), 3: (69.4, 72.4, 59.6)}),
    ("L0 + KD", _SANH, {10: (78.7, 88.1, 81.9), 3: (76.0, 87.0, 75.8)}),
    ("movement + KD", _SANH, {10: (80.1, 89.7, 84.3), 3: (76.5, 86.1, 78.0)}),
    ("soft movement + KD", _SANH, {10: (81.2, 90.2, 84.9), 3: (79.5, 89.1, 82.3)}),
    (
        "oBERT, 30 epochs",
        _KURTIC,
        {20: (84.3, 91.6, 89.0), 10: (83.8, 91.4, 88.3), 3: (81.8, 90.9, 86.0)},
    ),
    (
        "SMP-S + KD",
        _XU,
        {50: (85.7, 91.7, 89.8), 10: (83.7, 91.0, 87.2), 3: (81.8, 90.5, 84.1)},
    ),
)


def published(shown: Iterable[tuple[str, str]]) -> Iterator[Published]:
    """The figures for tasks and metrics."""
    asked = set(shown)
    for method, source, levels in _ROWS:
        for density, figures in levels.items():
            for (task, metric), figure in zip(_COLUMNS, figures, strict=True):
                if (task, metric) in asked:
                    sparsity = round(1 - density / 100, 4)
                    yield Published(
                        task, metric, "BERT-base", method, sparsity, round(figure / 100, 4), source
                    )
