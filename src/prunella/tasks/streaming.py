"""Training data that is read as it is needed, by Datasets: for sets larger than memory."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from datasets import IterableDataset, load_dataset

from prunella.errors import unknown
from prunella.tasks.base import TaskError

_KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    **dict.fromkeys((".txt", ".md", ".tokens", ".raw"), ("text", {})),
    **dict.fromkeys((".json", ".jsonl"), ("json", {})),
    ".csv": ("csv", {}),
    ".tsv": ("csv", {"sep": "\t"}),
    ".parquet": ("parquet", {}),
}


def streamed(source: Path | str, columns: Mapping[str, str], *, blank: bool) -> IterableDataset:
    """Rows of texts from a file, or from the part `train` of a set on the hub.

    Args:
        source: the file; or the hub's name, `owner/name` or `owner/name:configuration`.
        columns: what a column is to be called -> its name there; of plain text it is `text`.
        blank: whether rows without text are left out; otherwise they are an error.

    Raises:
        TaskError: it cannot be read or lacks a column; and, once it is read, where a row has no
            text.
    """
    name, _, configuration = str(source).partition(":")
    try:
        if Path(source).is_file():
            kind, settings = _KINDS[Path(source).suffix.lower()]
            rows = load_dataset(
                kind, data_files=str(source), split="train", streaming=True, **settings
            )
        else:
            rows = load_dataset(name, configuration or None, split="train", streaming=True)
        first = next(iter(rows))
    except StopIteration:
        raise TaskError(f"{source}: no rows; it must hold at least one.") from None
    except (OSError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise TaskError(
            f"{source} cannot be streamed ({reason}); mend it or name another"
        ) from error
    for column in columns.values():
        if column not in first:
            raise TaskError(
                f"{source}: {unknown('column', column, list(first))}; name one of these."
            )

    def check(row: dict[str, Any], number: int) -> dict[str, Any]:
        texts = {ours: row[theirs] for ours, theirs in columns.items()}
        for ours, text in texts.items():
            if not blank and not (isinstance(text, str) and text.strip()):
                raise TaskError(
                    f"{source}, row {number + 1}: column {columns[ours]!r} holds "
                    f"{reprlib.repr(text)} where text is needed; fill it in or remove the row."
                )
        return texts

    found = rows.map(check, with_indices=True, remove_columns=list(first))
    if not blank:
        return found
    return found.filter(lambda row: all(isinstance(t, str) and t.strip() for t in row.values()))
