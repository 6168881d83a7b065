"""Rows that belong on one side of a cut, for they share text; and which still share some across."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from prunella.tasks.overlap import RUN, Texts, among


@dataclass(frozen=True)
class Ties:
    """Groups of rows, and the text that they nevertheless share.

    Attributes:
        groups: (rows,), the number of each row's group.
        barred: (rows,), whether a row's whole text is a phrase of many, and it is so never apart
            from all that hold it.
        touches: what a row has in common with others, as numbers of things.
        touched: for each of these, the rows that may not be on the other side.
    """

    groups: np.ndarray
    barred: np.ndarray
    touches: _Lists
    touched: _Lists

    @classmethod
    def of(cls, texts: Texts, firm: np.ndarray, largest: int) -> Ties:
        """Group rows by what few others have: the rarer a shared run of words, the sooner.

        A group may grow to `largest` rows, or a run that is in many texts would tie all rows
        together; beyond that only rows with the same long text are one group, and those that `firm`
        (rows,) gives the same number. A text of fewer than `RUN` words joins those that hold it
        whole if these are one group.
        """
        rows = len(texts.cells)
        owners = _Lists.of(*_occurrences(texts), len(texts.lengths))
        copies = owners.counts
        long = texts.lengths >= RUN
        forest = _Forest(rows)
        forest.tie(_chains(_Lists.of(firm, np.arange(rows), int(firm.max()) + 1)), rows)
        forest.tie(_chains(owners.where(long & (copies <= rows / 2))), rows)
        run, text = _shared_runs(texts, copies <= rows / 2)
        short, holder = _held_whole(texts)
        forest.tie(_edges(texts, owners, run, text), largest)
        for size in range(RUN - 1, 0, -1):
            of_size = texts.lengths[short] == size
            _join(forest, owners, short[of_size], holder[of_size], largest)
        groups = forest.groups()
        return cls._of(texts, owners, groups, (run, text), (short, holder))

    @classmethod
    def _of(
        cls,
        texts: Texts,
        owners: _Lists,
        groups: np.ndarray,
        runs: tuple[np.ndarray, np.ndarray],
        wholes: tuple[np.ndarray, np.ndarray],
    ) -> Ties:
        """What is still shared by rows of several groups."""
        rows = len(groups)
        run, run_row = owners.expand(*runs)
        across = _varies(run, groups[run_row])[run]
        run, run_row = run[across], run_row[across]
        short, holder = wholes
        by_short = _Lists.of(*owners.expand(short, holder), len(texts.lengths))
        phrase = by_short.counts > texts.common
        barred = np.zeros(rows, bool)
        barred[owners.where(phrase).values] = True
        # A short text that is held out, and those that hold it whole.
        few = ~phrase[short]
        thing, hit = owners.expand(short[few], holder[few])
        across = _varies(thing, groups[hit])[thing]
        thing, hit = thing[across], hit[across]
        again, held = owners.expand(np.unique(thing), np.unique(thing))
        # One that makes up most of a text that is held out.
        most = 2 * texts.lengths[short] > texts.lengths[holder]
        part, hitter = owners.expand(short[most], holder[most])
        parts, part_row = owners.expand(np.unique(part), np.unique(part))
        # Three kinds of things, numbered one after the other.
        base = int(run.max(initial=-1)) + 1
        further = base + len(texts.lengths)
        return cls(
            groups,
            barred,
            _Lists.of(
                np.concatenate([run_row, held, hitter]),
                np.concatenate([run, base + again, further + part]),
                rows,
            ),
            _Lists.of(
                np.concatenate([run, base + thing, further + parts]),
                np.concatenate([run_row, hit, part_row]),
                further + len(texts.lengths),
            ),
        )

    def others(self, rows: np.ndarray) -> np.ndarray:
        """Rows that share text with some of these, which are not among them."""
        things = np.unique(self.touches.of_all(rows))
        return np.setdiff1d(self.touched.of_all(things), rows)


@dataclass(frozen=True)
class _Lists:
    """Lists of numbers, one after the other."""

    values: np.ndarray
    starts: np.ndarray

    @classmethod
    def of(cls, keys: np.ndarray, values: np.ndarray, size: int) -> _Lists:
        """For each of `size` keys its values, in order."""
        order = np.argsort(keys, kind="stable")
        counts = np.bincount(keys, minlength=size)
        return cls(values[order], np.concatenate([[0], np.cumsum(counts)]))

    @property
    def counts(self) -> np.ndarray:
        return np.diff(self.starts)

    def where(self, kept: np.ndarray) -> _Lists:
        """The lists of some keys; those of others become empty."""
        counts = np.where(kept, self.counts, 0)
        return _Lists(
            self.values[np.repeat(kept, self.counts)], np.concatenate([[0], np.cumsum(counts)])
        )

    def of_all(self, keys: np.ndarray) -> np.ndarray:
        """The values of some keys, one after the other."""
        return self.expand(keys, keys)[1]

    def expand(self, names: np.ndarray, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """For pairs of a name and a key, pairs of the name and each value of the key."""
        counts = self.counts[keys]
        ends = np.cumsum(counts)
        places = np.arange(ends[-1] if len(ends) else 0)
        places += np.repeat(self.starts[keys] - (ends - counts), counts)
        return np.repeat(names, counts), self.values[places]


class _Forest:
    """Disjoint sets of rows."""

    def __init__(self, rows: int) -> None:
        self._parents = list(range(rows))
        self._sizes = [1] * rows

    def _root(self, row: int) -> int:
        parents = self._parents
        while parents[row] != row:
            parents[row] = row = parents[parents[row]]
        return row

    def tie(self, pairs: Iterable[tuple[int, int]], largest: int) -> None:
        """Unite the sets of the rows of each pair, unless that makes one of more than `largest`."""
        for one, other in pairs:
            one, other = self._root(one), self._root(other)
            size = self._sizes[one] + self._sizes[other]
            if one != other and size <= largest:
                self._parents[max(one, other)] = min(one, other)
                self._sizes[min(one, other)] = size

    def groups(self) -> np.ndarray:
        """(rows,), the first row of each row's set."""
        return np.array([self._root(row) for row in range(len(self._parents))], dtype=np.int64)


