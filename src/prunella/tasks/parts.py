"""Which file of a folder is which part of the data."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from datasets import Dataset

from prunella.tasks.base import TaskError
from prunella.tasks.text import suffix_of

logger = logging.getLogger("prunella")

_SHEETS = (".xlsx", ".xlsm", ".xls", ".ods", ".numbers")
_ARCHIVES = (".zip", ".7z", ".rar", ".tar", ".tgz", ".bz2", ".xz", ".zst")

# What files, and splits of sets, are called: WikiText's and CoNLL's own names among them.
NAMES = {
    "train": ("train", "training", "wiki.train"),
    "dev": ("dev", "devel", "val", "valid", "validation", "eval", "testa", "wiki.valid"),
    "test": ("test", "testb", "wiki.test"),
}
# Of what lies beside data: hidden files, and such as are about it.
_ABOUT = re.compile(r"\.|readme|license|licence|notice|citation|dataset_info", re.IGNORECASE)


class Files(NamedTuple):
    """The files of a set; the last two may be missing."""

    train: Path
    dev: Path | None = None
    test: Path | None = None


def parts(data: Path, suffixes: tuple[str, ...]) -> Files:
    """The training file and, from a folder that has them, those for dev and test (see `NAMES`).

    Files of a folder that are none of these are named in the log.

    A table in several files, ``train-00000-of-00002.parquet`` and so on, is named by the pattern
    ``train-*-of-00002.parquet``; see `shards`.

    Args:
        data: a file to train on, or a folder.
        suffixes: that the files may have.

    Raises:
        TaskError: there is no such file, or several; or a part of a table is missing.
    """
    formats = ", ".join(suffixes)
    if not data.is_dir():
        if not data.exists():
            raise TaskError(f"there is no file or folder {data}; give the data to train on.")
        check_format(data, suffixes)
        return Files(data)
    try:
        paths = sorted(data.iterdir())
    except OSError as error:
        raise TaskError(f"{data}: {error.strerror}; give a folder that can be read.") from error
    known = [path for path in paths if suffix_of(path) in suffixes and path.is_file()]
    known = list(dict.fromkeys(map(_pattern, known)))
    found = {part: _named(data, known, names) for part, names in NAMES.items()}
    if not found["train"] and (data / "data").is_dir():  # as sets on the hub have it
        return parts(data / "data", suffixes)
    if not found["train"]:
        there = found_in(data)
        raise TaskError(f"{data} has no file train with a suffix of {formats}; found was {there}.")
    files = Files(found["train"], found["dev"], found["test"])
    used = {shard for file in files if file is not None for shard in shards(file)}
    _tell_unused(data, tuple(path.name for path in paths if path.is_file() and path not in used))
    return files


def _named(folder: Path, files: list[Path], names: tuple[str, ...]) -> Path | None:
    """The one file that goes by some names."""
    found = [path for path in files if _part(path).lower() in names]
    if len(found) > 1:
        several = " and ".join(path.name for path in found)
        raise TaskError(f"{folder}: {several} are the same part of the data; keep one of them.")
    return found[0] if found else None


@cache
def _tell_unused(folder: Path, names: tuple[str, ...]) -> None:
    """Name the files that are no part of the data, once, but for those that are about it."""
    names = tuple(name for name in names if not _ABOUT.match(name))
    if names:
        more = f" and {len(names) - 5} more" if len(names) > 5 else ""
        logger.warning("%s: not used: %s%s", folder, ", ".join(names[:5]), more)


def check_format(path: Path, suffixes: tuple[str, ...]) -> None:
    """Raise TaskError unless a file's suffix is one of those; says what to do with it."""
    suffix = suffix_of(path)
    if suffix in suffixes:
        return
    if suffix in _SHEETS:
        raise TaskError(
            f"{path} is a spreadsheet, which is not read; save the sheet as CSV UTF-8, and give "
            "that."
        )
    if suffix in _ARCHIVES:
        raise TaskError(f"{path} is packed; unpack it (gzip's .gz is read as it is).")
    if suffix in (".arrow", ".feather"):
        raise TaskError(
            f"{path} is an Arrow file; give the folder that save_to_disk wrote, or write it as "
            "Parquet."
        )
    raise TaskError(
        f"{path}: suffix {path.suffix!r} names no format known; give one of {', '.join(suffixes)}."
    )


_SHARD = re.compile(r"(.+)-\d{5}-of-(\d{5})(?=\.)")


def _pattern(path: Path) -> Path:
    """A file, or of a part of a table the pattern of all its files."""
    return path.with_name(_SHARD.sub(r"\1-*-of-\2", path.name))


def stem_of(path: Path) -> str:
    """The name of a file without what ``suffix_of`` says and ``.gz``."""
    name = path.name[: -len(".gz")] if path.suffix.lower() == ".gz" else path.name
    return Path(name).stem


def _part(path: Path) -> str:
    """The name of a part of the data, as `train` is that of train-*-of-00002.parquet."""
    return re.sub(r"-\*-of-\d+$", "", stem_of(path))


def shards(path: Path) -> list[Path]:
    """The files of a table: itself, or those of the pattern that `parts` gave.

    Raises:
        TaskError: some are missing.
    """
    pattern = re.search(r"-\*-of-(\d{5})\.", path.name)
    if pattern is None:
        return [path]
    total = int(pattern[1])
    names = [path.name.replace("*", f"{number:05}", 1) for number in range(total)]
    files = [path.with_name(name) for name in names]
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise TaskError(
            f"{path.parent}: of the {total} files of {_part(path)}, {len(missing)} are missing, "
            f"such as {missing[0]}; get them too."
        )
    return files


def found_in(folder: Path) -> str:
    """What lies in a folder, for an error; folders with a stroke."""
    names = (path.name + "/" * path.is_dir() for path in folder.iterdir())
    return ", ".join(sorted(names)) or "nothing"


def labelled(
    source: object | None, read: Callable[[Any], Dataset], *, asked: bool
) -> Dataset | None:
    """The rows of a part for test, which is often given out without its labels.

    Args:
        read: what reads it, labels and all.
        asked: whether it was asked for by name; otherwise one that cannot be read so is passed
            over, and the log says why.

    Raises:
        TaskError: as of `read`, if it was asked for.
    """
    try:
        return None if source is None else read(source)
    except TaskError as error:
        if asked:
            raise
        reason = str(error).removeprefix(f"{source}: ")
        logger.warning("%s is not evaluated, for it cannot be read with labels: %s", source, reason)
        return None
