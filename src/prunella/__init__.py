"""Prune pretrained language models while they are fine-tuned.

A pruner is criterion × schedule × allocation, riding on a ``torch.optim`` optimizer::

    pruner = Pruner(model, optimizer, PINS(), Cubic(0.9, begin=200, end=2400))
    ...                               # your own loop, unchanged: backward(), optimizer.step()
    print(pruner.summary())
    prunella.save(model, "out")       # small on disk; prunella.load("out") runs it fast

This module needs torch alone; ``prunella.hf`` knows Transformers.
"""

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
