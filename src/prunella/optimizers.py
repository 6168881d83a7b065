"""What a pruner has to know of the optimizer it rides on."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from types import FrameType
from typing import Any

from torch import nn
from torch.optim import LBFGS, Optimizer

from prunella.errors import UsageError
from prunella.sharding import nonzeros


def unwrap_optimizer(optimizer: Any) -> Optimizer:
    """The torch optimizer inside wrappers such as Accelerate's.

    Raises:
        UsageError: there is none, or it steps where a pruner cannot see it.
    """
    inner = optimizer
    while True:
        kinds = {f"{kind.__module__}.{kind.__name__}" for kind in type(inner).__mro__}
        if any("deepspeed" in kind.lower() for kind in kinds):
            raise UsageError(
                f"{type(optimizer).__name__} is DeepSpeed's, which steps inside its engine and "
                "keeps the weights itself; shard with fully_shard (FSDP2) instead"
            )
        if not isinstance(getattr(inner, "optimizer", None), Optimizer):
            break
        inner = inner.optimizer
    if not isinstance(inner, Optimizer):
        raise UsageError(
            f"{type(inner).__name__} is no torch.optim optimizer; the pruner works through "
            "the step hooks that those have"
        )
    if isinstance(inner, LBFGS):
        raise UsageError(
            "LBFGS calls its closure several times within a step, and a pruner needs the one "
            "gradient that an update rests on; use AdamW, SGD or another that calls it once"
        )
    if hasattr(inner, "optimizer_dict"):  # Transformers' LayerWiseDummyOptimizer
        raise UsageError(
            f"{type(inner).__name__} stands for optimizers that step inside backward, before a "
            "pruner can see the gradients; use one that steps when step() is called"
        )
    return inner


def groups_of(optimizer: Optimizer, parameters: Mapping[str, nn.Parameter]) -> dict[str, int]:
    """The index of each parameter's group.

    Raises:
        UsageError: the optimizer lacks a parameter.
    """
    where = {
        id(parameter): index
        for index, group in enumerate(optimizer.param_groups)
        for parameter in group["params"]
    }
    missing = [name for name, parameter in parameters.items() if id(parameter) not in where]
    if missing:
        raise UsageError(
            f"the optimizer lacks {len(missing)} of the {len(parameters)} prunable "
            f"parameters, {missing[0]} to begin with; build it from this model's parameters "
            "as they are now (after sharding, or with accelerator.prepare), or choose among "
            "those it holds with parameters=[...]"
        )
    return {name: where[id(parameter)] for name, parameter in parameters.items()}


def is_running(call: FrameType) -> bool:
    """Whether a call has not returned or raised yet, asked from within it."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame is not call:
        frame = frame.f_back
    return frame is not None


def with_closure(
    args: tuple[Any, ...], kwargs: dict[str, Any], closure: Callable[[], Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Arguments of ``step``, the optimizer first, with another closure."""
    if "closure" in kwargs:
        return args, kwargs | {"closure": closure}
    return (args[0], closure, *args[2:]), kwargs


def is_rehearsal(optimizer: Optimizer) -> bool:
    """Whether a step is the empty one by which sharded checkpoints make an optimizer's state.

    It comes before any other, with learning rates and all gradients zero.
    """
    if optimizer.state or any(float(group["lr"]) for group in optimizer.param_groups):
        return False
    gradients = [
        parameter.grad
        for group in optimizer.param_groups
        for parameter in group["params"]
        if parameter.requires_grad
    ]
    return not any(gradient is None or nonzeros(gradient) for gradient in gradients)


def overwrites_gradients(group: Mapping[str, Any]) -> bool:
    """Whether the update may write into the gradients: of torch's, SGD's foreach Nesterov."""
    return bool(group.get("nesterov")) and not group.get("fused")
