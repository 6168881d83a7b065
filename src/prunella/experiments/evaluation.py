"""What a model says of a split, and a Trainer whose checks ask for it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import repeat
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from prunella.experiments.encoding import Split
from prunella.hf import Trainer
from prunella.tasks import Record, Task
from prunella.tasks.base import ORIGIN


def records(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    task: Task,
    split: Split,
    *,
    batch_size: int,
    bf16: bool,
    seen: Callable[[int], object] = lambda count: None,
) -> list[Record]:
    """A record for every row of a split, computed in batches of like length.

    Args:
        seen: told after every batch how many of its features were.

    Raises:
        Diverged: the model's outputs are not finite.
    """
    known = inspect.signature(model.forward).parameters
    features = split.features
    inputs = features.select_columns([name for name in features.column_names if name in known])
    collate = task.collator(tokenizer, model)
    order = np.argsort(features["length"], kind="stable")
    found: list[Any] = [None] * len(order)
    with evaluating(model), torch.autocast(model.device.type, torch.bfloat16, enabled=bf16):
        for start in range(0, len(order), batch_size):
            places = order[start : start + batch_size]
            batch = collate([inputs[int(place)] for place in places])
            tensors = {name: value.to(model.device) for name, value in batch.items()}
            outputs = task.outputs(model, tokenizer, tensors)
            for place, output in zip(places, outputs, strict=True):
                found[place] = output
            seen(start + len(places))
    return task.records(split.rows, features, found)


def told(
    rows: Dataset | None, found: Sequence[Mapping[str, Any]], columns: Sequence[str] = ()
) -> Iterator[dict[str, Any]]:
    """What was found of each row with its number and, as far as that is known, the file and line it
    is from.

    Args:
        rows: None where what was found is not of rows but of blocks of running text.
        columns: of the rows, to be told as well.
    """
    known = {} if rows is None else {n: list(rows[n]) for n in columns if n in rows.column_names}
    places = rows[ORIGIN] if rows is not None and ORIGIN in rows.column_names else repeat({})
    for number, (each, where) in enumerate(zip(found, places, strict=False)):
        texts = {name: cells[number] for name, cells in known.items()}
        there = {name: value for name, value in where.items() if value is not None}
        yield {"row": number, **there, **each, **texts}


@contextmanager
def evaluating(model: PreTrainedModel) -> Iterator[None]:
    """While this lasts, a model evaluates, and no gradient is kept."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)


class CheckedTrainer(Trainer):
    """A Trainer whose evaluations are computed by ``check``: model -> metrics, by full name."""

    def __init__(self, *args: Any, check: Callable[[Any], Mapping[str, float]], **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._check = check

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        metrics = dict(self._check(self.accelerator.unwrap_model(self.model)))
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return metrics
