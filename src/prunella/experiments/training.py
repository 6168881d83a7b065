"""The settings of the Trainer: a run's own, and the user's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from torch import nn
from transformers import PreTrainedModel, Trainer, TrainingArguments

from prunella.errors import UsageError
from prunella.experiments import build
from prunella.experiments.arguments import values
from prunella.experiments.config import RunConfig
from prunella.pruner import Pruner
from prunella.schedules import OneShot

_LR = {"linear": "linear", "constant": "constant_with_warmup"}  # as Transformers calls them


def checked(config: RunConfig) -> list[str]:
    """The splits that something is chosen by."""
    names = {config.snapshot.removeprefix("best-")} if config.snapshot != "every" else set()
    if chooses(config):
        names.add(config.select_on)
    return sorted(names)


def chooses(config: RunConfig) -> bool:
    """Whether the model that is kept, or the end, depends on checks."""
    return config.keep == "best" or config.patience is not None


def batch_size(config: RunConfig, processes: int) -> int:
    """Examples that a process reads at a time, of which several times make a step.

    Raises:
        UsageError: they are not whole.
    """
    given: int = values(config.training).get("gradient_accumulation_steps", 1)
    if config.batch_size % (processes * given):
        shared = [f"{processes} processes"] * (processes > 1)
        shared += [f"{given} accumulated batches (gradient_accumulation_steps)"] * (given > 1)
        raise UsageError(
            f"batch_size={config.batch_size} cannot be shared evenly by {' of '.join(shared)}; "
            "give a multiple of their number"
        )
    return config.batch_size // (processes * given)


def arguments(
    config: RunConfig, folder: Path, steps: int, headline: str = "", minimize: bool = False
) -> TrainingArguments:
    """Of a training in a folder.

    Args:
        headline: the metric that choices are made by.
        minimize: whether it is better when lower.

    Raises:
        UsageError: the user's settings do not go together.
    """
    every = build.in_steps(config.check_every, steps)
    restarts = {"num_cycles": len(config.ladder)} if config.max_drop is not None else None
    warmup = config.warmup
    if restarts:  # from where the levels are counted
        warmup = build.schedule(config).resolve(steps).begin
    best = f"{config.select_on}_{headline}"
    usual: dict[str, Any] = {
        "train_sampling_strategy": "group_by_length",
        "dataloader_pin_memory": torch.cuda.is_available(),
        # Every level of a ladder is trained to its end, with a learning rate falling to zero.
        "lr_scheduler_type": "cosine_with_restarts" if restarts else _LR[config.lr_schedule],
        "lr_scheduler_kwargs": restarts,
    }
    processes = PartialState().num_processes
    own: dict[str, Any] = {
        "output_dir": str(folder),
        "max_steps": steps,
        "per_device_train_batch_size": batch_size(config, processes),
        "learning_rate": config.lr,
        "warmup_steps": warmup,
        "weight_decay": config.weight_decay,
        "bf16": config.precision == "bf16",
        "use_cpu": not torch.accelerator.is_available(),  # bf16 wants to be told
        "seed": config.seed,
        "eval_strategy": "steps" if checked(config) else "no",
        "eval_steps": every,
        "metric_for_best_model": best if chooses(config) else None,
        "greater_is_better": not minimize,
        "save_strategy": "steps",
        "save_steps": every,
        "save_total_limit": 2,  # the last and the best, or the one before the last
        "restore_callback_states_from_checkpoint": True,
        "logging_steps": max(1, steps // 100),
        "disable_tqdm": True,
        "report_to": [],  # trackers come as callbacks
        "run_name": f"{folder.parent.name.removesuffix('.partial')}-{folder.name}",
    }
    theirs = values(config.training)
    try:
        return TrainingArguments(**usual | theirs | own)
    except (ValueError, TypeError, ImportError, RuntimeError) as error:
        if not theirs:
            raise
        reason = " ".join(str(error).split()).replace("--", "")  # which speaks of other flags
        raise UsageError(f"--training {' '.join(config.training)}: {reason}") from error


def practise(config: RunConfig, model: PreTrainedModel, steps: int) -> None:
    """Try in little, on a matrix of its own, what the user's settings make of the training.

    Raises:
        UsageError: the optimizer cannot be made, or shows the criterion less than it needs; the
            model cannot compute its activations anew.
    """
    if not config.training:
        return
    given = arguments(config, Path("training"), steps)
    anew = getattr(given, "activation_checkpointing", given.gradient_checkpointing)
    if anew and not model.supports_gradient_checkpointing:
        raise UsageError(
            f"--training gradient_checkpointing=true does not work with {type(model).__name__}; "
            "leave it out"
        )
    toy = nn.Sequential(nn.Linear(8, 8))
    try:
        kind, settings = Trainer.get_optimizer_cls_and_kwargs(given, toy)  # type: ignore[arg-type]
        optimizer = kind(toy.parameters(), **settings)
        if config.criterion == "dense":
            return
        plan = build.pruning(config, steps=steps)
        schedule = OneShot(plan["schedule"].final, begin=1)
        pruner = Pruner(toy, optimizer, plan["criterion"].fitted(1), schedule)
        for _ in range(2):
            toy(torch.ones(1, 8)).square().sum().backward()
            optimizer.step()
        pruner.detach()
    except Exception as error:  # of many packages
        reason = " ".join(str(error).split())
        raise UsageError(
            f"--training {' '.join(config.training)} does not suit {config.criterion}: {reason}"
        ) from error
