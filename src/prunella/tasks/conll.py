"""Files with a word a line and its tag in a column, as CoNLL's shared tasks have them.

A blank line ends a sentence, and so does one that starts with `-DOCSTART-`. Columns are separated
by tabs if the first line with a word has one, else by blanks; every line has the same number.

Tags say which words make an entity, in one of three schemes::

             Alex   to  Los    Angeles  California
    iob1     I-PER  O   I-LOC  I-LOC    B-LOC        B- only where two of a type meet
    iob2     B-PER  O   B-LOC  I-LOC    B-LOC        B- on every first word
    bioes    S-PER  O   B-LOC  E-LOC    S-LOC        E- on the last word, S- on a single one

Sources: Ramshaw and Marcus 1995 (iob1), Tjong Kim Sang and Veenstra 1999 (iob2), Ratinov and Roth
2009 (bioes, there as BILOU: L for E and U for S).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from prunella.tasks.base import TaskError
from prunella.tasks.reading import lines

Scheme = Literal["iob1", "iob2", "bioes"]

MAX_TYPES = 200
OTHER_COLUMN = "name another column by --label-column (the task ner/columns, 0 is the first)"


class Sentence(NamedTuple):
    """Words and their tags, and the number of the line of the first; the others' follow."""

    line: int
    words: list[str]
    tags: list[str]


class Misfit(ValueError):
    """The tag at a place of a sentence breaks a rule of its scheme; says the rule."""

    def __init__(self, place: int, rule: str) -> None:
        super().__init__(rule)
        self.place = place


def sentences(path: Path, *, word: int, tag: int) -> list[Sentence]:
    """Read the sentences of a file, with the tags as they are there.

    Args:
        path: The file, in UTF-8.
        word: The number of the words' column; negative ones count from the last, -1.
        tag: That of the tags'.

    Raises:
        TaskError: There is no such file or column, the number of columns varies, a word is empty,
            there is no sentence, or what is there cannot be words and their tags.
    """
    found: list[Sentence] = []
    tabs, width, inside = False, 0, False
    for number, line in lines(path):
        if not line.strip() or line.startswith("-DOCSTART-"):
            inside = False
            continue
        if not width:
            tabs = "\t" in line
            width = len(_cells(line, tabs))
            _check_places(f"{path}:{number}", width, word, tag)
        cells = _cells(line, tabs)
        if len(cells) != width:
            raise TaskError(
                f"{path}:{number}: {len(cells)} columns where the first line has {width}; all need "
                f"the same, separated by {'tabs' if tabs else 'blanks'}."
            )
        if not cells[word]:
            raise TaskError(f"{path}:{number}: the word is empty; fill it in or remove the line.")
        if not inside:
            found.append(Sentence(number, [], []))
        inside = True
        found[-1].words.append(cells[word])
        found[-1].tags.append(cells[tag])
    _check_whole(path, found)
    return found


def _cells(line: str, tabs: bool) -> list[str]:
    """Not by `str.split()`: a word may hold what Unicode counts as blanks."""
    if tabs:
        return [cell.strip(" ") for cell in line.rstrip(" \t").split("\t")]
    return [cell for cell in line.split(" ") if cell]


def _check_places(at: str, width: int, word: int, tag: int) -> None:
    for flag, place in (("--text-column", word), ("--label-column", tag)):
        if not -width <= place < width:
            raise TaskError(
                f"{at}: {width} column(s), and none has the number {place}; give one from 0 to "
                f"{width - 1} by {flag}, or one from -1 down to {-width} to count from the last."
            )
    if word % width == tag % width:
        raise TaskError(
            f"{at}: column {word} would be both word and tag; give each its own by --text-column "
            "and --label-column."
        )


def _check_whole(path: Path, found: list[Sentence]) -> None:
    if not found:
        raise TaskError(f"{path}: no sentences; the file must hold at least one.")
    if len(found) > 1 and all(len(sentence.words) == 1 for sentence in found):
        raise TaskError(
            f"{path}: each of the {len(found)} sentences is a single word; put a blank line "
            "between sentences only."
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


def in_iob2(path: Path, found: list[Sentence], scheme: Scheme) -> list[Sentence]:
    """The sentences of a file with their tags in IOB2.

    Raises:
        TaskError: A tag breaks the rules of the scheme; names its line.
    """
    read = []
    for sentence in found:
        try:
            read.append(sentence._replace(tags=iob2(sentence.tags, scheme)))
        except Misfit as error:
            raise TaskError(
                f"{path}:{sentence.line + error.place}: {error}; correct it, or {OTHER_COLUMN}, or "
                f"another --scheme than {scheme}."
            ) from error
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
