"""Rows as model inputs, tokenised once and kept on disk."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa  # type: ignore[import-untyped]
import tokenizers
import transformers
from datasets import Dataset, IterableDataset
from transformers import PreTrainedTokenizerBase

import prunella.tasks
from prunella.errors import UsageError
from prunella.experiments.whereabouts import during
from prunella.tasks import Reader, Task
from prunella.tasks.base import ORIGIN, Columns

BATCH = 1000  # rows that are tokenised together


@dataclass(frozen=True)
class Split:
    """Labelled rows, and what a model is given to say something of them."""

    rows: Dataset
    features: Dataset


@dataclass(frozen=True)
class _Features:
    """What ``map`` calls."""

    task: Task
    reader: Reader
    training: bool

    def __call__(self, rows: Columns, numbers: list[int]) -> Columns:
        rows = {name: list(values) for name, values in rows.items()} | {"row": numbers}
        return self.task.features(rows, self.reader, training=self.training)


def encode(
    rows: Dataset, task: Task, reader: Reader, *, training: bool, name: str, alone: bool = False
) -> tuple[Dataset, dict[str, Any]]:
    """The features of rows, from disk if they were made before of the same rows in the same way.

    They lie under ``HF_DATASETS_CACHE`` (see Datasets) in the folder ``prunella``.

    Args:
        training: see ``Task.features``.
        name: of the split, for the progress bar.
        alone: whether each row is read by itself, also of running text.

    Returns:
        the features, and the rows' fingerprint.
    """
    about = fingerprint(rows)
    key = _key(about["sha256"], repr(task), _about(reader), training, alone, _code())
    folder = Path(datasets.config.HF_DATASETS_CACHE) / "prunella"
    file = folder / f"{key}.arrow"

    features_of = _Features(task, reader, training)

    def told(rows: Columns, numbers: list[int]) -> Columns:
        made = features_of(rows, numbers)
        phase.at(numbers[-1] + 1)
        return made

    def made() -> Dataset:
        return rows.map(
            told,
            with_indices=True,
            batched=True,
            batch_size=1 if alone else BATCH,
            remove_columns=rows.column_names,
            cache_file_name=str(file),
            load_from_cache_file=True,
            new_fingerprint=key,
            desc=f"tokenising {name}",
        )

    try:
        folder.mkdir(parents=True, exist_ok=True)
        was_there = file.exists()
        with during(f"tokenising {name}", len(rows)) as phase:
            try:
                features = made()
            except (OSError, pa.ArrowException):
                if not was_there:
                    raise
                file.unlink()  # damaged
                features = made()
    except (OSError, pa.ArrowException) as error:
        raise UsageError(
            f"tokenised texts cannot be kept in {folder} ({error}); make room or name another "
            "folder in the environment variable HF_DATASETS_CACHE"
        ) from error
    if len(features) == 0:
        lacking = task.lacking or "text that can be read"
        raise UsageError(f"{name}: its {len(rows)} rows are all without {lacking}; give others")
    return features, about


def stream(rows: IterableDataset, task: Task, reader: Reader, seed: int) -> IterableDataset:
    """The features of rows, made as they are needed, in an order that is random close by.

    They come over and over again: of a pass without end, a resumed run can skip what was read.
    """
    features = rows.repeat(None).map(
        _Features(task, reader, training=True),
        with_indices=True,
        batched=True,
        batch_size=BATCH,
        remove_columns=rows.column_names or list(next(iter(rows))),  # not known of all streams
    )
    return features.shuffle(seed=seed, buffer_size=10 * BATCH)


def spelled(rows: Dataset, tokenizer: PreTrainedTokenizerBase) -> int:
    """How many rows spell a special token in their texts, which is then read as that token."""
    added = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
    known = {*tokenizer.all_special_tokens, *added}
    marks = re.compile("|".join(re.escape(token) for token in known if token.strip()) or "(?!)")
    return sum(
        marks.search(str(cells)) is not None
        for batch in rows.iter(BATCH)
        for cells in zip(*batch.values(), strict=True)
    )


def fingerprint(rows: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """How many rows there are, and the SHA-256 of what they say, wherever they are."""
    known, count = hashlib.sha256(), 0
    for row in rows:
        said = sorted(item for item in row.items() if item[0] != ORIGIN)
        known.update(repr(said).encode())
        count += 1
    return {"rows": count, "sha256": known.hexdigest()}


def _key(*parts: Any) -> str:
    return hashlib.sha256("\n".join(map(str, parts)).encode()).hexdigest()[:32]


def _about(reader: Reader) -> str:
    settings = (
        reader.max_length,
        reader.truncate,
        reader.decoder_only,
        reader.limit,
        reader.seed,
    )
    return f"{settings} {_tokenizer(reader.tokenizer)}"


def _tokenizer(tokenizer: PreTrainedTokenizerBase) -> str:
    """What decides how a tokenizer reads."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    # Its last truncation and padding are no part of it: every call sets them.
    known = json.loads(backend.to_str()) | {"truncation": None, "padding": None} if backend else {}
    slow = {} if known else tokenizer.get_vocab()
    names = (
        type(tokenizer).__name__,
        tokenizer.special_tokens_map,
        tokenizer.padding_side,
        tokenizer.truncation_side,
        tokenizer.model_input_names,
        tokenizer.chat_template,
    )
    return f"{names} {json.dumps(known)} {sorted(slow.items())}"


@cache
def _code() -> str:
    """The code that makes features: what another version made is not taken for ours."""
    folder = Path(prunella.tasks.__file__).parent
    ours = (path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.py")))
    return _key(tokenizers.__version__, transformers.__version__, *ours)
