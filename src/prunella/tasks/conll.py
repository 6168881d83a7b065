"""Files with a word a line and its tag in a column, as CoNLL's shared tasks have them.

A blank line ends a sentence, and so does one that starts with `-DOCSTART-`. Columns are separated
by tabs if the first line with a word has one, else by blanks; every line has the same number.
Comments before a sentence are left out.

Tags say which words make an entity, in one of three schemes::

             Alex   to  Los    Angeles  California
    iob1     I-PER  O   I-LOC  I-LOC    B-LOC        B- only where two of a type meet
    iob2     B-PER  O   B-LOC  I-LOC    B-LOC        B- on every first word
    bioes    S-PER  O   B-LOC  E-LOC    S-LOC        E- on the last word, S- on a single one

Sources: Ramshaw and Marcus 1995 (iob1), Tjong Kim Sang and Veenstra 1999 (iob2), Ratinov and Roth
2009 (bioes, there as BILOU: L for E and U for S).
"""

from __future__ import annotations

import itertools
import logging
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from prunella.tasks.base import TaskError
from prunella.tasks.form import PLAIN, Form
from prunella.tasks.reading import lines
from prunella.tasks.rejects import Rejects

Scheme = Literal["iob1", "iob2", "bioes"]

_TAG = re.compile(r"O|[BIESLU]-\S+")
_NUMBER = re.compile(r"\d+([-.]\d+)?")
MAX_TYPES = 200
OTHER_COLUMN = "name another column by --label-column (the task ner/columns, 0 is the first)"

logger = logging.getLogger("prunella")


class Sentence(NamedTuple):
    """Words and their tags, and where they are: a line, or the place of a row in words, and the
    lines of the words."""

    line: int | str
    words: list[str]
    tags: list[str]
    lines: list[int]  # none where the sentence is a row

    def place(self, path: Path | str, word: int | None = None) -> str:
        """Where it, or a word of it, is, for an error."""
        if self.lines:
            return f"{path}:{self.lines[word or 0]}"
        return str(self.line) if word is None else f"{self.line}, word {word + 1}"


class Misfit(ValueError):
    """The tag at a place of a sentence breaks a rule of its scheme; says the rule."""

    def __init__(self, place: int, rule: str) -> None:
        super().__init__(rule)
        self.place = place


def sentences(path: Path, *, word: int, tag: int | None, form: Form = PLAIN) -> list[Sentence]:
    """Read the sentences of a file, with the tags as they are there.

    Left out and counted are comments, which begin with ``#`` at the start of a sentence and are no
    word with its tag; and in files that number their words, as CoNLL-U does, the lines of words in
    several parts (1-2) and of none (1.1).

    Args:
        path: The file.
        word: The number of the words' column; negative ones count from the last, -1.
        tag: That of the tags'; None reads none.
        form: How the file is written.

    Raises:
        TaskError: There is no such file or column, the number of columns varies, a word is empty,
            there is no sentence, or what is there cannot be words and their tags.
    """
    layout = _Layout.of(path, word, tag, form)
    rejects = Rejects(str(path), skip=form.skip, at_once=False)
    found: list[Sentence] = []
    bad: set[int] = set()  # numbers of sentences
    left_out: list[int] = []  # lines
    inside = False
    for number, line in lines(path, form):
        if _ends(line):
            inside = False
            continue
        cells = layout.cells(line)
        if layout.is_aside(cells, line, inside):
            left_out.append(number)
            continue
        if not inside:
            found.append(Sentence(number, [], [], []))
        inside = True
        if len(found) - 1 in bad:
            continue
        try:
            layout.check(cells)
        except ValueError as error:
            rejects.add(f"{path}:{number}", *error.args)
            bad.add(len(found) - 1)
            continue
        found[-1].words.append(cells[word])
        if tag is not None:
            found[-1].tags.append(cells[tag])
        found[-1].lines.append(number)
    if left_out:
        logger.warning(
            "%s: left out %d lines that are comments or no words, the first at line %d",
            path,
            len(left_out),
            left_out[0],
        )
    good = [sentence for number, sentence in enumerate(found) if number not in bad]
    rejects.settle(len(good))
    _check_whole(path, good, word)
    return good