def _occurrences(texts: Texts) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of a text and a row that has it."""
    row, column = np.nonzero(texts.cells >= 0)
    pairs = np.unique(np.stack([texts.cells[row, column], row], axis=1), axis=0)
    return pairs[:, 0], pairs[:, 1]


def _chains(lists: _Lists) -> Iterator[tuple[int, int]]:
    """Pairs that tie together all of each list."""
    same = np.repeat(np.arange(len(lists.counts)), lists.counts)
    follows = np.flatnonzero(same[1:] == same[:-1])
    return zip(lists.values[follows].tolist(), lists.values[follows + 1].tolist(), strict=True)


def _shared_runs(texts: Texts, counted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of a run of `RUN` words and a text, of runs that a few of the texts have."""
    *_, (_, hashes, owners) = texts.runs()
    hashes, owners = hashes[counted[owners]], owners[counted[owners]]
    table = np.sort(hashes)
    table = np.unique(table[1:][table[1:] == table[:-1]])
    again = among(table, hashes)
    pairs = np.stack([np.searchsorted(table, hashes[again]), owners[again]], axis=1)
    pairs = np.unique(pairs, axis=0)
    counts = np.bincount(pairs[:, 0], minlength=len(table))
    few = ((counts > 1) & (counts <= texts.common))[pairs[:, 0]]
    _, run = np.unique(pairs[few, 0], return_inverse=True)
    return run, pairs[few, 1]


def _held_whole(texts: Texts) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of a text of fewer than `RUN` words and each text that holds it, itself included."""
    shorts, holders = [], []
    for size, hashes, owners in texts.runs():
        whole = np.flatnonzero(texts.lengths[owners] == size)
        if size == RUN or not len(whole):
            continue
        order = whole[np.argsort(hashes[whole])]
        found = among(hashes[order], hashes)
        shorts.append(owners[order][np.searchsorted(hashes[order], hashes[found])])
        holders.append(owners[found])
    if not shorts:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    pairs = np.unique(np.stack([np.concatenate(shorts), np.concatenate(holders)], axis=1), axis=0)
    return pairs[:, 0], pairs[:, 1]


def _edges(
    texts: Texts, owners: _Lists, run: np.ndarray, text: np.ndarray
) -> Iterator[tuple[int, int]]:
    """Pairs of rows that share a run of words or a short text, the rarest first."""
    first = owners.values[owners.starts[:-1]]
    lists = _Lists.of(run, first[text], int(run.max(initial=-1)) + 1)
    copies = owners.where((texts.lengths < RUN) & (owners.counts <= texts.common))
    stars = []
    for found in (lists, copies):
        some = found.counts > 0
        counts = found.counts[some]
        begins = found.values[found.starts[:-1][some]]
        stars.append([np.repeat(counts, counts), np.repeat(begins, counts), found.values])
    together = np.unique(np.concatenate([np.stack(star, axis=1) for star in stars]), axis=0)
    return zip(together[:, 1].tolist(), together[:, 2].tolist(), strict=True)


def _join(
    forest: _Forest, owners: _Lists, short: np.ndarray, holder: np.ndarray, largest: int
) -> None:
    """Tie short texts of one length to the texts that hold them, where these are one group."""
    text, row = owners.expand(short[short != holder], holder[short != holder])
    if not len(text):
        return
    lone = ~_varies(text, forest.groups()[row])
    kept = lone[text]
    names, firsts = np.unique(text[kept], return_index=True)
    text, own = owners.expand(names, names)
    others = np.repeat(row[kept][firsts], owners.counts[names])
    forest.tie(zip(others.tolist(), own.tolist(), strict=True), largest)


def _varies(keys: np.ndarray, values: np.ndarray) -> np.ndarray:
    """For each key whether its values differ."""
    size = int(keys.max(initial=-1)) + 1
    one = np.zeros(size, values.dtype)
    one[keys] = values
    differs = np.zeros(size, bool)
    differs[keys[values != one[keys]]] = True
    return differs
