"""A user's own data, wherever it lies: files, a set that ``save_to_disk`` wrote, or the hub."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa  # type: ignore[import-untyped]
from datasets import Dataset, DatasetDict, IterableDataset, load_dataset, load_from_disk

from prunella.tasks.base import TaskError
from prunella.tasks.form import PLAIN, Form
from prunella.tasks.parts import NAMES, check_format, parts, shards
from prunella.tasks.reading import (
    READERS,
    at,
    check_columns,
    classes_of,
    lines,
    named,
    names_of,
    objects,
    parquet_columns,
)
from prunella.tasks.rejects import Rejects
from prunella.tasks.text import suffix_of

TEXTS = (".txt", ".md", ".tokens", ".raw")  # of files whose every line is a text
# Not a bare name: it is likelier that of a folder, mistyped, and asking the hub takes its time.
_HUB = re.compile(r"[\w-][\w.-]*(/[\w.-]+(:[\w.-]+)?|:[\w.-]+)")
_SAVED = ("dataset_dict.json", "state.json")  # in folders that `save_to_disk` wrote

# Where a row is, and its cells in the order asked for.
Cells = Iterator[tuple[str, list[Any]]]
Rows = Iterator[tuple[str, dict[str, Any]]]  # and all its cells, by their columns


@dataclass(frozen=True)
class File:
    """A file, or a table in several (see `parts.shards`), in one of the formats of `READERS`; or
    one of plain text, whose lines are the cells of any one column.
    """

    path: Path
    form: Form = PLAIN

    def __str__(self) -> str:
        return str(self.path)

    def cells(
        self, columns: Sequence[str], rejects: Rejects | None = None, *, lazy: bool = False
    ) -> Cells:
        """The cells of the columns, row by row.

        Args:
            rejects: takes rows that are malformed; otherwise the first is an error.
            lazy: read no more than is asked for; the first row then says which columns there are.

        Raises:
            TaskError: it cannot be read, or lacks a column.
        """
        for path in shards(self.path):
            suffix = suffix_of(path)
            if suffix in TEXTS:
                yield from ((at(path, number), [line]) for number, line in lines(path, self.form))
            elif lazy and suffix in (".json", ".jsonl"):
                rows = objects(path, self.form, rejects)
                yield from _picked(self, columns, ((at(path, n), row) for n, row in rows))
            else:
                read = READERS[suffix](path, columns, self.form, rejects)
                yield from ((at(path, number), cells) for number, cells in read)

    def rows(self, rejects: Rejects | None = None) -> Rows:
        """The rows of JSON or Parquet with all they hold, as they are needed; see `cells`.

        Without the nulls of Arrow, which has one for every key that another row has.
        """
        for path in shards(self.path):
            if suffix_of(path) == ".parquet":
                names = parquet_columns(path)
                for number, cells in READERS[".parquet"](path, names, self.form, rejects):
                    yield at(path, number), _without_nulls(dict(zip(names, cells, strict=True)))
            else:
                found = objects(path, self.form, rejects)
                yield from ((at(path, number), row) for number, row in found)

    def columns(self) -> list[str]:
        """The names of the columns of JSON or Parquet."""
        path = shards(self.path)[0]
        if suffix_of(path) == ".parquet":
            return parquet_columns(path)
        return list(dict.fromkeys(key for _, row in objects(path, self.form) for key in row))

    def classes(self, column: str) -> tuple[str, ...] | None:
        """The names of a column's classes in the order of their indices, if the file has them."""
        return classes_of(shards(self.path)[0], column)


@dataclass(frozen=True)
class Part:
    """A split of a set on disk or on the hub; may be a stream.

    Attributes:
        source: the folder, or the name.
        split: of the set; empty where the folder holds one alone.
    """

    source: str
    split: str
    data: Dataset | IterableDataset

    def __str__(self) -> str:
        return self.source

    def cells(
        self, columns: Sequence[str], rejects: Rejects | None = None, *, lazy: bool = False
    ) -> Cells:
        """As `File.cells`; ``a.b`` is the field ``b`` of the column ``a``."""
        data, names = self.data, self.data.column_names or []
        tops = [column if column in names else column.partition(".")[0] for column in columns]
        if set(tops) <= set(names):  # others may be large
            data = data.select_columns(list(dict.fromkeys(tops)))
        rows = ((place, _with_fields(row)) for place, row in self._read(data))
        names_in = [named(self._feature(column)) for column in columns]
        for place, cells in _picked(self, columns, rows):
            yield place, [name(cell) for name, cell in zip(names_in, cells, strict=True)]

    def rows(self, rejects: Rejects | None = None) -> Rows:
        """As `File.rows`."""
        return ((place, _without_nulls(row)) for place, row in self._read(self.data))

    def _read(self, data: Dataset | IterableDataset) -> Rows:
        split = f"{self.split} " if self.split else ""
        try:
            for number, row in enumerate(data, start=1):
                yield f"{self.source}, {split}row {number}", row
        except (OSError, ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split())
            raise TaskError(f"{self} cannot be read ({reason}); mend it or name another") from error

    def columns(self) -> list[str]:
        """The names of the columns."""
        return self.data.column_names or list(next(iter(self.data), {}))

    def classes(self, column: str) -> tuple[str, ...] | None:
        """As `File.classes`."""
        return names_of(self._feature(column))

    def _feature(self, column: str) -> Any:
        return dict(self.data.features or {}).get(column)


