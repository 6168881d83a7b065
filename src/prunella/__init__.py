"""Prune pretrained language models while they are fine-tuned.

A pruner is criterion × schedule × allocation, riding on a ``torch.optim`` optimizer::

    pruner = Pruner(model, optimizer, PINS(), Cubic(0.9, begin=200, end=2400))
    ...                               # your own loop, unchanged: backward(), optimizer.step()
    print(pruner.summary())
    prunella.save(model, "out")       # small on disk; prunella.load("out") runs it fast

This module needs torch alone; ``prunella.hf`` knows Transformers.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prunella.allocation import NM, Block, Element, Global, PerMatrix
    from prunella.criteria import (
        L0,
        PINS,
        PLATON,
        Criterion,
        Fisher,
        Magnitude,
        Movement,
        Random,
        Sensitivity,
        SoftMovement,
        View,
    )
    from prunella.errors import Diverged, Unsaved, UsageError
    from prunella.pruner import Pruner
    from prunella.regularizers import (
        Distillation,
        Predictions,
        Regularizer,
        SelfRegularization,
        Smoothing,
        VirtualTeacher,
    )
    from prunella.runtime import export, load, masks_from, save
    from prunella.schedules import Constant, Cubic, Ladder, Linear, OneShot, Schedule
    from prunella.summary import LeftDense, Summary, left_dense
    from prunella.task_gradients import TaskGradients

__version__ = "0.1.0"

__all__ = [
    "L0",
    "NM",
    "PINS",
    "PLATON",
    "Block",
    "Constant",
    "Criterion",
    "Cubic",
    "Distillation",
    "Diverged",
    "Element",
    "Fisher",
    "Global",
    "Ladder",
    "LeftDense",
    "Linear",
    "Magnitude",
    "Movement",
    "OneShot",
    "PerMatrix",
    "Predictions",
    "Pruner",
    "Random",
    "Regularizer",
    "Schedule",
    "SelfRegularization",
    "Sensitivity",
    "Smoothing",
    "SoftMovement",
    "Summary",
    "TaskGradients",
    "Unsaved",
    "UsageError",
    "View",
    "VirtualTeacher",
    "export",
    "left_dense",
    "load",
    "masks_from",
    "save",
]

# Where they are. Torch is imported once one is asked for: --help need not wait for it.
_PLACES = {
    "allocation": (
        "NM",
        "Block",
        "Element",
        "Global",
        "PerMatrix",
    ),
    "criteria": (
        "L0",
        "PINS",
        "PLATON",
        "Criterion",
        "Fisher",
        "Magnitude",
        "Movement",
        "Random",
        "Sensitivity",
        "SoftMovement",
        "View",
    ),
    "errors": (
        "Diverged",
        "Unsaved",
        "UsageError",
    ),
    "pruner": ("Pruner",),
    "regularizers": (
        "Distillation",
        "Predictions",
        "Regularizer",
        "SelfRegularization",
        "Smoothing",
        "VirtualTeacher",
    ),
    "runtime": (
        "export",
        "load",
        "masks_from",
        "save",
    ),
    "schedules": (
        "Constant",
        "Cubic",
        "Ladder",
        "Linear",
        "OneShot",
        "Schedule",
    ),
    "summary": ("LeftDense", "Summary", "left_dense"),
    "task_gradients": ("TaskGradients",),
}
_HOMES = {name: module for module, names in _PLACES.items() for name in names}


def __getattr__(name: str) -> Any:
    module = _HOMES.get(name, name)
    try:
        if name.startswith("_"):
            raise ModuleNotFoundError(name=f"{__name__}.{name}")
        found = import_module(f"{__name__}.{module}")
    except ModuleNotFoundError as error:
        if error.name != f"{__name__}.{name}":  # something is missing that it needs
            raise
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
    return getattr(found, name) if name in _HOMES else found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
