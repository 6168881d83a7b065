"""A user's own sources and targets: translation, summarization and the like, without code."""

from __future__ import annotations

import re
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset, IterableDataset, load_dataset

from prunella.errors import unknown
from prunella.tasks.base import Splits, TaskError
from prunella.tasks.generation import ROW, Generation, grouped
from prunella.tasks.holdout import with_dev
from prunella.tasks.reading import READERS, at, parts, rows_of
from prunella.tasks.streaming import streamed

MEASURES = ("rougeL", "bleu", "chrf")
_HUB = re.compile(r"[\w-][\w.-]*(/[\w.-]+)?(:[\w.-]+)?")


def text2text(
    data: Path | str, *, source: str = "source", target: str = "target", streaming: bool = False
) -> Generation:
    """Make a task of the user's own sources and targets, which are read at once.

    A source that comes several times is one row with several references; so is, in JSON Lines and
    Parquet and on the hub, a target that is a list of texts.

    Args:
        data: The training file; or a folder that holds `train` and maybe `dev` or `validation`,
            each with the suffix of a format; or a set on the hub, `owner/name` or, where it has
            several configurations, `owner/name:configuration`. Without a dev part a tenth of the
            training rows, at most 1000, becomes the dev set: always the same ones.
        source: The column of the sources; on the hub `a.b` is the field `b` of the column `a`.
        target: The column of the targets.
        streaming: Read the training part as it is needed: then there must be a dev part, and every
            row is one source with one target, in columns of their own.

    Returns:
        A task whose `load` returns the rows read here, whatever it is given. It is scored by
        ROUGE-L, BLEU and chrF.

    Raises:
        TaskError: The data is not there or cannot be read, a column is not in it, or a row is
            malformed or incomplete (of a stream, when it comes to that row).
    """
    if source == target:
        raise TaskError(f"column {source!r} is named for source and target; give each its own.")
    path, columns = Path(data), (source, target)
    on_hub = path.suffix.lower() not in READERS and not path.exists() and _HUB.fullmatch(str(data))
    train, dev = (_from_hub if on_hub else _from_files)(path, columns, streaming)
    if isinstance(train, Dataset):
        splits = with_dev(train, dev, path)
    elif dev is not None:
        splits = Splits(train, {"dev": dev})
    else:
        raise TaskError(f"{data}: a stream has no end to cut a dev set off; give a dev part.")
    return Generation("text2text", load=lambda _: splits, measures=MEASURES)


def _from_files(
    data: Path, columns: tuple[str, str], streaming: bool
) -> tuple[Dataset | IterableDataset, Dataset | None]:
    def read(file: Path) -> Dataset:
        rows = rows_of(file, columns)
        return _rows(file, columns, ((at(file, number), cells) for number, cells in rows))

    train, dev = parts(data, tuple(READERS))
    return _stream(train, columns) if streaming else read(train), read(dev) if dev else None


def _from_hub(
    data: Path, columns: tuple[str, str], streaming: bool
) -> tuple[Dataset | IterableDataset, Dataset | None]:
    name, _, configuration = str(data).partition(":")
    how: dict[str, Any] = {"streaming": streaming}
    try:
        splits = load_dataset(name, configuration or None, **how)
    except (OSError, ValueError, RuntimeError) as error:
        # no such set, or no network; several configurations; a script, which is not run
        reason = " ".join(str(error).split())
        raise TaskError(
            f"{data} is no file or folder, and cannot be read from the hub ({reason}); give a file "
            "or folder, or the name of a set there, owner/name or owner/name:configuration."
        ) from error
    if "train" not in splits:
        raise TaskError(f"{data} has no split train; found was {', '.join(map(str, splits))}.")

    def read(split: str) -> Dataset:
        rows = enumerate(splits[split], start=1)
        cells = ((f"{data}, {split} row {n}", _cells(data, columns, row)) for n, row in rows)
        return _rows(data, columns, cells)

    dev = next((split for split in ("validation", "dev") if split in splits), None)
    return _stream(data, columns) if streaming else read("train"), read(dev) if dev else None


def _cells(data: Path, columns: tuple[str, str], row: Mapping[str, Any]) -> list[Any]:
    """The columns asked for, also those within a column, `a.b`."""
    known = dict(row)
    for name, fields in row.items():
        if isinstance(fields, dict):
            known |= {f"{name}.{field}": value for field, value in fields.items()}
    for column in columns:
        if column not in known:
            raise TaskError(f"{data}: {unknown('column', column, known)}; name one of these.")
    return [known[column] for column in columns]


def _stream(source: Path, columns: tuple[str, str]) -> IterableDataset:
    texts = streamed(source, dict(zip(("source", "target"), columns, strict=True)), blank=False)
    return texts.map(
        lambda row: {"references": [row["target"]]}, remove_columns="target", features=ROW
    )


def _rows(
    data: Path, columns: tuple[str, str], cells: Iterable[tuple[str, Sequence[Any]]]
) -> Dataset:
    """Rows of sources and targets, which come with the place of each; none may be blank."""
    pairs: list[tuple[str, str]] = []
    for place, (source, target) in cells:
        targets = target if isinstance(target, list) and target else [target]
        for column, text in ((columns[0], source), *((columns[1], text) for text in targets)):
            if not isinstance(text, str) or not text.strip():
                raise TaskError(
                    f"{place}: column {column!r} holds {reprlib.repr(text)} where text is needed; "
                    "fill it in or remove the row."
                )
        pairs += [(source, text) for text in targets]
    if not pairs:
        raise TaskError(f"{data}: no rows; it must hold at least one.")
    return grouped(pairs)
