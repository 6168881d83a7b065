"""What lies beside the weights in a checkpoint folder, and goes along where they go."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from prunella.runfiles import OF_RUN
from prunella.runtime.folder import WEIGHTS
from prunella.runtime.forms import CONFIG, FORMS, PICKLED, is_coded, plain, settings

MODULES = "modules.json"  # of sentence-transformers: the folders of a model's other parts
# Weights in whatever form; safetensors of other names, as of a module, are none of these.
_ANY = (*WEIGHTS, *PICKLED, *(pattern for form in FORMS[:-1] for pattern in form.files))
Copy = Callable[[str, str], Any]


def is_weights(path: Path) -> bool:
    """Whether a file is of a form of the model's weights that another one replaces."""
    return any(map(path.match, WEIGHTS))


def companions(folder: Path) -> list[Path]:
    """The files and folders beside a checkpoint's weights that belong to the model.

    Folders too, such as of further chat templates or of sentence-transformers' pooling; but what
    identifies a run stays, lest a report take the copy for the run done again. So do hidden files,
    which are of git and the like, links that lead nowhere or upwards, and folders that hold weights
    of their own (checkpoints of a training, levels of a ladder, other forms), unless
    ``modules.json`` names them as parts of the model.
    """
    parts = _modules(folder)
    return [
        path
        for path in sorted(folder.iterdir())
        if not path.name.startswith(".")
        and (
            path.name not in OF_RUN and not any(map(path.match, _ANY))
            if path.is_file()
            else path.is_dir() and not _leads_up(path) and _is_part(path, parts)
        )
    ]


def copy_along(
    paths: Iterable[Path], target: Path, copy: Copy = shutil.copy2, decoded: bool = True
) -> None:
    """Copy files and folders into another folder, and what links lead to instead of links.

    Args:
        copy: copies one file.
        decoded: whether the weights there are no longer coded as the config may say.
    """
    for path in paths:
        if path.is_dir():
            shutil.copytree(path, target / path.name, copy_function=copy, ignore=_odd)
        elif decoded and path.name == CONFIG and is_coded(settings(path.parent)):
            text = json.dumps(plain(settings(path.parent)), indent=2, ensure_ascii=False)
            (target / path.name).write_text(text + "\n", encoding="utf-8")
        else:
            copy(str(path), str(target / path.name))


def link_or_copy(source: str, target: str) -> None:
    """Give a file a second name, or a copy where that cannot be."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy(source, target)


def _modules(folder: Path) -> set[str]:
    """The folders that ``modules.json`` names."""
    try:
        listed = json.loads((folder / MODULES).read_text(encoding="utf-8"))
        return {Path(entry["path"]).parts[0] for entry in listed if entry["path"]}
    except (OSError, ValueError, LookupError, TypeError):
        return set()


def _is_part(folder: Path, parts: set[str]) -> bool:
    return folder.name in parts or not any(next(folder.rglob(each), None) for each in _ANY)


def _leads_up(path: Path) -> bool:
    return path.is_symlink() and path.parent.resolve().is_relative_to(path.resolve())


def _odd(folder: str, names: list[str]) -> list[str]:
    """What in a folder does not come along."""
    paths = [Path(folder, name) for name in names]
    return [p.name for p in paths if p.name.startswith(".") or not p.exists() or _leads_up(p)]
