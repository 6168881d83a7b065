"""Text of files, in whatever encoding, so that an error names file and line."""

from __future__ import annotations

import codecs
import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

from prunella.tasks.base import TaskError
from prunella.tasks.form import HEAD, MARKS, PLAIN, Form, looks

# By their first bytes, what no text begins with.
_PACKED = {
    b"PK\x03\x04": "a ZIP archive or an Excel workbook (.xlsx)",
    b"\xd0\xcf\x11\xe0": "an old Excel workbook (.xls)",
    b"PAR1": "Parquet",
    b"ARROW1": "an Arrow file",
    b"BZh": "packed by bzip2",
    b"\xfd7zXZ": "packed by xz",
    b"\x28\xb5\x2f\xfd": "packed by zstd",
    b"%PDF": "a PDF",
}


def suffix_of(path: Path) -> str:
    """The suffix that names a file's format, in small letters: that before ``.gz``."""
    suffixes = [suffix.lower() for suffix in path.suffixes[-2:]]
    if suffixes[-1:] == [".gz"]:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


def decode(path: Path, form: Form = PLAIN) -> str:
    """The text of a file, without the mark of byte order that some editors put first.

    Raises:
        TaskError: it is not there or not in UTF-8, or what `form` says; names the line.
    """
    return "".join(texts(path, form))


def texts(path: Path, form: Form = PLAIN) -> Iterator[str]:
    """The text of a file, line by line, with the line ends."""
    with opened(path) as file:
        head = file.read(8)
        file.seek(0)
        for start, what in _PACKED.items():
            if head.startswith(start):
                raise TaskError(
                    f"{path} is {what}, whatever its name says; save it as CSV or JSON lines, and "
                    "give that."
                )
        marked = next((name for mark, name in MARKS if head.startswith(mark)), None)
        decoder = codecs.getincrementaldecoder(marked or form.encoding or "utf-8")()
        number, held = 1, ""
        for raw in _ended(file):
            try:
                held += decoder.decode(raw, final=not raw)
            except UnicodeDecodeError as error:
                raise TaskError(
                    f"{path}:{number}: byte {error.object[error.start]:#04x} is not "
                    f"{marked or form.encoding or 'UTF-8'}{looks_of(path, form)}; convert the file "
                    "to UTF-8, or say what it is in by --encoding."
                ) from error
            # Not one piece a line in every encoding: in UTF-16 what follows the byte of a line end
            # is its second half.
            *ended, held = held.split("\n")
            for line in ended:
                yield f"{line}\n"
                number += 1
        if held:
            yield held


def _ended(file: IO[bytes]) -> Iterator[bytes]:
    yield from file
    yield b""


def looks_of(path: Path, form: Form, separator: str | None = None) -> str:
    """What a file looks like that cannot be read; see `form.looks`."""
    if separator is None:
        separator = form.separator or {".csv": ",", ".tsv": "\t"}.get(suffix_of(path))
    with opened(path) as file:
        return looks(file.read(HEAD), form, separator)


@contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """A file's bytes, unpacked if gzip packed them, whatever its name says."""
    try:
        with path.open("rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
            file.seek(0)
            yield cast(IO[bytes], gzip.GzipFile(fileobj=file)) if packed else file
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise TaskError(f"{path}: {reason}; give a file that can be read.") from error


def lines(path: Path, form: Form = PLAIN) -> Iterator[tuple[int, str]]:
    """The lines of a text file with their numbers, without their ends, as they are needed.

    Not by `str.splitlines`: a text may hold characters that Unicode counts as line ends.
    """
    for number, line in enumerate(texts(path, form), start=1):
        yield number, line.removesuffix("\n").removesuffix("\r")
