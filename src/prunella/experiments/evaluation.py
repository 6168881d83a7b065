"""What a model says of a split, and a Trainer whose checks ask for it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from prunella.experiments.encoding import Split
from prunella.hf import Trainer
from prunella.tasks import Record, Task


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
