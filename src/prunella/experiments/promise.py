"""What a limit that was kept on the holdout is worth on rows that had no part in the choice."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import NormalDist, fmean
from typing import Any

CONFIDENCE = 0.95
BLOCKS = 25
FALLS = 0.05  # part of a loss; less may be the luck of its batches

Score = Callable[[Sequence[Any]], float]


def interval(
    score: Score, one: Sequence[Any], other: Sequence[Any], choices: int
) -> tuple[float, float]:
    """Bounds of the difference of two models' metrics, that hold for all choices at once.

    By the jackknife over blocks of rows that follow on each other (Künsch 1989), so that rows on
    one text stay together, for both models the same; by Student's t at Bonferroni's level, so that
    the bounds hold whichever of the models was chosen, and for whatever reason.

    Args:
        score: a metric of some records.
        one, other: two models' records of the same rows, in the same order; at least two.
        choices: models among which one of them was chosen.

    Returns:
        Bounds of ``score(other) - score(one)``, at 95 % confidence.
    """
    rows = len(one)
    blocks = min(BLOCKS, rows)
    starts = [rows * block // blocks for block in range(blocks + 1)]

    def without(records: Sequence[Any], block: int) -> list[Any]:
        return [*records[: starts[block]], *records[starts[block + 1] :]]

    left = [score(without(other, block)) - score(without(one, block)) for block in range(blocks)]
    middle = fmean(left)
    variance = (blocks - 1) / blocks * sum((value - middle) ** 2 for value in left)
    reach = _student(1 - (1 - CONFIDENCE) / (2 * choices), blocks - 1) * variance**0.5
    difference = score(other) - score(one)
    return difference - reach, difference + reach


def _student(probability: float, freedom: int) -> float:
    """A quantile of Student's t, by the expansion of Fisher and Cornish 1960."""
    z = NormalDist().inv_cdf(probability)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return z + sum(term / freedom**power for power, term in enumerate(terms, start=1))


def unfinished(
    curve: Sequence[Mapping[str, Any]], losses: Sequence[Mapping[str, float]], minimize: bool
) -> str | None:
    """What says that a climb ended before its models had learned what they could, in words.

    Args:
        curve: the levels, rising, with their `step` and `holdout`.
        losses: of the dense twin's training, which has the same learning rates: `step`, `loss`.
        minimize: whether the metric is better when lower.
    """
    sign = -1 if minimize else 1
    for point in reversed(curve[1:]):
        if sign * point["holdout"] >= sign * curve[0]["holdout"]:
            return (
                f"{100 * point['level']:g}% did no worse on the holdout than "
                f"{100 * curve[0]['level']:g}%, which had less time"
            )
    ends = [point["step"] for point in curve[-2:]]
    if len(ends) == 2:
        length = max(1, (ends[1] - ends[0]) // 4)  # the learning rate is then close to zero
        last = [
            [entry["loss"] for entry in losses if end - length < entry["step"] <= end]
            for end in ends
        ]
        if all(last) and fmean(last[1]) < (1 - FALLS) * fmean(last[0]):
            return (
                f"the loss of the dense model fell from {fmean(last[0]):.3g} to "
                f"{fmean(last[1]):.3g} over the last level"
            )
    return None
