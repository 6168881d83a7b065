"""Adapter to Transformers: an unmodified Trainer prunes with one callback."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from torch import nn
from torch.optim import Optimizer
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from prunella.allocation import Global
from prunella.criteria.base import Criterion
from prunella.errors import Diverged, UsageError
from prunella.pruner import Pruner
from prunella.schedules import Schedule


class PruningCallback(TrainerCallback):
    """Prunes the model of the Trainer it is given to, from the first step to the last.

    A schedule in fractions is laid over the steps that the Trainer plans. Logs gain ``sparsity``.

    Args:
        criterion, schedule, allocation, **options: as of ``prunella.Pruner``.

    Attributes:
        pruner: the pruner, once training has begun; detached, with its masks, when it has ended.
    """

    def __init__(
        self,
        criterion: Criterion,
        schedule: Schedule,
        allocation: Global = Global(),
        **options: Any,
    ):
        self.criterion = criterion
        self.schedule = schedule
        self.allocation = allocation
        self.options = options
        self.pruner: Pruner | None = None

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module | None = None,
        optimizer: Optimizer | None = None,
        **kwargs: Any,
    ) -> None:
        if state.global_step:
            raise UsageError(
                f"the Trainer resumes at step {state.global_step}, but its checkpoints do not "
                "hold the pruner's masks and scores yet; train without resume_from_checkpoint"
            )
        if args.load_best_model_at_end:
            raise UsageError(
                "load_best_model_at_end=True would bring back weights that the last masks do not "
                "fit; set it to False, the last model is the one that has healed"
            )
        if model is None or optimizer is None:
            raise UsageError("PruningCallback belongs to a Trainer, which hands it a model")
        self.pruner = Pruner(
            model,
            optimizer,
            self.criterion,
            self.schedule,
            self.allocation,
            total_steps=state.max_steps,
            **self.options,
        )

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        if logs is not None and self.pruner is not None:
            # The Trainer keeps its own copy for log_history and has made it already.
            logs["sparsity"] = state.log_history[-1]["sparsity"] = self.pruner.sparsity

    def on_train_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        if self.pruner is not None:
            self.pruner.detach()


class Trainer(transformers.Trainer):
    """Transformers' Trainer that stops where the loss is no longer a finite number.

    Raises:
        Diverged: naming the step; the last checkpoint written before it is still good.
    """

    def compute_loss(self, model: nn.Module, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        result = super().compute_loss(model, inputs, *args, **kwargs)
        loss = result[0] if isinstance(result, tuple) else result
        if model.training and not torch.isfinite(loss).all():  # one a device in data-parallel runs
            raise Diverged(
                f"the loss is {loss.tolist()} at step {self.state.global_step}; a lower learning "
                "rate may help"
            )
        return result