def _ends(line: str) -> bool:
    """Whether a line ends a sentence."""
    return not line.strip() or line.startswith("-DOCSTART-")


class _Layout(NamedTuple):
    """The columns of a file, as the first line that is no comment has them."""

    tabs: bool
    width: int
    word: int
    tag: int | None
    numbered: bool  # whether the first column counts the words

    @classmethod
    def of(cls, path: Path, word: int, tag: int | None, form: Form) -> _Layout:
        written = ((n, line) for n, line in lines(path, form) if not _ends(line))
        first = next(written, None)
        if first is None:
            raise TaskError(f"{path}: no sentences; the file must hold at least one.")
        # A first line that begins with # is a comment if a later one shows another width.
        other = next(
            (pair for pair in itertools.chain([first], written) if pair[1][0] != "#"), None
        )
        number, line = other or first
        tabs = "\t" in line
        cells = _cells(line, tabs)
        _check_places(f"{path}:{number}", len(cells), word, tag)
        numbered = word % len(cells) != 0 and bool(_NUMBER.fullmatch(cells[0]))
        return cls(tabs, len(cells), word, tag, numbered)

    def cells(self, line: str) -> list[str]:
        return _cells(line, self.tabs)

    def is_aside(self, cells: list[str], line: str, inside: bool) -> bool:
        """Whether a line is a comment, or has the number of no single word."""
        if self.numbered and re.fullmatch(r"\d+[-.]\d+", cells[0]):
            return True
        if inside or not line.startswith("#"):
            return False
        if len(cells) != self.width:
            return True
        return self.tag is not None and not _TAG.fullmatch(cells[self.tag])

    def check(self, cells: list[str]) -> None:
        """Raise ValueError, with reason and remedy, where a line is malformed."""
        if len(cells) != self.width:
            raise ValueError(
                f"{len(cells)} columns where the first line has {self.width}",
                f"all need the same, separated by {'tabs' if self.tabs else 'blanks'}",
            )
        if not cells[self.word]:
            raise ValueError("the word is empty", "fill it in or remove the line")


def _cells(line: str, tabs: bool) -> list[str]:
    """Not by `str.split()`: a word may hold what Unicode counts as blanks."""
    if tabs:
        return [cell.strip(" ") for cell in line.rstrip(" \t").split("\t")]
    return [cell for cell in line.split(" ") if cell]


def _check_places(at: str, width: int, word: int, tag: int | None) -> None:
    for flag, place in (("--text-column", word), ("--label-column", tag)):
        if place is not None and not -width <= place < width:
            raise TaskError(
                f"{at}: {width} column(s), and none has the number {place}; give one from 0 to "
                f"{width - 1} by {flag}, or one from -1 down to {-width} to count from the last."
            )
    if tag is not None and word % width == tag % width:
        raise TaskError(
            f"{at}: column {word} would be both word and tag; give each its own by --text-column "
            "and --label-column."
        )


def _check_whole(path: Path, found: list[Sentence], word: int) -> None:
    if not found:
        raise TaskError(f"{path}: no sentences; the file must hold at least one.")
    if len(found) > 1 and all(len(sentence.words) == 1 for sentence in found):
        raise TaskError(
            f"{path}: each of the {len(found)} sentences is a single word; put a blank line "
            "between sentences only."
        )
    if len(found) > 1 and all(
        sentence.words == [str(number) for number in range(1, len(sentence.words) + 1)]
        for sentence in found
    ):
        raise TaskError(
            f"{path}: column {word} counts the words; name that of the words themselves by "
            f"--text-column, such as {word + 1}."
        )
    if (types := len({tag[2:] for sentence in found for tag in sentence.tags})) > MAX_TYPES:
        raise TaskError(
            f"{path}: the column of the tags holds {types} different types of entity, and "
            f"{MAX_TYPES} are allowed; {OTHER_COLUMN}."
        )


