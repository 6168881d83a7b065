"""What Linux has and Windows has not is asked for nowhere at import, and replaced or refused."""

import ast
import importlib
import os
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from transformers import AutoModelForSequenceClassification

import prunella
from prunella import UsageError
from prunella.cli import main
from prunella.experiments import locks, scheduler
from prunella.experiments.config import RunConfig
from prunella.experiments.folder import partial, working

SOURCES = sorted(Path(prunella.__file__).parent.rglob("*.py"))
POSIX = {"fcntl", "resource", "termios", "pwd", "grp", "tty", "pty", "posix", "syslog"}


def imported(node):
    """Modules that are imported when a file is, guarded ones left out."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            yield (child.module or "").partition(".")[0]
        elif not isinstance(child, (ast.FunctionDef, ast.If, ast.Try)):
            yield from imported(child)


def test_nothing_of_posix_alone_is_imported():
    for path in SOURCES:
        assert not POSIX & {*imported(ast.parse(path.read_text(encoding="utf-8")))}, path


@pytest.fixture
def windows(monkeypatch):
    """As much of Windows as our code looks at; its locks are kept in a set."""
    taken = set()

    def locking(descriptor, mode, count):
        assert (mode, count) == ("LK_NBLCK", 1) and os.lseek(descriptor, 0, os.SEEK_CUR) > 2**20
        known = os.fstat(descriptor)
        if (known.st_dev, known.st_ino) in taken:
            raise PermissionError(13, "Permission denied")
        taken.add((known.st_dev, known.st_ino))

    monkeypatch.setitem(
        sys.modules, "msvcrt", SimpleNamespace(locking=locking, LK_NBLCK="LK_NBLCK")
    )
    monkeypatch.setitem(sys.modules, "fcntl", None)
    monkeypatch.setattr(sys, "platform", "win32")
    yield importlib.reload(locks)
    monkeypatch.undo()
    importlib.reload(locks)


def test_locks_of_windows_hold_and_let_the_file_be_read(windows, tmp_path):
    with (tmp_path / "lock").open("w") as first, (tmp_path / "lock").open("a+") as second:
        windows.lock(first)
        first.write("the owner")
        first.flush()
        with pytest.raises(BlockingIOError):
            windows.lock(second)
        assert second.read() == "the owner"


def test_locks_hold_between_files(tmp_path):
    with (tmp_path / "lock").open("w") as first:
        locks.lock(first)
        with (tmp_path / "lock").open("a+") as second, pytest.raises(BlockingIOError):
            locks.lock(second)
    with (tmp_path / "lock").open("a+") as third:
        locks.lock(third)


def test_sweeps_are_refused_on_windows(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(UsageError, match=r"Windows lacks; use WSL.*prunella prune --config"):
        scheduler.sweep(SimpleNamespace(output=tmp_path / "sweep"), None, "")
    assert not (tmp_path / "sweep").exists()


def test_no_folder_is_renamed_with_its_lock_open(tmp_path, monkeypatch):
    """As Windows refuses to."""
    monkeypatch.setattr(sys, "platform", "win32")
    rename, moved = Path.rename, []

    def watch(path, target):
        opened = [os.path.realpath(each) for each in Path("/proc/self/fd").iterdir()]
        assert not any(file.startswith(f"{path}/") for file in opened)
        moved.append(path)
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", watch)
    output = tmp_path / "out"
    with working(RunConfig(output=str(output)), output) as folder:
        (folder / "file").touch()
    assert moved == [partial(output)] and not partial(output).exists()


def test_models_are_saved_where_folders_cannot_be_synced(bert, tmp_path, monkeypatch):
    def refuse(path, *_):
        raise PermissionError(13, "Permission denied", str(path))

    model = AutoModelForSequenceClassification.from_pretrained(bert)
    shutil.copytree(bert, tmp_path / "bert")
    monkeypatch.setattr("prunella.runtime.files.os", SimpleNamespace(**vars(os) | {"name": "nt"}))
    monkeypatch.setattr("prunella.runtime.files.os.open", refuse)
    prunella.save(model, tmp_path / "saved")
    assert main(["export", str(tmp_path / "bert"), str(tmp_path / "out")]) == 0
