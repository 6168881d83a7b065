"""A user's own sources and targets: translation, summarization and the like, without code."""

from __future__ import annotations

from pathlib import Path

from datasets import Dataset, IterableDataset

from prunella.tasks.base import USUAL, Rows, Splits, TaskError
from prunella.tasks.form import PLAIN, Form
from prunella.tasks.generation import ROW, Generation, grouped
from prunella.tasks.holdout import with_dev
from prunella.tasks.own import Source, own
from prunella.tasks.parts import labelled
from prunella.tasks.rejects import Rejects
from prunella.tasks.streaming import no_text, streamed

MEASURES = ("rougeL", "bleu", "chrf")


def text2text(
    data: Path | str,
    *,
    source: str = "source",
    target: str = "target",
    streaming: bool = False,
    form: Form = PLAIN,
    test: Path | None = None,
    asked: Rows = USUAL,
) -> Generation:
    """Make a task of the user's own sources and targets, which are read at once.

    A source that comes several times is one row with several references; so is, in JSON Lines and
    Parquet and on the hub, a target that is a list of texts.

    Args:
        data: Files, a saved set or one on the hub (see `own.own`). Without a dev part a tenth of
            the training rows, at most 1000, becomes the dev set: always the same ones.
        source: The column of the sources; in sets on the hub and saved ones `a.b` is the field `b`
            of the column `a`.
        target: The column of the targets.
        streaming: Read the training part as it is needed: then there must be a dev part, and every
            row is one source with one target, in columns of their own.
        form: How files are written.
        test: A file for test, instead of what the data has.
        asked: What else is asked of the rows.

    Returns:
        A task whose `load` returns the rows read here, whatever it is given. It is scored by
        ROUGE-L, BLEU and chrF.

    Raises:
        TaskError: The data is not there or cannot be read, a column is not in it, or a row is
            malformed or incomplete (of a stream, when it comes to that row).
    """
    if source == target:
        raise TaskError(f"column {source!r} is named for source and target; give each its own.")
    columns = (source, target)
    train_part, dev_part, test_part = own(data, form, test=test, streaming=streaming)

    def read(part: Source) -> Dataset:
        return _rows(part, columns, form, asked)

    dev = None if dev_part is None else read(dev_part)
    tested = labelled(test_part, read, asked=test is not None)
    if not streaming:
        splits = with_dev(read(train_part), dev, Path(data), test=tested, whole=asked.whole)
    elif dev is None:
        raise TaskError(f"{data}: a stream has no end to cut a dev set off; give a dev part.")
    else:
        splits = Splits(_stream(train_part, columns, form), {"dev": dev}, tested)
    return Generation("text2text", load=lambda _: splits, measures=MEASURES)


def _stream(part: Source, columns: tuple[str, str], form: Form) -> IterableDataset:
    names = dict(zip(("source", "target"), columns, strict=True))
    texts = streamed(part, names, blank=False, skip=form.skip)
    return texts.map(
        lambda row: {"references": [row["target"]]}, remove_columns="target", features=ROW
    )


def _rows(part: Source, columns: tuple[str, str], form: Form, asked: Rows) -> Dataset:
    """Rows of sources and targets; none may be blank."""
    pairs: list[tuple[str, str]] = []
    places: list[str] = []
    good, rejects = 0, Rejects(str(part), skip=form.skip, at_once=False)
    for place, (source, target) in part.cells(columns, rejects):
        targets = target if isinstance(target, list) and target else [target]
        cells = ((columns[0], source), *((columns[1], text) for text in targets))
        bad = [cell for cell in cells if not (isinstance(cell[1], str) and cell[1].strip())]
        if bad:
            rejects.add(place, *no_text(*bad[0]))
        else:
            good += 1
            pairs += [(source, text) for text in targets]
            places += [place for _ in targets]
    rejects.settle(good)
    if not pairs:
        raise TaskError(f"{part}: no rows; it must hold at least one.")
    return grouped(pairs, places, asked)
