"""Rows cut off train: the holdout, by which all choices are made, and dev where there is none."""

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from datasets import ClassLabel, Dataset

from prunella.tasks.base import Splits, TaskError
from prunella.tasks.overlap import Texts
from prunella.tasks.ties import Ties

HOLDOUT_LIMIT = 1000
MIN_ROWS = 20  # enough to cut a tenth off twice: for dev, and for the holdout
DEV_SEED = 0
GROUPS = 10  # that a holdout has at least, where not one text has more rows

logger = logging.getLogger("prunella")


def cut_holdout(
    train: Dataset,
    seed: int,
    *,
    apart: str | None = None,
    ordered: bool = False,
    texts: Sequence[str] | None = None,
) -> tuple[Dataset, Dataset]:
    """Cut a holdout off the training data: a tenth of it, at most 1000 rows, of other texts.

    Rows that share text (see `overlap.shared`) are held out together. Training rows that share some
    with the holdout all the same are left out of both parts, at most as many as are held out. Where
    not even half of the holdout can be had so, as in texts made by a template, the rest is cut at
    random: `overlap.shared` counts what is then in both parts.

    Where rows have one class each, the classes' shares in the holdout are those of train, as far as
    whole groups of rows allow. The same data and seed always give the same cut.

    Args:
        apart: A column of which no value is to be in both parts, as the text that several questions
            are about; the holdout may then have some rows less.
        ordered: Cut off the last rows, whatever the seed, as rows go on from those before.
        texts: The columns that hold text; by default all that hold strings, or lists of such.

    Returns:
        The rest of the training data, in random order, and the holdout.

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
    firm = np.arange(len(train))
    if apart is not None:
        _, firm = np.unique(np.array(train[apart], object), return_inverse=True)
    largest = max(size // GROUPS, min(size, GROUPS))
    ties = Ties.of(Texts.of([train], texts), firm, largest)
    random = np.random.RandomState(seed)  # of all NumPy's the one whose numbers never change
    cut = _Cut(ties, firm, _classes(train), size)
    cut.fill(random)
    if not cut.held.any():
        raise TaskError(
            f"no holdout of {size} of {len(train)} training rows can be cut off so that no "
            f"{apart} is in both parts: the rarest has more rows; give more data."
        )
    kept = np.flatnonzero(~cut.held & ~cut.left_out)
    return train.select(random.permutation(kept)), train.select(np.flatnonzero(cut.held))


def _classes(train: Dataset) -> np.ndarray:
    """(rows,), what the cut is stratified by."""
    if isinstance(train.features.get("label"), ClassLabel):
        return np.asarray(train["label"])
    return np.zeros(len(train), np.int64)


class _Cut:
    """A holdout in the making.

    Attributes:
        held: (rows,), what is held out.
        left_out: (rows,), what is in neither part.
    """

    def __init__(self, ties: Ties, firm: np.ndarray, classes: np.ndarray, size: int) -> None:
        self._ties = ties
        self._firm = firm
        self._size = size
        _, self._classes, counts = np.unique(classes, return_inverse=True, return_counts=True)
        shares = size * counts / len(classes)
        self._shares = np.floor(shares).astype(np.int64)
        # What rounding leaves goes to those that lost most by it.
        most = np.lexsort((-counts, self._shares - shares))
        self._shares[most[: size - self._shares.sum()]] += 1
        self.held = np.zeros(len(classes), bool)
        self.left_out = np.zeros(len(classes), bool)

    def fill(self, random: np.random.RandomState) -> None:
        """Hold out groups in random order: of each class its share, unless too few fit in."""
        for groups, clean in ((self._ties.groups, True), (self._firm, False)):
            for shares in (self._shares, np.full_like(self._shares, self._size)):
                if 2 * self.held.sum() < self._size:
                    self._take(groups, clean, shares, random)

    def _take(
        self, groups: np.ndarray, clean: bool, shares: np.ndarray, random: np.random.RandomState
    ) -> None:
        """Hold out groups; leave out what of them there is no room for and, if `clean`, rows of
        others that share text with them. No group may cost more rows than are held out of it.
        """
        order = np.argsort(groups, kind="stable")
        members = np.split(order, np.flatnonzero(np.diff(groups[order])) + 1)
        for number in random.permutation(len(members)):
            group = members[number]
            if self.held.sum() == self._size:
                break
            if self.held[group].any() or (clean and self._ties.barred[group].any()):
                continue
            rows = self._fitting(group, shares)
            lost = np.setdiff1d(group, rows)
            if clean:
                lost = np.union1d(lost, self._ties.others(rows))
            lost = lost[~self.held[lost]]
            if 0 < len(rows) >= (~self.left_out[lost]).sum():
                self.left_out[lost] = True
                self.left_out[rows] = False
                self.held[rows] = True

    def _fitting(self, rows: np.ndarray, shares: np.ndarray) -> np.ndarray:
        """Those of some rows that there is still room for, the first of each class."""
        room = shares - np.bincount(self._classes[self.held], minlength=len(shares))
        classes = self._classes[rows]
        rank = np.array([(classes[:place] == of).sum() for place, of in enumerate(classes)])
        return rows[rank < room[classes]][: self._size - self.held.sum()]


def with_dev(
    train: Dataset,
    dev: Dataset | None,
    file: Path,
    *,
    ordered: bool = False,
    texts: Sequence[str] | None = None,
    test: Dataset | None = None,
    whole: bool = False,
) -> Splits:
    """All parts; without a dev set, a tenth of train becomes it, always the same rows.

    Args:
        file: the training file.
        ordered, texts: see `cut_holdout`.
        whole: nothing is trained on: all rows are dev, if there is no dev set.

    Raises:
        TaskError: there are too few rows for that.
    """
    if dev is not None:
        return Splits(train, {"dev": dev}, test)
    if whole:
        return Splits(train, {"dev": train}, test)
    if len(train) < MIN_ROWS:
        raise TaskError(
            f"{file}: {len(train)} rows are too few to cut a dev set off; give at least "
            f"{MIN_ROWS}, or a folder with a dev file."
        )
    rest, cut = cut_holdout(train, DEV_SEED, ordered=ordered, texts=texts)
    which = "the last " if ordered else ""
    lost = len(train) - len(rest) - len(cut)
    also = f", and {lost} that share text with them are left out" if lost else ""
    logger.warning(
        "%s: no dev file, so %s%d of %d rows become the dev set%s",
        file,
        which,
        len(cut),
        len(train),
        also,
    )
    return Splits(rest, {"dev": cut}, test)
