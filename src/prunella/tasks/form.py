"""How files are written where neither name nor content says it, and what they look like if wrong.

Nothing of this is guessed: a file that cannot be read as it was said to be is an error, which tells
what the file looks like, and the flags that say so.
"""

from __future__ import annotations

import codecs
import csv
import io
import re
from dataclasses import dataclass
from typing import Literal

from prunella.tasks.base import TaskError

SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "strokes"}
_NAMES = {"tab": "\t", "\\t": "\t"}
# What a file says itself in its first bytes; the longer ones first.
MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_COMMA = re.compile(r"[+-]?\d+,\d+")
_POINT = re.compile(r"[+-]?\d+\.\d+")
_UNDEFINED = re.compile(rb"[\x81\x8d\x8f\x90\x9d]")  # in cp1252
HEAD = 1 << 20  # bytes that are looked at
ROWS = 50


@dataclass(frozen=True)
class Form:
    """How a user's files are to be read.

    Attributes:
        separator: between the fields of a CSV or TSV file; None = as its suffix says, or its own
            first line ``sep=;``.
        encoding: of a text; None = UTF-8. A byte order mark says it better than this.
        decimal: what stands between the whole and the fraction of a number.
        skip: whether rows that cannot be used are left out, and counted; else they are an error.

    Raises:
        TaskError: there is no such encoding, or the separator is not one character.
    """

    separator: str | None = None
    encoding: str | None = None
    decimal: Literal[".", ","] = "."
    skip: bool = False

    def __post_init__(self) -> None:
        if self.separator is not None:
            known = _NAMES.get(self.separator.lower(), self.separator)
            if len(known) != 1 or known in '"\r\n':
                raise TaskError(
                    f"--separator {self.separator!r} must be one character, or tab; give that "
                    "between the fields"
                )
            object.__setattr__(self, "separator", known)
        try:
            "a".encode(self.encoding or "utf-8")
        except LookupError as error:
            raise TaskError(
                f"--encoding {self.encoding} is none that Python knows; utf-8, utf-16, cp1252 and "
                "latin-1 are the usual ones"
            ) from error

    def number(self, cell: str) -> float:
        """The number in a cell.

        Raises:
            ValueError: it is none.
        """
        if self.decimal == ",":
            if "." in cell:
                raise ValueError("a point where commas are said to be")
            cell = cell.replace(",", ".", 1)
        return float(cell)

    def whole(self, cell: str) -> str:
        """A cell, without the zeros behind the point of a whole number: 1.0 is 1."""
        return re.sub(rf"^([+-]?\d+){re.escape(self.decimal)}0+$", r"\1", cell)


PLAIN = Form()


def comma(cell: str, form: Form) -> str:
    """What to say of a cell that is no number but would be one with a decimal comma."""
    if form.decimal == "." and _COMMA.fullmatch(cell.strip()):
        return "; if that is a decimal comma, say --decimal ,"
    if form.decimal == "," and _POINT.fullmatch(cell.strip()):
        return "; if that is a decimal point, leave out --decimal"
    return ""


def looks(head: bytes, form: Form, separator: str | None) -> str:
    """What the first bytes of a file look like that cannot be read, and the flags that say so.

    Args:
        separator: by which its fields were told apart; None where it has none.

    Returns:
        A clause for an error; nothing where it looks as it was said to.
    """
    seen: list[tuple[str, str]] = []
    encoding = next((name for mark, name in MARKS if head.startswith(mark)), "")
    if not encoding:
        encoding = form.encoding or "utf-8"
        likely = _encoding(head, encoding)
        if likely != encoding:
            encoding = likely
            seen.append((f"text in {encoding}", f"--encoding {encoding}"))
    if separator is not None:
        seen += _fields(head.decode(encoding, "replace"), form, separator)
    if not seen:
        return ""
    *others, last = [what for what, _ in seen]
    what = f"{', '.join(others)} and {last}" if others else last
    flags = " ".join(flag for _, flag in seen)
    return f"; it looks like {what}: if that is so, say {flags}"


def _encoding(head: bytes, said: str) -> str:
    zeros = [head[start:1000:2].count(0) for start in (0, 1)]
    if 10 * max(zeros) > min(len(head), 1000):
        return "utf-16-le" if zeros[1] > zeros[0] else "utf-16-be"
    for encoding in (said, "utf-8"):
        try:
            codecs.getincrementaldecoder(encoding)().decode(head)
            return encoding
        except UnicodeDecodeError:
            continue
    return "latin-1" if _UNDEFINED.search(head) else "cp1252"


def _fields(text: str, form: Form, separator: str) -> list[tuple[str, str]]:
    lines = [line for line in text.splitlines()[: ROWS + 1] if line.strip()]
    if not lines:
        return []
    seen = []
    counts = {mark: len(_split(lines[:1], mark)[0]) for mark in SEPARATORS}
    likely = max(counts, key=lambda mark: counts[mark])
    if len(_split(lines[:1], separator)[0]) == 1 and counts[likely] > 1:
        separator = likely
        name = "tab" if separator == "\t" else f"'{separator}'"
        seen.append((f"fields between {SEPARATORS[separator]}", f"--separator {name}"))
    cells = [cell.strip() for row in _split(lines[1:], separator) for cell in row]
    commas, points = (sum(map(bool, map(p.fullmatch, cells))) for p in (_COMMA, _POINT))
    if form.decimal == "." and commas and not points:
        seen.append(("numbers with decimal commas", "--decimal ,"))
    return seen


def _split(lines: list[str], separator: str) -> list[list[str]]:
    try:
        return list(csv.reader(io.StringIO("\n".join(lines)), delimiter=separator)) or [[]]
    except csv.Error:
        return [line.split(separator) for line in lines]
