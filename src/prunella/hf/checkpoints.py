"""Checkpoints that are either whole or not there."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

from prunella.errors import UsageError
from prunella.runtime.files import sync

MANIFEST = "manifest.json"  # sizes and hashes of a checkpoint's other files
FORMAT = 1


def put(new: Path, folder: Path) -> None:
    """Give a finished folder its final name, in place of an older one, once it is all on disk.

    A process that is killed leaves either the old state or the new one; only where an older folder
    is replaced there is a moment without either, when ``new`` is still there under its own name.
    """
    sync(*new.rglob("*"), new)
    old = folder.with_name(f"{folder.name}.replaced")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    new.rename(folder)
    sync(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def seal(checkpoint: Path) -> None:
    """Write down what a checkpoint consists of, so that damage to it can be seen."""
    files = {
        str(path.relative_to(checkpoint)): {"bytes": path.stat().st_size, "sha256": _hash(path)}
        for path in sorted(checkpoint.rglob("*"))
        if path.is_file()
    }
    manifest = {"format": FORMAT, "files": files}
    (checkpoint / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")


def latest(folder: Path) -> Path | None:
    """The whole checkpoint of the most steps in a folder; None where there is none."""
    steps = {
        int(path.name.removeprefix("checkpoint-")): path
        for path in folder.glob("checkpoint-*")
        if path.name.removeprefix("checkpoint-").isdecimal() and (path / MANIFEST).is_file()
    }
    return steps[max(steps)] if steps else None


def check(checkpoint: Path) -> None:
    """Raise UsageError where a checkpoint is not what was once written, naming the file."""
    remedy = f"remove {checkpoint} to resume from the checkpoint before it"
    try:
        manifest = json.loads((checkpoint / MANIFEST).read_text(encoding="utf-8"))
        version, files = manifest["format"], dict(manifest["files"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"the checkpoint {checkpoint} has no readable {MANIFEST} ({error}); {remedy}"
        ) from error
    if version != FORMAT:
        raise UsageError(
            f"the checkpoint {checkpoint} is of format {version}, this version of Prunella reads "
            f"{FORMAT}; resume with the version that wrote it"
        )
    for name, known in files.items():
        path = checkpoint / name
        if not path.is_file():
            raise UsageError(f"the checkpoint {checkpoint} has lost its file {name}; {remedy}")
        if path.stat().st_size != known["bytes"] or _hash(path) != known["sha256"]:
            raise UsageError(
                f"the checkpoint's file {path} was changed since it was written (its size or "
                f"SHA-256 differs from that in {MANIFEST}); {remedy}"
            )


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
