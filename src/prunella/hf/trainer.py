"""Transformers' Trainer with regularizers, and with checkpoints that are whole or not there."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from datasets import Dataset
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import Sampler
from transformers import (
    PreTrainedConfig,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_pt_utils import LengthGroupedSampler
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, rotate_checkpoints

from prunella.errors import Diverged, Unsaved, UsageError
from prunella.hf import checkpoints
from prunella.hf.pruning import PruningCallback
from prunella.regularizers import IGNORED, Regularizer
from prunella.task_gradients import TaskGradients

REGULARIZERS = "regularizers.safetensors"  # in a checkpoint


class Trainer(transformers.Trainer):
    """Transformers' Trainer that adds regularizers to the loss, and loses no work.

    Four batches accumulated give the gradient of one batch four times as large, also in
    regression and with regularizers. Checkpoints appear whole, under their final name, once they
    are on disk; ``manifest.json`` in them holds the hashes of their files.

    Args:
        *args, **kwargs: as of ``transformers.Trainer``.
        regularizers: terms to add to the loss in training.
        score_gradient: which gradient the criterion of a ``PruningCallback`` sees: that of the
            joint loss, or that of the task loss alone (see ``prunella.TaskGradients``).
        unlabelled: encoded rows without labels, of which each batch takes as many as it has
            labelled ones, in order and over again; terms that need no labels apply to them too.

    Raises:
        UsageError: (from ``train``) regularizers under DataParallel, or that do not fit the labels;
            a checkpoint without their state.
        Diverged: the loss is no longer finite, naming the step; the last checkpoint written before
            it is still good.
        Unsaved: a checkpoint could not be written; those before it are whole.
    """

    def __init__(
        self,
        *args: Any,
        regularizers: Sequence[Regularizer] = (),
        score_gradient: Literal["joint", "task"] = "joint",
        unlabelled: Dataset | None = None,
        **kwargs: Any,
    ):
        super().__init__(*args, **kwargs)
        if score_gradient not in ("joint", "task"):
            raise UsageError(f"score_gradient={score_gradient!r} must be 'joint' or 'task'")
        name = type(self.accelerator.unwrap_model(self.model)).__name__
        if name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values():
            self._loss_shifts_labels = True  # the Trainer overlooks some, and counts a token more
        self.regularizers = list(regularizers)
        self.score_gradient = score_gradient
        self.unlabelled = None if unlabelled is None else self._columns(unlabelled)
        self._task_gradients: TaskGradients | None = None
        self._scratch: Path | None = None  # while a checkpoint is written
        self._micro = (-1, 0)  # optimizer step, batches of it so far
        self.add_callback(_Steps(self))

    def _columns(self, rows: Dataset) -> Dataset:
        return self._remove_unused_columns(rows, "unlabelled")

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[Any] | None:
        sampler = super()._get_train_sampler(train_dataset)
        # It would draw its order from a state that a resumed run does not have yet.
        return _OfEpoch(sampler, self) if isinstance(sampler, LengthGroupedSampler) else sampler

    # --- the loss ----------------------------------------------------------------------------

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        terms = self.regularizers if model.training else []
        asks = {name: wanted for term in terms for name, wanted in term.asks.items()}
        # Many models take num_items_in_batch and do not heed it. Without it all losses are means.
        meant = self.compute_loss_func is None and self.args.n_gpu <= 1
        loss, outputs = super().compute_loss(
            model,
            {**inputs, **asks},
            return_outputs=True,
            num_items_in_batch=None if meant else num_items_in_batch,
        )
        if model.training:
            share = self._share(inputs, num_items_in_batch) if self.args.n_gpu <= 1 else 1.0
            if meant:
                # A batch without any labels that count has no mean.
                loss = loss * share if share else 0 * outputs["logits"].sum()
            task, loss = loss, self._joint(model, loss, outputs, inputs, share)
            if not torch.isfinite(loss).all():  # one a device in data-parallel runs
                raise Diverged(
                    f"the loss is {loss.tolist()} at step {self.state.global_step}; a lower "
                    "learning rate may help"
                )
            if self.score_gradient == "task" and self.regularizers:
                self._show(task, num_items_in_batch)
        return (loss, outputs) if return_outputs else loss

    def _joint(
        self, model: nn.Module, loss: Tensor, outputs: Any, inputs: Mapping[str, Any], share: float
    ) -> Tensor:
        if not self.regularizers:
            return loss
        with self.accelerator.autocast():
            for term in self.regularizers:
                loss = loss + share * term(outputs, inputs)
            if self.unlabelled is not None:
                more = self._unlabelled(len(next(iter(inputs.values()))))
                free = [term for term in self.regularizers if not term.needs_labels]
                outputs = model(**more, **{n: w for term in free for n, w in term.asks.items()})
                for term in free:
                    loss = loss + share * term(outputs, more)
        return loss

    def _share(self, inputs: Mapping[str, Any], items: Tensor | int | None) -> float:
        """By what a batch's mean is to be multiplied: its part of all batches of the step.

        1 where the Trainer divides by their number instead.
        """
        if items is None or not self._is_of_step(items) or "labels" not in inputs:
            return 1.0
        labels = inputs["labels"][..., 1:] if self._loss_shifts_labels else inputs["labels"]
        share = float((labels != IGNORED).sum() / max(int(items), 1))
        # Gradients are averaged over processes, but these are parts of one sum.
        return share * (self.args.world_size if self.args.average_tokens_across_devices else 1)

    def _is_of_step(self, items: Tensor | int | None) -> bool:
        """Whether the Trainer takes a loss for its part of the step's, and will not divide it."""
        heeded = self.model_accepts_loss_kwargs and items is not None
        return heeded or self.compute_loss_func is not None

    def _show(self, task: Tensor, items: Tensor | int | None) -> None:
        """Show the criterion, if there is one, the gradient of the task loss."""
        callbacks = self.callback_handler.callbacks
        pruner = next((c.pruner for c in callbacks if isinstance(c, PruningCallback)), None)
        if pruner is None:
            return
        if self._task_gradients is None or self._task_gradients.pruner is not pruner:
            self._task_gradients = TaskGradients(pruner, self.args.max_grad_norm or None)
        if not self._is_of_step(items):
            task = task / self.current_gradient_accumulation_steps
        scaler = getattr(self.accelerator, "scaler", None)
        self._task_gradients(task, 1.0 if scaler is None else scaler.get_scale())

    def _unlabelled(self, rows: int) -> dict[str, Any]:
        """The next rows without labels: a function of the step, so that a resumed run agrees."""
        step, batch = self._micro
        batch = batch + 1 if step == self.state.global_step else 0
        self._micro = (self.state.global_step, batch)
        number = self.state.global_step * self.args.gradient_accumulation_steps + batch
        number = number * self.args.world_size + self.args.process_index
        first = number * self._train_batch_size  # the last batch of an epoch may have fewer rows
        assert self.unlabelled is not None
        size = len(self.unlabelled)
        examples = [self.unlabelled[(first + row) % size] for row in range(rows)]
        return self._prepare_inputs(self.data_collator(examples))

    def begin(self) -> None:
        """Check what can be checked only now, and start regularizers afresh where training does."""
        if self.regularizers and self.args.n_gpu > 1:
            raise UsageError(
                "regularizers do not work under DataParallel; start with torchrun or accelerate "
                "launch, or use one device"
            )
        if self.score_gradient == "task" and self.args.torch_compile:
            raise UsageError(
                "score_gradient='task' needs two backward passes through one graph, which compiled "
                "models do not keep; set torch_compile=False, or score by the joint gradient"
            )
        for term in self.regularizers:
            term.begin(self.accelerator.unwrap_model(self.model))
            if self.state.global_step == 0:
                term.load_state_dict({})

    def step_begins(self) -> None:
        """Forget gradients of a step that a gradient scaler skipped."""
        if self._task_gradients is not None:
            self._task_gradients.reset()

    # --- checkpoints -------------------------------------------------------------------------

    def _get_output_dir(self, trial: Any) -> str:
        return super()._get_output_dir(trial) if self._scratch is None else str(self._scratch)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Write a checkpoint aside, then give it its place."""
        folder = Path(self._get_output_dir(trial))
        name = f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        aside = folder / "unfinished"
        if self.args.should_save:
            shutil.rmtree(aside, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        try:
            self._scratch = aside
            super()._save_checkpoint(model, trial)
            self._scratch = None
            self.accelerator.wait_for_everyone()
            if self.args.should_save:
                self._finish(aside / name, folder / name)
                aside.rmdir()
                rotate_checkpoints(
                    output_dir=str(folder),
                    save_total_limit=self.args.save_total_limit,
                    best_model_checkpoint=self.state.best_model_checkpoint,
                    use_mtime=True,
                )
        except Diverged:  # while the pruner's state was read
            raise
        except (OSError, RuntimeError, SafetensorError) as error:
            if self.args.should_save:
                shutil.rmtree(aside, ignore_errors=True)
            raise Unsaved(
                f"the checkpoint at step {self.state.global_step} could not be written to "
                f"{folder} ({error}); what was saved before it is whole"
            ) from error
        finally:
            self._scratch = None

    def _finish(self, checkpoint: Path, final: Path) -> None:
        tensors = {
            f"{number}.{name}": tensor.contiguous()
            for number, term in enumerate(self.regularizers)
            for name, tensor in term.state_dict().items()
        }
        save_file(tensors, checkpoint / REGULARIZERS, {"terms": self._terms()})
        if self.state.best_global_step is not None:  # the Trainer noted where it was written
            best = final.with_name(f"{PREFIX_CHECKPOINT_DIR}-{self.state.best_global_step}")
            if best == final or best.is_dir():
                self.state.best_model_checkpoint = str(best)
            self.state.save_to_json(str(checkpoint / TRAINER_STATE_NAME))
        checkpoints.seal(checkpoint)
        checkpoints.put(checkpoint, final)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is None:
            return
        file = Path(checkpoint) / REGULARIZERS
        known = "none"
        if file.is_file():
            with safe_open(file, "pt") as header:
                known = (header.metadata() or {}).get("terms", "")
        if known != self._terms():
            raise UsageError(
                f"the checkpoint {checkpoint} has the state of other regularizers ({known}, not "
                f"{self._terms()}); resume with those it was written with"
            )
        saved = load_file(file) if self.regularizers else {}
        for number, term in enumerate(self.regularizers):
            start = f"{number}."
            term.load_state_dict(
                {n.removeprefix(start): t for n, t in saved.items() if n.startswith(start)}
            )

    def _terms(self) -> str:
        return ", ".join(type(term).__name__ for term in self.regularizers) or "none"


class _OfEpoch(Sampler[Any]):
    """A sampler whose order is a function of the seed and the epoch."""

    def __init__(self, sampler: LengthGroupedSampler, trainer: Trainer):
        self.sampler = sampler
        self.trainer = trainer

    def __iter__(self) -> Iterator[Any]:
        epoch = int(self.trainer.state.epoch or 0)
        args = self.trainer.args
        seed = args.seed if args.data_seed is None else args.data_seed
        self.sampler.generator = torch.Generator().manual_seed((seed << 20) + epoch)
        return iter(self.sampler)

    def __len__(self) -> int:
        return len(self.sampler)


class _Steps(TrainerCallback):
    """Tells a Trainer's regularizers of its steps."""

    def __init__(self, trainer: Trainer):
        self.trainer = trainer

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.trainer.begin()

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.trainer.step_begins()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        for term in self.trainer.regularizers:
            term.after_step(state.global_step)


def class_columns(teacher: PreTrainedConfig, student: PreTrainedConfig) -> list[int]:
    """For each of the student's classes, the index of the teacher's of the same name.

    Raises:
        UsageError: they do not name the same classes in ``id2label``.
    """
    theirs, ours = (
        {int(i): n for i, n in (config.id2label or {}).items()} for config in (teacher, student)
    )
    places = {name: index for index, name in theirs.items()}
    names = [ours[index] for index in sorted(ours)]
    if sorted(places) != sorted(names) or len(places) != len(theirs):
        raise UsageError(
            f"the teacher's classes are {', '.join(theirs.values())}, the student's are "
            f"{', '.join(names)}; give a teacher of the same task, or correct id2label in its "
            "config.json"
        )
    return [places[name] for name in names]
