"""From settings to the objects they describe."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from prunella.allocation import NM, Block, Element, Global, PerMatrix
from prunella.criteria import Criterion, Random, named
from prunella.criteria.learned import Learned
from prunella.errors import UsageError
from prunella.experiments.config import WINDOWED, RunConfig
from prunella.regularizers import (
    Distillation,
    Regularizer,
    SelfRegularization,
    Smoothing,
    VirtualTeacher,
)
from prunella.schedules import Constant, Cubic, Ladder, Linear, OneShot, Schedule

SCHEDULES: dict[str, type[Schedule]] = {
    "cubic": Cubic,
    "linear": Linear,
    "oneshot": OneShot,
    "constant": Constant,
}


def pruning(
    config: RunConfig, masks: Mapping[str, Tensor] | None = None, steps: int | None = None
) -> dict[str, Any]:
    """The settings of a ``Pruner``, and of a ``PruningCallback``.

    Args:
        masks: what is pruned at the start, from whose sparsity the ramp starts; empty = nothing.
        steps: of the run, to which what was left open is fitted.
    """
    total = sum(mask.numel() for mask in (masks or {}).values())
    kept = sum(int(mask.count_nonzero()) for mask in (masks or {}).values())
    criterion, plan = _criterion(config), schedule(config, 1 - kept / total if total else 0.0)
    if steps is not None:
        criterion, plan = _fitted(config, criterion, plan, steps)
    return {
        "criterion": criterion,
        "schedule": plan,
        "masks": masks,
        "allocation": {"global": Global, "matrix": PerMatrix}[config.scope](
            _pattern(config.pattern)
        ),
        "hold": config.hold,
        **chosen(config),
    }


def _fitted(
    config: RunConfig, criterion: Criterion, plan: Schedule, steps: int
) -> tuple[Criterion, Schedule]:
    """Criterion and schedule of a run of so many steps, what was given by the user left as it is.

    Raises:
        UsageError: masks would be selected by scores that have not learned anything.
    """
    plan = plan.resolve(steps)
    if plan.first_update() == 0 and isinstance(config.begin, float) and steps > 1:
        plan = replace(plan, begin=1)  # a fraction so small means early, not untrained
    first = plan.first_update()
    if isinstance(criterion, Learned) and plan.final and first == 0 and config.warmup:
        raise UsageError(
            f"{config.criterion} has learned nothing at step 0, where begin={config.begin} selects "
            "masks and the learning rate is still 0; begin later, train longer (total_steps), or "
            f"leave out the warm-up with warmup=0, which is {config.warmup:g}"
        )
    return (criterion.fitted(first) if config.window is None else criterion), plan


def adjusted(config: RunConfig, steps: int) -> list[str]:
    """What is other than by default because the run is short, in words."""
    if config.criterion == "dense" or config.sparsity == 0:
        return []
    usual, fitted = pruning(config), pruning(config, steps=steps)
    found = []
    if fitted["criterion"] != usual["criterion"]:
        found.append(
            f"{config.criterion} averages {fitted['criterion'].evidence} steps in place of "
            f"{usual['criterion'].evidence}, for so soon are masks first selected"
        )
    if usual["schedule"].resolve(steps) != fitted["schedule"]:
        found.append("masks are selected at step 1, once something was trained")
    return found


def chosen(config: RunConfig) -> dict[str, Any]:
    """What may be pruned, as ``find_prunable`` is told."""
    return {
        "parameters": config.prune or None,
        "include_biases": config.include_biases,
        "include_embeddings": config.include_embeddings,
    }


def _criterion(config: RunConfig) -> Criterion:
    """The criterion, with its default settings; ``random`` takes the run's seed."""
    if config.criterion == "random":
        return Random(config.seed)
    criterion = named(config.criterion)
    if config.score_lr is not None:
        if not isinstance(criterion, Learned):
            raise UsageError(
                f"score_lr={config.score_lr} is for criteria that learn their scores (movement, "
                f"soft-movement, l0), not for {config.criterion}; leave it out"
            )
        criterion = replace(criterion, lr=config.score_lr)
    if config.window is not None:
        criterion = _windowed(config, criterion, config.window)
    if config.target:
        return criterion.aimed(schedule(config).final)
    if criterion.aimed(config.sparsity) == criterion:
        raise UsageError(
            f"--no-target is for soft-movement and l0; {config.criterion} always prunes what "
            "the sparsity says"
        )
    return criterion


