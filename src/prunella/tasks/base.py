"""What a task is: labelled text, its metrics, and the way to turn it into model inputs."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from datasets import Dataset
from torchmetrics.functional.classification import (
    binary_f1_score,
    binary_matthews_corrcoef,
    multiclass_accuracy,
)
from torchmetrics.functional.regression import pearson_corrcoef, spearman_corrcoef

from prunella.errors import UsageError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

HOLDOUT_LIMIT = 1000


class TaskError(UsageError):
    """A bad task or bad data (a `ValueError`); says the value, the rule and the remedy."""


@dataclass(frozen=True)
class Splits:
    """The labelled parts of a task.

    Every dataset has the columns `text`, `pair` (tasks on sentence pairs only) and `label`: a class
    index (`datasets.ClassLabel`) or, for regression, a float. `dev` has the key `dev`; MNLI adds
    `dev_mismatched`.
    """

    train: Dataset
    dev: dict[str, Dataset]


@dataclass(frozen=True)
class Task:
    """One fine-tuning task.

    Attributes:
        name: What `--task` calls it.
        labels: Class names in the order of their indices; None for regression.
        metrics: Names among `accuracy`, `f1`, `mcc`, `pearson`, `spearman`; the first is the
            headline.
        pair: Whether inputs are sentence pairs.
        load: Reads the data: from a folder, or with None from the task's own source. Raises
            `TaskError` if it cannot.
    """

    name: str
    labels: tuple[str, ...] | None
    metrics: tuple[str, ...]
    pair: bool
    load: Callable[[Path | None], Splits]

    def evaluate(self, logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        """Score predictions with the task's metrics, by torchmetrics.

        `f1` is that of class 1 of two. A metric that is undefined (constant predictions or labels
        for `mcc`, `pearson` and `spearman`; no positive at all for `f1`) is 0.0, never NaN.

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


def _accuracy(predictions: torch.Tensor, targets: torch.Tensor, classes: int) -> float:
    return float(multiclass_accuracy(predictions, targets, classes, average="micro"))


def _f1(predictions: torch.Tensor, targets: torch.Tensor, _: int) -> float:
    return float(binary_f1_score(predictions, targets))


def _mcc(predictions: torch.Tensor, targets: torch.Tensor, _: int) -> float:
    # torchmetrics scores constant predictions +-1 or a remnant of its epsilon; the accepted value
    # (scikit-learn, GLUE) is 0.
    if len(predictions.unique()) == 1 or len(targets.unique()) == 1:
        return 0.0
    return float(binary_matthews_corrcoef(predictions, targets))


def _pearson(predictions: torch.Tensor, targets: torch.Tensor, _: int) -> float:
    with warnings.catch_warnings():  # torchmetrics warns of the very case settled here
        warnings.filterwarnings("ignore", "The variance of predictions or target", UserWarning)
        return float(pearson_corrcoef(predictions, targets).nan_to_num(0.0))


def _spearman(predictions: torch.Tensor, targets: torch.Tensor, _: int) -> float:
    return float(spearman_corrcoef(predictions, targets).nan_to_num(0.0))


_METRICS: dict[str, Callable[[torch.Tensor, torch.Tensor, int], float]] = {
    "accuracy": _accuracy,
    "f1": _f1,
    "mcc": _mcc,
    "pearson": _pearson,
    "spearman": _spearman,
}


def cut_holdout(train: Dataset, task: Task, seed: int) -> tuple[Dataset, Dataset]:
    """Cut a holdout off the training data: a tenth of it, at most 1000 rows.

    Classification data is stratified by label, unless a class has fewer than two rows or the
    holdout fewer rows than there are classes; then, and for regression, the cut is random. The
    same data and seed always give the same cut.

    Returns:
        The rest of the training data, and the holdout.

    Raises:
        TaskError: There are fewer than ten rows.
    """
    size = min(len(train) // 10, HOLDOUT_LIMIT)
    if size == 0:
        raise TaskError(
            f"{task.name}: {len(train)} training rows are too few to cut a tenth off as a holdout; "
            "give at least 10."
        )
    by: str | None = None
    if task.labels is not None:
        _, counts = np.unique(train["label"], return_counts=True)
        by = "label" if counts.min() >= 2 and len(counts) <= size else None
    parts = train.train_test_split(
        test_size=size,
        stratify_by_column=by,
        seed=seed,
        keep_in_memory=True,
        load_from_cache_file=False,
    )
    return parts["train"], parts["test"]


def encode(
    dataset: Dataset, tokenizer: "PreTrainedTokenizerBase", task: Task, max_length: int
) -> Dataset:
    """Tokenise a split: truncated to `max_length` tokens, not padded, held in memory.

    Returns:
        A dataset in the same order with the columns `input_ids`, `attention_mask`,
        `token_type_ids` (if the tokenizer makes them), `labels` (if there are any) and `length`,
        the number of tokens.
    """
    columns: dict[str, list[Any]] = {}
    # Not Dataset.map: it shows a progress bar and hashes the tokenizer for a cache unused here.
    for batch in dataset.iter(batch_size=1000):
        texts = (batch["text"], batch["pair"]) if task.pair else (batch["text"],)
        for name, values in tokenizer(*texts, truncation=True, max_length=max_length).items():
            columns.setdefault(name, []).extend(values)
    if "label" in dataset.column_names:
        columns["labels"] = list(dataset["label"])
    columns["length"] = [len(ids) for ids in columns["input_ids"]]
    return Dataset.from_dict(columns)
