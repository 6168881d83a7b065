"""The folder of a run: what is in progress beside it, and how it is put in place."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TextIO

from prunella.errors import UsageError
from prunella.experiments.config import RunConfig
from prunella.experiments.locks import lock
from prunella.runfiles import RESULT, YAML

SETTINGS = "settings.json"
LOCK = "lock"
BEGINNING = {LOCK, f"{SETTINGS}.unfinished"}  # all that a run killed at once leaves


def place(config: RunConfig) -> Path:
    """The folder for the result of a run that begins.

    Raises:
        UsageError: it holds something that may not be replaced.
    """
    if config.output is None:
        return next(path for path in _names(config) if not _is_taken(path))
    output = _checked(config)
    if partial(output).exists() and not config.overwrite:
        raise UsageError(
            f"{partial(output)} holds a run that was broken off; continue it with --resume, or "
            "discard it with --overwrite"
        )
    if (output / RESULT).exists() and not config.overwrite:
        raise UsageError(
            f"the output folder {config.output} already holds a result; name another with "
            "--output, or replace it with --overwrite"
        )
    return output


def find(config: RunConfig) -> Path:
    """The folder of a run to be continued: the one named, else the last that fits, else a new one.

    Raises:
        UsageError: it holds a run with other settings, or something that is no run.
    """
    if config.output is not None:
        output = _checked(config)
        changed = config.differences(known) if (known := _known(output)) is not None else []
        if changed:
            raise UsageError(
                f"the run in {output} has other settings ({'; '.join(changed)}); resume with its "
                "own, or start anew with --overwrite instead of --resume"
            )
        return output
    first = next(path for path in _names(config) if not _is_taken(path))
    fits: list[Path] = []
    for path in sorted(first.parent.glob(f"{_stem(config)}*")):
        output = path.with_name(path.name.removesuffix(".partial"))
        known = _known(output)
        if known is not None and not config.differences(known):
            fits.append(output)
    # One that is in progress before one that is done.
    return max(fits, key=lambda path: (partial(path).exists(), path.name), default=first)


def _known(output: Path) -> dict[str, Any] | None:
    """The settings of the run in a folder, in progress or done; None where there is none."""
    known = read_json(partial(output) / SETTINGS)
    return known if known is not None else read_json(output / RESULT, "config")


def _checked(config: RunConfig) -> Path:
    """The output folder.

    Raises:
        UsageError: what is there is no run, and would be lost.
    """
    assert config.output is not None
    output = Path(config.output).expanduser().resolve()
    for name in filter(
        None, (config.model, config.data, config.test_data, config.teacher, config.masks_from)
    ):
        source = Path(name).expanduser().resolve()
        if source.exists() and source.is_relative_to(output):
            raise UsageError(
                f"the output folder {config.output} holds the input {name}, which the result "
                "would replace; name another with --output"
            )
    if output.exists() and not output.is_dir():
        raise UsageError(f"the output {config.output} is a file; name a folder")
    for folder, mark in ((output, RESULT), (partial(output), SETTINGS)):
        names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
        if mark not in names and names - BEGINNING:
            raise UsageError(
                f"the output folder {folder} holds files that are no result of a run; name "
                "another with --output"
            )
    return output


def _stem(config: RunConfig) -> str:
    goal = "max-drop" if config.max_drop is not None else f"{config.sparsity:g}"
    return f"{config.task}-{config.criterion}-{goal}-seed{config.seed}".replace("/", "-")


def _names(config: RunConfig) -> Iterator[Path]:
    """Folders for runs that name none."""
    return (Path("runs", _stem(config) + (f"-{n}" if n else "")) for n in range(10**6))


def _is_taken(output: Path) -> bool:
    return output.exists() or partial(output).exists()


def partial(output: Path) -> Path:
    """Where a run is in progress."""
    return output.with_name(f"{output.name}.partial")


@contextmanager
def working(config: RunConfig, output: Path) -> Iterator[Path]:
    """The folder to work in, for this process alone: a new one, or of a run to be continued.

    Where the work breaks off, it stays if anything in it is worth keeping.

    Raises:
        UsageError: it cannot be made, or another process works in it.
    """
    folder = partial(output)
    with _claimed(output) as held:
        if not config.resume and any(path.name != LOCK for path in folder.iterdir()):
            _discard(folder, held)
    with _claimed(output) as held:
        try:
            write_json(folder / SETTINGS, config.settings())
            write(folder / YAML, replace(config, output=str(output)).to_yaml())
            yield folder
        except BaseException:
            if not any(folder.glob("*/checkpoint-*")) and not any(folder.glob("*/model")):
                _discard(folder, held)
            raise
        _discard(folder, held)


@contextmanager
def _claimed(output: Path) -> Iterator[TextIO]:
    """The folder in progress is there, and no other process works in it; gives its lock."""
    folder = partial(output)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / LOCK).open("w")
    except OSError as error:
        raise UsageError(
            f"the output folder {output} cannot be made ({error.strerror}); name another with "
            "--output"
        ) from error
    with file:
        try:
            lock(file)
        except BlockingIOError as error:
            raise UsageError(
                f"another process is at work in {folder}; let it finish, or name another folder "
                "with --output"
            ) from error
        except OSError as error:
            raise UsageError(
                f"{folder} cannot be locked ({error.strerror}), so two runs could spoil each "
                "other; name a folder on another file system with --output"
            ) from error
        yield file


def _discard(folder: Path, held: TextIO) -> None:
    """Remove a folder so that, whenever the process is killed, it is there whole or not at all."""
    if sys.platform == "win32":  # which renames no folder with an open file in it
        held.close()
    gone = folder.with_name(f"{folder.name}.removed")
    shutil.rmtree(gone, ignore_errors=True)
    folder.rename(gone)
    shutil.rmtree(gone)


def write(path: Path, text: str) -> None:
    """Write a file that is whole or not there."""
    aside = path.with_name(f"{path.name}.unfinished")
    aside.write_text(text, encoding="utf-8")
    aside.replace(path)


def write_json(path: Path, value: Any) -> None:
    """Likewise, as JSON."""
    write(path, json.dumps(value, indent=2) + "\n")


def read_json(path: Path, key: str | None = None) -> Any:
    """What ``write_json`` wrote, or a part of it; None where there is nothing.

    Raises:
        UsageError: it is damaged.
    """
    if not path.is_file():
        return None
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        return value if key is None else value[key]
    except (ValueError, LookupError, TypeError) as error:
        raise UsageError(f"{path} is damaged ({error!r}); remove it, or start anew") from error
