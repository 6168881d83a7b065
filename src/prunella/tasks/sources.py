"""Where a public set is read from: the hub, or a folder that holds its own files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from datasets import load_dataset

from prunella.tasks.base import TaskError
from prunella.tasks.parts import found_in

# The hub's own copy, in Parquet, of sets that were published as scripts, which are not run.
PARQUET = "refs/convert/parquet"


def from_hub(task: str, files: str, path: str, *configuration: str, **settings: Any) -> Any:
    """The parts of a set on the hub, by name.

    Args:
        task: The task's name, for the error.
        files: What to download instead, in words.
        path, configuration, settings: See `datasets.load_dataset`.

    Raises:
        TaskError: It cannot be read.
    """
    try:
        return load_dataset(path, *configuration, **settings)
    except OSError as error:  # covers "not found" and every way of being offline
        raise TaskError(
            f"{task}: cannot read {path} from the hub ({error}); download {files} and give their "
            "folder by --data DIR."
        ) from error


def first_of(folder: Path, names: Iterable[str]) -> Path | None:
    """The first of some files, or folders, that is there."""
    return next((folder / name for name in names if (folder / name).exists()), None)


def from_folder(
    task: str, files: str, folder: Path, layouts: Iterable[Sequence[str]]
) -> list[Path]:
    """The files, or folders, of the first layout that a folder holds whole.

    Args:
        task: The task's name, for the error.
        files: What the folder is to hold, in words.
        layouts: Each the names that make up the set, or a part of it.

    Raises:
        TaskError: There is no such folder, or it holds none of the layouts.
    """
    if not folder.is_dir():
        raise TaskError(
            f"{task}: there is no folder {folder}; give by --data DIR the one that holds {files}."
        )
    layouts = list(layouts)
    for names in layouts:
        paths = [folder / name for name in names]
        if all(path.exists() for path in paths):
            return paths
    needed = ", or ".join(map(" and ".join, layouts))
    raise TaskError(f"{task}: {folder} does not hold {needed}; found was {found_in(folder)}.")