Source = File | Part


class Parts(NamedTuple):
    """Where a set is read from; the last two may be missing."""

    train: Source
    dev: Source | None = None
    test: Source | None = None


def own(
    data: Path | str,
    form: Form = PLAIN,
    *,
    suffixes: tuple[str, ...] = tuple(READERS),
    test: Path | None = None,
    streaming: bool = False,
) -> Parts:
    """Find the part to train on and, where there are such, those for dev and test.

    Args:
        data: a file to train on; a folder of files for train, dev and test (see `parts.NAMES`); a
            folder that ``save_to_disk`` wrote; or a set on the hub, ``owner/name`` or, where it has
            several configurations, ``owner/name:configuration``.
        suffixes: that files may have.
        test: a file for test, instead of what is found.
        streaming: read a set on the hub as it is needed.

    Raises:
        TaskError: it is not there or cannot be read, or has no part to train on.
    """
    found = _found(data, form, suffixes, streaming)
    return found if test is None else found._replace(test=named_test(test, form, suffixes))


def named_test(path: Path, form: Form, suffixes: tuple[str, ...]) -> File:
    """The file for test that was asked for.

    Raises:
        TaskError: it is not there, or of no format that is read.
    """
    if not path.is_file():
        raise TaskError(f"there is no file {path}; give one with labels by --test-data.")
    check_format(path, suffixes)
    return _file(path, form)


def _found(data: Path | str, form: Form, suffixes: tuple[str, ...], streaming: bool) -> Parts:
    path = Path(data)
    if path.is_dir() and any((path / name).is_file() for name in _SAVED):
        return _split(path, _saved(path))
    named = _HUB.fullmatch(str(data)) and suffix_of(path) not in suffixes
    if named and not path.exists():
        return _split(path, _from_hub(str(data), streaming))
    train, *others = parts(path, suffixes)
    return Parts(
        _file(train, form), *(None if file is None else _file(file, form) for file in others)
    )


def _file(path: Path, form: Form) -> File:
    if form.separator is not None and suffix_of(path) not in (".csv", ".tsv"):
        raise TaskError(f"--separator is for CSV and TSV files, and {path} is none; leave it out.")
    return File(path, form)


def is_plain(source: Source) -> bool:
    """Whether it is a file whose every line is a text."""
    return isinstance(source, File) and suffix_of(source.path) in TEXTS


def _saved(folder: Path) -> dict[str, Dataset]:
    try:
        found = load_from_disk(str(folder))
    except (OSError, ValueError, LookupError, pa.ArrowException) as error:
        reason = " ".join(str(error).split())
        raise TaskError(f"{folder}: no sound set ({reason}); write it again.") from error
    if isinstance(found, DatasetDict):
        return {str(split): part for split, part in found.items()}
    return {"": found}


def _from_hub(data: str, streaming: bool) -> dict[str, Any]:
    name, _, configuration = data.partition(":")
    how: dict[str, Any] = {"streaming": streaming}
    try:
        return dict(load_dataset(name, configuration or None, **how))
    except (OSError, ValueError, RuntimeError) as error:
        # no such set, or no network; several configurations; a script, which is not run
        reason = " ".join(str(error).split())
        raise TaskError(
            f"{data} is no file or folder, and cannot be read from the hub ({reason}); give a file "
            "or folder, or the name of a set there, owner/name or owner/name:configuration."
        ) from error


def _split(data: Path, splits: Mapping[str, Any]) -> Parts:
    names = {part: [name for name in splits if name in known] for part, known in NAMES.items()}
    train = [""] if "" in splits else names["train"]
    if not train:
        raise TaskError(f"{data} has no split train; found was {', '.join(map(str, splits))}.")
    dev, test = (
        Part(str(data), found[0], splits[found[0]]) if found else None
        for found in (names["dev"], names["test"])
    )
    return Parts(Part(str(data), train[0], splits[train[0]]), dev, test)


def _with_fields(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row with the fields of its columns as columns ``a.b``."""
    fields = {
        f"{name}.{field}": value
        for name, cell in row.items()
        if isinstance(cell, dict)
        for field, value in cell.items()
    }
    return {**row, **fields}


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(held) for key, held in value.items() if held is not None}
    if isinstance(value, list):
        return [_without_nulls(held) for held in value]
    return value


def _picked(
    source: Source, columns: Sequence[str], rows: Iterable[tuple[str, Mapping[str, Any]]]
) -> Cells:
    """The cells asked for; the first row says which columns there are."""
    for number, (place, row) in enumerate(rows):
        if number == 0:
            check_columns(str(source), list(row), columns)
        yield place, [row.get(column) for column in columns]
