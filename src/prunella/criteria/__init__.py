"""What a weight is worth: one short class a method, and the names the command knows them by."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from prunella.criteria.base import Criterion, View
from prunella.criteria.curvature import Fisher
from prunella.criteria.gradient import PINS, PLATON, Sensitivity
from prunella.criteria.learned import L0, Movement, SoftMovement
from prunella.criteria.weight import Magnitude, Random
from prunella.errors import UsageError, unknown

__all__ = [
    "CRITERIA",
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
    "named",
]

CRITERIA: dict[str, Callable[[], Criterion]] = {
    "random": Random,
    "magnitude": Magnitude,
    "sensitivity": partial(Sensitivity, smoothing=0.95),
    "fisher": Fisher,
    "platon": PLATON,
    "platon-released": PLATON.released,
    "pins": PINS,
    "pins-signed": partial(PINS, signed=True),
    "pins-sgd": partial(PINS, update="sgd"),
    "pins-released": PINS.released,
    "movement": Movement,
    "soft-movement": SoftMovement,
    "l0": L0,
}


def named(name: str) -> Criterion:
    """The criterion of a name, with its default settings.

    Raises:
        UsageError: no criterion has that name; the nearest names are given.
    """
    if name not in CRITERIA:
        raise UsageError(unknown("criterion", name, CRITERIA))
    return CRITERIA[name]()