def scheme_of(found: Iterable[Sentence]) -> Scheme:
    """The scheme to read tags by: `bioes` if one begins with E-, S-, L- or U-, else `iob1`.

    `iob1` reads files in `iob2` just as well. Where an entity has none of its type before it, IOB1
    begins it with I- and IOB2 with B-, and both are read so; where it has, both have B-.
    """
    marks = ("E-", "S-", "L-", "U-")
    ends = any(tag.startswith(marks) for sentence in found for tag in sentence.tags)
    return "bioes" if ends else "iob1"


def in_iob2(
    path: Path | str, found: list[Sentence], scheme: Scheme, *, skip: bool = False
) -> list[Sentence]:
    """The sentences of a file with their tags in IOB2.

    Args:
        skip: Whether sentences with a tag that breaks the rules are left out.

    Raises:
        TaskError: A tag breaks the rules of the scheme; names its line.
    """
    rejects = Rejects(str(path), skip=skip, at_once=False)
    read = []
    for sentence in found:
        try:
            read.append(sentence._replace(tags=iob2(sentence.tags, scheme)))
        except Misfit as error:
            rejects.add(
                sentence.place(path, error.place),
                str(error),
                f"correct it, or {OTHER_COLUMN}, or another --scheme than {scheme}",
            )
    rejects.settle(len(read))
    return read


def iob2(tags: Sequence[str], scheme: Scheme) -> list[str]:
    """Write the tags of a sentence in IOB2.

    `iob1` is read as CoNLL's scorer conlleval does, since the files of CoNLL-2003 break its rule
    twice: B- always begins an entity, and I- does unless the tag before is of the same type. The
    other two are read to the letter; in `bioes` L- is E-, and U- is S-.

    Raises:
        Misfit: A tag breaks the rules of the scheme.

    >>> iob2(["I-PER", "O", "I-LOC", "I-LOC", "B-LOC"], "iob1")
    ['B-PER', 'O', 'B-LOC', 'I-LOC', 'B-LOC']
    """
    return _from_bioes(tags) if scheme == "bioes" else _from_iob(tags, scheme == "iob2")


def _from_iob(tags: Sequence[str], strict: bool) -> list[str]:
    written, before = [], ""
    for place, tag in enumerate(tags):
        prefix, kind = _parts(place, tag, "BI")
        follows = prefix == "I" and kind == before
        if strict and prefix == "I" and not follows:
            raise Misfit(place, f"tag {tag!r} begins an entity, which in IOB2 B-{kind} does")
        written.append(_tag(kind, follows))
        before = kind
    return written


def _from_bioes(tags: Sequence[str]) -> list[str]:
    written, unfinished = [], ""
    for place, tag in enumerate(tags):
        prefix, kind = _parts(place, tag, "BIESLU")
        continued = kind if prefix in "IEL" else ""
        if unfinished and continued != unfinished:
            raise Misfit(place, f"tag {tag!r} where I-{unfinished} or E-{unfinished} is needed")
        if continued and not unfinished:
            raise Misfit(place, f"tag {tag!r} continues no entity; B-{kind} must come before it")
        unfinished = kind if prefix in "BI" else ""
        written.append(_tag(kind, bool(continued)))
    if unfinished:
        raise Misfit(len(tags) - 1, f"the sentence ends before E-{unfinished}")
    return written


def _parts(place: int, tag: str, letters: str) -> tuple[str, str]:
    """The letter of a tag and the type of its entity, which O has not."""
    letter, _, kind = tag.partition("-")
    if tag != "O" and not (len(letter) == 1 and letter in letters and kind):
        raise Misfit(
            place, f"tag {tag!r} is neither O nor one of {', '.join(letters)} with - and a type"
        )
    return letter, kind


def _tag(kind: str, follows: bool) -> str:
    return f"{'I' if follows else 'B'}-{kind}" if kind else "O"
