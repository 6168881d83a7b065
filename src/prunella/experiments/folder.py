"""The folder of a run: what is in progress beside it, and how it is put in place."""

from __future__ import annotations

import fcntl
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from prunella.errors import UsageError
from prunella.experiments.config import RunConfig

RESULT = "result.json"
SETTINGS = "settings.json"
YAML = "prunella.yaml"


def place(config: RunConfig) -> Path:
    """The folder for the result of a run that begins.

    Raises:
        UsageError: it holds something that may not be replaced.
    """
    if config.output is None:
        return next(path for path in _names(config) if not _is_taken(path))
    output = Path(config.output).expanduser().resolve()
    for name in filter(None, (config.model, config.data, config.teacher)):
        source = Path(name).expanduser().resolve()
        if source.exists() and source.is_relative_to(output):
            raise UsageError(
                f"the output folder {config.output} holds the input {name}, which the result "
                "would replace; name another with --output"
            )
    if output.exists() and not output.is_dir():
        raise UsageError(f"the output {config.output} is a file; name a folder")
    if partial(output).exists() and not config.overwrite:
        raise UsageError(
            f"{partial(output)} holds a run that was broken off; continue it with --resume, or "
            "discard it with --overwrite"
        )
    if (output / RESULT).exists():
        if not config.overwrite:
            raise UsageError(
                f"the output folder {config.output} already holds a result; name another with "
                "--output, or replace it with --overwrite"
            )
    elif output.exists() and any(output.iterdir()):
        raise UsageError(
            f"the output folder {config.output} holds files that are no result of a run; name "
            "another with --output"
        )
    return output


def find(config: RunConfig) -> Path:
    """The folder of a run that is to be continued: the one named, else the last that fits.

    Raises:
        UsageError: a run in progress there has other settings.
    """
    if config.output is not None:
        output = Path(config.output).expanduser().resolve()
        known = read_json(partial(output) / SETTINGS) or read_json(output / RESULT, "config")
        changed = [] if known is None else config.differences(known)
        if changed:
            raise UsageError(
                f"the run in {output} has other settings ({'; '.join(changed)}); resume with its "
                "own, or start anew with --overwrite instead of --resume"
            )
        return output
    fits = None
    for path in _names(config):
        if not _is_taken(path):
            return fits or path
        known = read_json(partial(path) / SETTINGS)
        if known is not None and not config.differences(known):
            fits = path
    raise AssertionError("there are names enough")


def _names(config: RunConfig) -> Iterator[Path]:
    """Folders for runs that name none."""
    goal = "max-drop" if config.max_drop is not None else f"{config.sparsity:g}"
    stem = f"{config.task}-{config.criterion}-{goal}-seed{config.seed}".replace("/", "-")
    return (Path("runs", stem + (f"-{n}" if n else "")) for n in range(10**6))


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
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / "lock").open("w")
    except OSError as error:
        raise UsageError(
            f"the output folder {output} cannot be made ({error.strerror}); name another with "
            "--output"
        ) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UsageError(
                f"another process is at work in {folder}; let it finish, or name another folder "
                "with --output"
            ) from error
        if not config.resume:
            for path in folder.iterdir():
                if path.is_dir():
                    shutil.rmtree(path)
                elif path.name != "lock":
                    path.unlink()
        try:
            write_json(folder / SETTINGS, config.settings())
            write(folder / YAML, replace(config, output=str(output)).to_yaml())
            yield folder
        except BaseException:
            if not any(folder.glob("*/checkpoint-*")) and not any(folder.glob("*/model")):
                shutil.rmtree(folder)
            raise
        shutil.rmtree(folder)


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
