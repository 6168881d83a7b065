"""Rows cut off train: the holdout, by which all choices are made, and dev where there is none."""

import logging
from pathlib import Path

import numpy as np
from datasets import ClassLabel, Dataset

from prunella.tasks.base import Splits, TaskError

HOLDOUT_LIMIT = 1000
MIN_ROWS = 20  # enough to cut a tenth off twice: for dev, and for the holdout
DEV_SEED = 0

logger = logging.getLogger("prunella")


def cut_holdout(
    train: Dataset, seed: int, *, apart: str | None = None, ordered: bool = False
) -> tuple[Dataset, Dataset]:
    """Cut a holdout off the training data: a tenth of it, at most 1000 rows.

    Where rows have one class each it is stratified by them, unless a class has fewer than two rows
    or the holdout fewer rows than there are classes; then, and elsewhere, the cut is random. The
    same data and seed always give the same cut.

    Args:
        apart: A column of which no value is to be in both parts, as the text that several questions
            are about; the holdout may then have some rows less.
        ordered: Cut off the last rows, whatever the seed, as rows go on from those before.

    Returns:
        The rest of the training data, and the holdout.

    Raises:
        TaskError: There are fewer than ten rows.
    """
    size = min(len(train) // 10, HOLDOUT_LIMIT)
    if size == 0:
        raise TaskError(
            f"{len(train)} training rows are too few to cut a tenth off as a holdout; "
            "give at least 10."
        )
    if ordered:
        rest = len(train) - size
        return train.select(range(rest)), train.select(range(rest, len(train)))
    if apart is not None:
        return _cut_apart(train, size, seed, apart)
    by: str | None = None
    if isinstance(train.features.get("label"), ClassLabel):
        _, counts = np.unique(train["label"], return_counts=True)
        by = "label" if counts.min() >= 2 and len(counts) <= size else None
    parts = train.train_test_split(
        test_size=size,
        stratify_by_column=by,
        seed=seed,
        keep_in_memory=True,
        load_from_cache_file=False,
    )
    return parts["train"], parts["test"]


def _cut_apart(train: Dataset, size: int, seed: int, column: str) -> tuple[Dataset, Dataset]:
    groups: dict[str, list[int]] = {}
    for place, value in enumerate(train[column]):
        groups.setdefault(value, []).append(place)
    keys = list(groups)
    cut: set[int] = set()
    for number in np.random.default_rng(seed).permutation(len(keys)):
        group = groups[keys[number]]
        if len(cut) + len(group) <= size:
            cut.update(group)
    if not cut:
        raise TaskError(
            f"no holdout of {size} of {len(train)} training rows can be cut off so that no "
            f"{column} is in both parts: the rarest has more rows; give more data."
        )
    rest = [place for place in range(len(train)) if place not in cut]
    return train.select(rest), train.select(sorted(cut))


def with_dev(train: Dataset, dev: Dataset | None, file: Path, *, ordered: bool = False) -> Splits:
    """Both parts; without a dev set, a tenth of train becomes it, always the same rows.

    Args:
        file: the training file.
        ordered: see `cut_holdout`.

    Raises:
        TaskError: there are too few rows for that.
    """
    if dev is not None:
        return Splits(train, {"dev": dev})
    if len(train) < MIN_ROWS:
        raise TaskError(
            f"{file}: {len(train)} rows are too few to cut a dev set off; give at least "
            f"{MIN_ROWS}, or a folder with a dev file."
        )
    rest, cut = cut_holdout(train, DEV_SEED, ordered=ordered)
    which = "the last " if ordered else ""
    logger.warning(
        "%s: no dev file, so %s%d of %d rows become the dev set", file, which, len(cut), len(train)
    )
    return Splits(rest, {"dev": cut})
