"""An unmodified Trainer prunes with one callback."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from warnings import warn

import torch
from torch import nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer import OPTIMIZER_NAME

from prunella.allocation import Global
from prunella.criteria.base import Criterion
from prunella.errors import UsageError
from prunella.masks import check_copies
from prunella.pruner import Pruner
from prunella.schedules import Schedule
from prunella.sharding import is_sharded

_ENTRY = "prunella"  # in the optimizer's saved state, among the states of the parameters


class PruningCallback(TrainerCallback):
    """Prunes the model of the Trainer it is given to, from the first step to the last.

    A schedule in fractions is laid over the steps that the Trainer plans. Logs gain ``sparsity``.
    Checkpoints hold the pruner's state, as an entry of the optimizer's, so ``train`` resumes from
    them. With ``load_best_model_at_end`` the best is sought among those of the final sparsity.

    Args:
        criterion, schedule, allocation: as of ``prunella.Pruner``.
        **options: its others, such as ``parameters``, ``include_embeddings`` or ``masks``.

    Attributes:
        pruner: the pruner, once training has begun; detached, with its masks, when it has ended.

    Raises:
        UsageError: (from ``Trainer.train``) what ``Pruner`` refuses, a checkpoint without a
            pruner's state, or settings under which none would be saved.
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
        self._state = TrainerState()
        self._hooks: list[RemovableHandle] = []
        self._loaded: dict[str, Any] | None = None  # while an earlier pruner was still attached

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module | None = None,
        optimizer: Optimizer | None = None,
        **kwargs: Any,
    ) -> None:
        if model is None or optimizer is None:
            raise UsageError("PruningCallback belongs to a Trainer, which hands it a model")
        self._release()  # where an earlier train() broke off
        self.pruner = Pruner(
            model,
            optimizer,
            self.criterion,
            self.schedule,
            self.allocation,
            total_steps=state.max_steps,
            **self.options,
        )
        self._state = state
        try:
            _check_arguments(args, model, self.pruner)
            self._resume(self.pruner, state.global_step)
        except UsageError:
            self._release()
            raise
        self._hooks = [
            self.pruner.optimizer.register_state_dict_post_hook(self._save),
            self.pruner.optimizer.register_load_state_dict_pre_hook(self._load),
        ]

    def _resume(self, pruner: Pruner, step: int) -> None:
        """Take up what came with the optimizer's state, which was loaded before training began."""
        # What an optimizer does not know it keeps as it is.
        saved = pruner.optimizer.state.pop(_ENTRY, self._loaded)  # type: ignore[call-overload]
        self._loaded = None
        if step == 0:
            return
        # The Trainer counts steps that a gradient scaler skipped, the pruner does not.
        if saved is None or saved["global_step"] != step:
            held = "no pruner" if saved is None else f"one of step {saved['global_step']}"
            raise UsageError(
                f"the Trainer resumes at step {step}, but the checkpoint holds {held}; "
                "resume from one that a Trainer with a PruningCallback wrote, without "
                "save_only_model"
            )
        pruner.load_state_dict(saved)

    def _save(self, optimizer: Optimizer, state_dict: dict[str, Any]) -> None:
        assert self.pruner is not None
        entry = self.pruner.state_dict() | {"global_step": self._state.global_step}
        state_dict["state"][_ENTRY] = entry

    def _load(self, optimizer: Optimizer, state_dict: dict[str, Any]) -> dict[str, Any]:
        assert self.pruner is not None
        states = dict(state_dict["state"])
        self._loaded = states.pop(_ENTRY, None)
        if self._loaded is not None:
            self.pruner.load_state_dict(self._loaded)
        return state_dict | {"state": states}

    def _release(self) -> None:
        if self.pruner is not None:
            self.pruner.detach()
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        assert self.pruner is not None
        schedule = self.pruner.schedule
        # What was evaluated before this step was not yet as sparse as it is to be.
        if schedule.final and self.pruner.step <= schedule.final_update() + 1:
            state.best_metric = state.best_global_step = state.best_model_checkpoint = None

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
        assert self.pruner is not None
        try:
            if self.pruner.step <= self.pruner.schedule.final_update():
                warn(
                    f"training ended after {self.pruner.step} steps that count, before the "
                    f"schedule's last selection at step {self.pruner.schedule.final_update()}: the "
                    f"sparsity is {self.pruner.sparsity:.4f}",
                    stacklevel=2,
                )
            # Where the file is missing, the Trainer has warned and kept the last model.
            file = Path(state.best_model_checkpoint or "") / OPTIMIZER_NAME
            if args.load_best_model_at_end and state.best_model_checkpoint and file.exists():
                saved = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
                self.pruner.load_state_dict(saved["state"][_ENTRY])
        finally:
            self._release()


def _check_arguments(args: TrainingArguments, model: nn.Module, pruner: Pruner) -> None:
    """Raise UsageError where checkpoints would lack what the pruner needs of them."""
    if args.n_gpu > 1:
        check_copies(pruner.rest)  # the Trainer wraps the model in DataParallel
    if args.load_best_model_at_end and args.save_only_model:
        raise UsageError(
            "load_best_model_at_end=True needs the best model's masks, which save_only_model=True "
            "leaves out of the checkpoints; set one of them to False"
        )
    sharded = any(map(is_sharded, model.parameters()))
    if sharded and args.save_strategy != "no" and not args.save_only_model:
        raise UsageError(
            "under FSDP the Trainer's checkpoints have no room for the pruner's state, and could "
            "not be resumed; set save_strategy='no' or save_only_model=True, or write the loop "
            "with Accelerate and save pruner.state_dict() with torch.distributed.checkpoint"
        )
