"""One or two sentences and any number of labels: each is a yes or no of its own.

Rows have the columns `text`, `pair` (tasks on sentence pairs only) and `label`: lists of class
indices, which may be empty.
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
    multilabel_average_precision,
    multilabel_exact_match,
    multilabel_f1_score,
    multilabel_stat_scores,
)
from transformers import (
    AutoModelForSequenceClassification,
    DataCollatorWithPadding,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from prunella.tasks.base import Columns, Reader, Record, Task, TaskError, class_names, finite
from prunella.tasks.classification import figures, inputs


@dataclass(frozen=True)
class Multilabel(Task):
    """Any number of labels for every row.

    A record has for every label, in the order of `labels`, whether it is right (`labels`, 0 or 1),
    whether the model says so (`said`), and the `logits`.

    Attributes:
        labels: Their names in the order of their indices.
        pair: Whether inputs are sentence pairs.
        label_threshold: The probability from which on a label is said, in (0, 1).
    """

    labels: tuple[str, ...]
    pair: bool
    label_threshold: float = 0.5

    auto = AutoModelForSequenceClassification
    inputs: ClassVar[tuple[str, ...]] = ("text", "pair")

    def __post_init__(self) -> None:
        if not 0 < self.label_threshold < 1:
            raise TaskError(
                f"--label-threshold {self.label_threshold} is a probability; give one in (0, 1)"
            )

    @property
    def metrics(self) -> tuple[str, ...]:
        return ("micro_f1", "macro_f1", "subset_accuracy", "micro_ap", "macro_ap")

    @property
    def classes(self) -> tuple[str, ...]:
        return self.labels

    def head(self) -> dict[str, Any]:
        return {"problem_type": "multi_label_classification"} | class_names(self.labels)

    def features(self, rows: Columns, reader: Reader, *, training: bool) -> Columns:
        columns = inputs(rows, reader, self.pair)
        if "label" in rows:
            columns["labels"] = self._targets(rows["label"]).tolist()
        return columns

    def _targets(self, rows: Sequence[Sequence[int]]) -> np.ndarray:
        """(rows, labels), 1.0 for each that a row has."""
        targets = np.zeros((len(rows), len(self.labels)), np.float32)
        for target, indices in zip(targets, rows, strict=True):
            target[list(indices)] = 1
        return targets

    def collator(
        self, tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel
    ) -> Callable[[list[dict[str, Any]]], Mapping[str, Any]]:
        return DataCollatorWithPadding(tokenizer)

    def outputs(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, batch: dict[str, Tensor]
    ) -> list[Any]:
        return finite(model(**batch).logits).tolist()

    def records(self, rows: Dataset, features: Dataset, outputs: list[Any]) -> list[Record]:
        least = float(np.log(self.label_threshold / (1 - self.label_threshold)))
        targets = self._targets(rows["label"]).astype(int).tolist()
        return [
            {"labels": right, "said": [int(logit >= least) for logit in logits], "logits": logits}
            for right, logits in zip(targets, outputs, strict=True)
        ]

    def constants(
        self, records: Sequence[Record], labels: Iterable[Sequence[int]]
    ) -> Iterator[list[Record]]:
        """The labels that come most often, however many of them, for every row."""
        often = np.mean([record["labels"] for record in records], axis=0)
        for least in sorted({*often.tolist(), 1.1}):
            said = [int(share >= least) for share in often]
            yield [{**record, "said": said, "logits": often.tolist()} for record in records]

    def said(self, records: Sequence[Record]) -> tuple[set[str], set[str]]:
        said, right = ({str(record[name]) for record in records} for name in ("said", "labels"))
        return said, right

    def prediction(self, record: Record) -> dict[str, Any]:
        """As `Task.prediction`: the labels that are said, with the probability of each by name."""
        said = [name for name, is_said in zip(self.labels, record["said"], strict=True) if is_said]
        shares = torch.tensor(record["logits"], dtype=torch.float64).sigmoid().tolist()
        return {
            "prediction": said,
            "probabilities": dict(zip(self.labels, shares, strict=True)),
        }

    def score(self, records: Sequence[Record]) -> dict[str, float]:
        """Score labels, by torchmetrics.

        `micro_f1` is of all labels together, `macro_f1` the mean over labels, of which those that
        are neither said nor right count 0; `subset_accuracy` is the share of rows with all labels
        right; `micro_ap` and `macro_ap`, average precision, know no threshold, and the latter is of
        those labels that some row has.
        """
        logits, said, right = self._tensors(records)
        n, present = len(self.labels), right.any(dim=0)
        with warnings.catch_warnings():  # of labels that no row has, which are settled here
            warnings.filterwarnings("ignore", "(?s).*positive samples", UserWarning)
            micro = multilabel_average_precision(logits, right, n, average="micro")
            each = multilabel_average_precision(logits, right, n, average="none")
        values = (
            multilabel_f1_score(said, right, n, average="micro"),
            multilabel_f1_score(said, right, n, average="macro"),
            multilabel_exact_match(said, right, n),
            micro.nan_to_num(0.0),
            each[present].mean().nan_to_num(0.0),
        )
        return {name: abs(float(value)) for name, value in zip(self.metrics, values, strict=True)}

    def by_class(self, records: Sequence[Record]) -> dict[str, dict[str, float]]:
        _, said, right = self._tensors(records)
        counts = multilabel_stat_scores(said, right, len(self.labels), average="none")
        return figures(self.labels, counts)

    def _tensors(self, records: Sequence[Record]) -> tuple[Tensor, Tensor, Tensor]:
        """Probabilities, what is said and what is right, (records, labels)."""
        if not records:
            raise TaskError(f"{self.name}: no rows to evaluate; give at least one.")
        logits = torch.tensor([record["logits"] for record in records], dtype=torch.float64)
        said, right = (
            torch.tensor([record[name] for record in records], dtype=torch.int64)
            for name in ("said", "labels")
        )
        return logits.sigmoid(), said, right
