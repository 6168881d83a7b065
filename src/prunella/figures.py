"""Shares as text, so that none says more than holds."""

from __future__ import annotations

import math

_SLACK = 0.005 + 1e-9  # points by which a share may be rounded up: weights are whole


def percent(share: float, digits: int = 2, mark: str = "%", brief: bool = False) -> str:
    """A share of 1 in percent: 100 only where it is all, 0 only where it is nothing.

    Args:
        digits: after the point.
        brief: leave out zeros at its end.

    >>> percent(0.9), percent(0.8999, 1), percent(0.89998, 1), percent(0.99999), percent(1.0)
    ('90.00%', '89.9%', '90.0%', '99.99%', '100.00%')
    >>> percent(0.0), percent(1e-6), percent(0.975, mark=" %", brief=True)
    ('0.00%', '<0.01%', '97.5 %')
    """
    exact, unit = 100 * share, 10**digits
    shown = round(exact, digits)
    if shown - exact > _SLACK or (shown >= 100 and share < 1):
        shown = min(math.floor(exact * unit + 1e-9), 100 * unit - 1) / unit
    few = share > 0 and shown <= 0
    text = f"{1 / unit if few else shown:.{digits}f}"
    text = text.rstrip("0").rstrip(".") if brief and "." in text else text
    return f"{'<' * few}{text}{mark}"