def _windowed(config: RunConfig, criterion: Criterion, window: int) -> Criterion:
    if config.criterion not in WINDOWED:
        raise UsageError(
            f"window={window} is for {', '.join(WINDOWED)}, not for {config.criterion}; leave it "
            "out"
        )
    return replace(criterion, window=window)  # type: ignore[type-var]


def schedule(config: RunConfig, initial: float = 0.0) -> Schedule:
    """How the sparsity grows: to one value, or from level to level."""
    if config.max_drop is not None:
        return Ladder(begin=config.begin, every=config.every, levels=config.ladder)
    moving = config.criterion.endswith("-released") and config.schedule != "oneshot"
    after = config.after or ("reselect" if moving else "freeze")
    start = min(initial, config.sparsity)
    return SCHEDULES[config.schedule](
        config.sparsity, config.begin, config.end, config.every, start, after=after
    )


def _pattern(text: str) -> Element:
    if text == "element":
        return Element()
    for separator, kind in ((":", NM), ("x", Block)):
        sides = text.split(separator)
        if len(sides) == 2 and all(side.isdecimal() for side in sides):
            try:
                return kind(int(sides[0]), int(sides[1]))
            except UsageError as error:
                raise UsageError(f"pattern={text}: {error}") from None
    raise UsageError(f"pattern={text!r} is unknown: give element, N:M as in 2:4, or HxW as in 4x4")


def terms(
    config: RunConfig, model: nn.Module, teacher: Mapping[str, Any] | None, steps: int
) -> list[Regularizer]:
    """The regularizers of a run, in a fixed order.

    Args:
        model: the model that is trained.
        teacher: for distillation, ``teacher`` (a model) and ``columns``, as of ``Distillation``.
        steps: of the run.
    """
    every = in_steps(config.snapshot_every, steps) if config.snapshot == "every" else None
    if every is not None and every >= steps and "self" in config.regularize:
        raise UsageError(
            f"snapshot_every={config.snapshot_every} gives no snapshot before the end of a run of "
            f"{steps} steps; lower it"
        )
    kind = getattr(model.config, "problem_type", None)
    several = kind == "multi_label_classification"
    made: list[Regularizer] = []
    if "self" in config.regularize:
        made.append(SelfRegularization(model, config.self_weight, config.temperature, every))
    if teacher is not None:
        made.append(distillation(config, teacher))
    if "smoothing" in config.regularize:
        made.append(Smoothing(config.smoothing, several))
    if "virtual-teacher" in config.regularize:
        made.append(VirtualTeacher(config.virtual_teacher))
    return made


def distillation(config: RunConfig, teacher: Mapping[str, Any]) -> Distillation:
    """The term of a teacher; see `terms`."""
    return Distillation(
        weight=config.distill_weight,
        temperature=config.temperature,
        hidden=config.distill_hidden,
        attention=config.distill_attention,
        **teacher,
    )


def class_weights(labels: Sequence[int], classes: int) -> list[float]:
    """For each class the rows that it would have if all had as many, over those it has."""
    counts = np.bincount(np.asarray(labels), minlength=classes)
    return (len(labels) / np.count_nonzero(counts) / np.maximum(counts, 1)).tolist()


def weighted_loss(weights: Sequence[float]) -> Callable[..., Tensor]:
    """Cross-entropy of rows weighted by their classes, as ``compute_loss_func`` of a Trainer.

    The sum is divided by the number of rows, not by that of their weights: so several batches
    accumulated give the gradient of one.
    """

    def loss(
        outputs: Any, labels: Tensor, num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        weight = torch.tensor(weights, device=labels.device)
        rows = cross_entropy(outputs["logits"].float(), labels, weight, reduction="sum")
        return rows / (len(labels) if num_items_in_batch is None else num_items_in_batch)

    return loss


def in_steps(value: int | float, steps: int) -> int:
    """A number of steps, or a fraction of the run, as steps."""
    return value if isinstance(value, int) else max(1, round(value * steps))
