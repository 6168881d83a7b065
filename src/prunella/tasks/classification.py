"""One or two sentences and a label: classification and regression.

Rows have the columns `text`, `pair` (tasks on sentence pairs only) and `label`: a class index
(`datasets.ClassLabel`) or, for regression, a float.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor
from torchmetrics.functional.classification import (
    binary_f1_score,
    multiclass_accuracy,
    multiclass_f1_score,
    multiclass_matthews_corrcoef,
    multiclass_recall,
    multiclass_stat_scores,
)
from torchmetrics.functional.regression import pearson_corrcoef, spearman_corrcoef
from transformers import (
    AutoModelForSequenceClassification,
    DataCollatorWithPadding,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from prunella.tasks.base import Columns, Reader, Record, Task, TaskError, class_names, finite

_BALANCED = ("macro_f1", "balanced_accuracy", "mcc")
# Of classes of the user's own: whether there are two -> the metrics.
MEASURES = {True: ("accuracy", "f1", *_BALANCED), False: ("accuracy", *_BALANCED)}


@dataclass(frozen=True)
class Classification(Task):
    """A class, or a number, for every row.

    Attributes:
        labels: Class names in the order of their indices; None for regression.
        measures: Names among `accuracy`, `f1`, `macro_f1`, `balanced_accuracy`, `mcc`, `pearson`,
            `spearman`.
        pair: Whether inputs are sentence pairs.
    """

    labels: tuple[str, ...] | None
    measures: tuple[str, ...]
    pair: bool

    auto = AutoModelForSequenceClassification
    inputs: ClassVar[tuple[str, ...]] = ("text", "pair")

    @property
    def metrics(self) -> tuple[str, ...]:
        return self.measures

    @property
    def classes(self) -> tuple[str, ...] | None:
        return self.labels

    @property
    def numeric(self) -> bool:
        return self.labels is None

    def head(self) -> dict[str, Any]:
        # Said in full, for the checkpoint may be of another task.
        if self.labels is None:
            return {"num_labels": 1, "problem_type": "regression"}
        return {"problem_type": "single_label_classification"} | class_names(self.labels)

    @property
    def positive(self) -> str | None:
        """Of two classes the one that `f1` is of."""
        return self.labels[1] if self.labels and "f1" in self.measures else None

    def about(self) -> dict[str, Any]:
        return super().about() | ({"positive": self.positive} if self.positive else {})

    def features(self, rows: Columns, reader: Reader, *, training: bool) -> Columns:
        columns = inputs(rows, reader, self.pair)
        if "label" in rows:
            columns["labels"] = list(rows["label"])
        return columns

    def collator(
        self, tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel
    ) -> Callable[[list[dict[str, Any]]], Mapping[str, Any]]:
        return DataCollatorWithPadding(tokenizer)

    def outputs(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, batch: dict[str, Tensor]
    ) -> list[Any]:
        return finite(model(**batch).logits).tolist()

    def records(self, rows: Dataset, features: Dataset, outputs: list[Any]) -> list[Record]:
        return [
            {"label": label, "logits": logits}
            for label, logits in zip(rows["label"], outputs, strict=True)
        ]

    def constants(
        self, records: Sequence[Record], labels: Iterable[Sequence[int]]
    ) -> Iterator[list[Record]]:
        if self.labels is None:
            yield [{**record, "logits": [0.0]} for record in records]
            return
        right = {record["label"] for record in records}
        for label in sorted({0, 1} | right if len(self.labels) == 2 else right):
            logits = [float(n == label) for n in range(len(self.labels))]
            yield [{**record, "logits": logits} for record in records]

    def said(self, records: Sequence[Record]) -> tuple[set[str], set[str]]:
        logits = np.array([record["logits"] for record in records])
        if self.labels is None:
            return {f"{value:.4g}" for value in logits.ravel()}, {str(r["label"]) for r in records}
        said = {self.labels[index] for index in logits.argmax(axis=1)}
        return said, {self.labels[record["label"]] for record in records}

    def prediction(self, record: Record) -> dict[str, Any]:
        """As `Task.prediction`: a number; or a class, with the probabilities of all by name."""
        logits = np.asarray(record["logits"], dtype=np.float64)
        if self.labels is None:
            return {"prediction": float(logits.reshape(()))}
        odds = np.exp(logits - logits.max())
        shares = dict(zip(self.labels, (odds / odds.sum()).tolist(), strict=True))
        return {"prediction": self.labels[int(logits.argmax())], "probabilities": shares}

    def score(self, records: Sequence[Record]) -> dict[str, float]:
        return self.evaluate(
            np.array([record["logits"] for record in records]),
            np.array([record["label"] for record in records]),
        )

    def evaluate(self, logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        """Score predictions with the task's metrics, by torchmetrics.

        `f1` is that of class 1 of two; `macro_f1` the mean over classes that are said or right,
        `balanced_accuracy` the mean recall of those that are right for some row. A metric that is
        undefined (constant predictions or labels for `mcc`, `pearson` and `spearman`; no positive
        at all for `f1`) is 0.0, never NaN.

        Args:
            logits: `(n, classes)`; for regression `(n, 1)` or `(n,)`.
            labels: `(n,)` class indices, or scores for regression.

        Returns:
            Metric name to value, in the order of `metrics`.

        Raises:
            TaskError: The shapes do not fit, there are no rows, or a logit is not finite.
        """
        n, width = len(labels), 1 if self.labels is None else len(self.labels)
        if n == 0:
            raise TaskError(f"{self.name}: no rows to evaluate; give at least one.")
        if logits.shape != (n, width) and not (self.labels is None and logits.shape == (n,)):
            raise TaskError(
                f"{self.name}: logits have shape {logits.shape} where {(n, width)} is needed; "
                f"give the model {width} output(s) and one label per row."
            )
        if not np.isfinite(logits).all():
            raise TaskError(
                f"{self.name}: a logit is NaN or infinite, so there is nothing to score; "
                "training has diverged, try a lower learning rate."
            )
        if self.labels is None:
            predictions = torch.tensor(logits.reshape(n), dtype=torch.float64)
            targets = torch.tensor(labels, dtype=torch.float64)
        else:
            predictions = torch.tensor(logits.argmax(axis=1), dtype=torch.int64)
            targets = torch.tensor(labels, dtype=torch.int64)
        return {name: _METRICS[name](predictions, targets, width) for name in self.metrics}

    def by_class(self, records: Sequence[Record]) -> dict[str, dict[str, float]]:
        if self.labels is None or not records:
            return {}
        said = torch.tensor([np.argmax(record["logits"]) for record in records])
        right = torch.tensor([record["label"] for record in records])
        counts = multiclass_stat_scores(said, right, len(self.labels), average="none")
        return figures(self.labels, counts)


def inputs(rows: Columns, reader: Reader, pair: bool) -> Columns:
    """The model inputs of texts or pairs of texts, without labels; see `Task.features`."""
    texts = (rows["text"], rows["pair"]) if pair else (rows["text"],)
    columns, cut = reader.read(*texts)
    columns["length"] = [len(ids) for ids in columns["input_ids"]]
    return columns | {"cut": cut, "row": rows["row"]}


def figures(names: Sequence[str], counts: Tensor) -> dict[str, dict[str, float]]:
    """Precision, recall, F1 and support of classes; 0.0 where one is undefined.

    Args:
        counts: (classes, 5), true and false positives, true and false negatives, and support.
    """
    found = {}
    for name, (tp, fp, _, fn, support) in zip(names, counts.tolist(), strict=True):
        found[name] = {
            "precision": tp / max(tp + fp, 1),
            "recall": tp / max(tp + fn, 1),
            "f1": 2 * tp / max(2 * tp + fp + fn, 1),
            "support": support,
        }
    return found


def _accuracy(predictions: torch.Tensor, targets: torch.Tensor, classes: int) -> float:
    return float(multiclass_accuracy(predictions, targets, classes, average="micro"))


def _f1(predictions: torch.Tensor, targets: torch.Tensor, _: int) -> float:
    return float(binary_f1_score(predictions, targets))


def _macro_f1(predictions: torch.Tensor, targets: torch.Tensor, classes: int) -> float:
    return float(multiclass_f1_score(predictions, targets, classes, average="macro"))


def _balanced_accuracy(predictions: torch.Tensor, targets: torch.Tensor, classes: int) -> float:
    # torchmetrics would count classes, too, that are said and right for no row.
    recalls = multiclass_recall(predictions, targets, classes, average="none")
    return float(recalls[targets.unique()].mean())


def _mcc(predictions: torch.Tensor, targets: torch.Tensor, classes: int) -> float:
    # torchmetrics scores constant predictions +-1 or a remnant of its epsilon; the accepted value
    # (scikit-learn, GLUE) is 0.
    if len(predictions.unique()) == 1 or len(targets.unique()) == 1:
        return 0.0
    return float(multiclass_matthews_corrcoef(predictions, targets, classes))


def _pearson(predictions: torch.Tensor, targets: torch.Tensor, _: int) -> float:
    with warnings.catch_warnings():  # torchmetrics warns of the very case settled here
        warnings.filterwarnings("ignore", "The variance of predictions or target", UserWarning)
        return float(pearson_corrcoef(predictions, targets).nan_to_num(0.0))


def _spearman(predictions: torch.Tensor, targets: torch.Tensor, _: int) -> float:
    return float(spearman_corrcoef(predictions, targets).nan_to_num(0.0))


_METRICS: dict[str, Callable[[torch.Tensor, torch.Tensor, int], float]] = {
    "accuracy": _accuracy,
    "f1": _f1,
    "macro_f1": _macro_f1,
    "balanced_accuracy": _balanced_accuracy,
    "mcc": _mcc,
    "pearson": _pearson,
    "spearman": _spearman,
}
