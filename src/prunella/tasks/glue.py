"""The nine GLUE tasks, from the Hugging Face hub or from GLUE's own TSV files.

Source: Wang et al. 2019, "GLUE: A Multi-Task Benchmark and Analysis Platform for Natural Language
Understanding" (https://openreview.net/forum?id=rJ4km2R5t7). Label names and their order are those
of the hub set `nyu-mll/glue`.
"""

import logging
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from datasets import ClassLabel, Dataset, Features, Value

from prunella.tasks.base import Splits, TaskError
from prunella.tasks.classification import Classification
from prunella.tasks.form import PLAIN, Form
from prunella.tasks.parts import labelled
from prunella.tasks.reading import lines
from prunella.tasks.rejects import Rejects
from prunella.tasks.sources import first_of, from_folder, from_hub

HUB_SET = "nyu-mll/glue"
FILES = "the task's TSV files"
MAX_SCORE = 5.0

logger = logging.getLogger("prunella")


@dataclass(frozen=True)
class _Spec:
    """How one task is stored; column names are in the order text, (pair,) label."""

    name: str
    labels: tuple[str, ...] | None
    metrics: tuple[str, ...]
    hub: tuple[str, ...]
    tsv: tuple[str, ...]
    header: tuple[str, ...] | None = None  # the columns of files that do not name them
    dev: tuple[tuple[str, str, str], ...] = (("dev", "dev.tsv", "validation"),)

    @property
    def fields(self) -> tuple[str, ...]:
        return ("text", "pair", "label") if len(self.tsv) == 3 else ("text", "label")

    @property
    def features(self) -> Features:
        label = Value("float32") if self.labels is None else ClassLabel(names=list(self.labels))
        return Features(**{field: Value("string") for field in self.fields} | {"label": label})


_SENTENCES = ("sentence1", "sentence2", "label")
_SPECS = (
    _Spec(
        "cola",
        labels=("unacceptable", "acceptable"),
        metrics=("mcc", "accuracy"),
        hub=("sentence", "label"),
        tsv=("sentence", "label"),
        header=("source", "label", "mark", "sentence"),
    ),
    _Spec(
        "sst2",
        labels=("negative", "positive"),
        metrics=("accuracy",),
        hub=("sentence", "label"),
        tsv=("sentence", "label"),
    ),
    _Spec(
        "mrpc",
        labels=("not_equivalent", "equivalent"),
        metrics=("accuracy", "f1"),
        hub=_SENTENCES,
        tsv=("#1 String", "#2 String", "Quality"),
    ),
    _Spec(
        "qqp",
        labels=("not_duplicate", "duplicate"),
        metrics=("accuracy", "f1"),
        hub=("question1", "question2", "label"),
        tsv=("question1", "question2", "is_duplicate"),
    ),
    _Spec(
        "stsb",
        labels=None,
        metrics=("pearson", "spearman"),
        hub=_SENTENCES,
        tsv=("sentence1", "sentence2", "score"),
    ),
    _Spec(
        "mnli",
        labels=("entailment", "neutral", "contradiction"),
        metrics=("accuracy",),
        hub=("premise", "hypothesis", "label"),
        tsv=("sentence1", "sentence2", "gold_label"),
        dev=(
            ("dev", "dev_matched.tsv", "validation_matched"),
            ("dev_mismatched", "dev_mismatched.tsv", "validation_mismatched"),
        ),
    ),
    _Spec(
        "qnli",
        labels=("entailment", "not_entailment"),
        metrics=("accuracy",),
        hub=("question", "sentence", "label"),
        tsv=("question", "sentence", "label"),
    ),
    _Spec(
        "rte",
        labels=("entailment", "not_entailment"),
        metrics=("accuracy",),
        hub=_SENTENCES,
        tsv=_SENTENCES,
    ),
    _Spec(
        "wnli",
        labels=("not_entailment", "entailment"),
        metrics=("accuracy",),
        hub=_SENTENCES,
        tsv=_SENTENCES,
    ),
)


def _load(spec: _Spec, folder: Path | None, form: Form = PLAIN, test: Path | None = None) -> Splits:
    """Read the parts of a set, from the hub if no folder is given.

    GLUE's own test files have no labels.
    """
    splits = _from_hub(spec) if folder is None else _from_folder(spec, folder, form)
    there = test if folder is None or test is not None else first_of(folder, ["test.tsv"])
    read = partial(_read, spec, form=form)
    return replace(splits, test=labelled(there, read, asked=test is not None))


def _from_hub(spec: _Spec) -> Splits:
    parts = from_hub(f"glue/{spec.name}", FILES, HUB_SET, spec.name)

    def pick(split: str) -> Dataset:
        columns = dict(zip(spec.hub, spec.fields, strict=True))
        renamed = {old: new for old, new in columns.items() if old != new}
        return parts[split].select_columns(list(columns)).rename_columns(renamed)

    return Splits(pick("train"), {key: pick(split) for key, _, split in spec.dev})


def _from_folder(spec: _Spec, folder: Path, form: Form) -> Splits:
    needed = ["train.tsv", *(file for _, file, _ in spec.dev)]
    train, *dev = from_folder(f"glue/{spec.name}", FILES, folder, [needed])
    names = [key for key, _, _ in spec.dev]
    return Splits(
        _read(spec, train, form),
        {key: _read(spec, file, form) for key, file in zip(names, dev, strict=True)},
    )


def _read(spec: _Spec, path: Path, form: Form) -> Dataset:
    """Read one labelled TSV file.

    Not by `csv`: quotes are plain characters in these files.
    """
    read = [line for _, line in lines(path, form)]
    while read and not read[-1]:
        read.pop()
    first = 1 if spec.header else 2  # the number of the first line with data
    if len(read) < first:
        raise TaskError(f"{path}: no rows; the file must hold at least one labelled row.")
    header = list(spec.header or read[0].split("\t"))
    absent = [column for column in spec.tsv if column not in header]
    if absent:
        raise TaskError(
            f"{path}: no column {' and no column '.join(absent)} among {', '.join(header)}; give "
            f"glue/{spec.name} in GLUE's own layout."
        )
    places = [header.index(column) for column in spec.tsv]
    rows: list[tuple[str | int | float, ...]] = []
    rejects = Rejects(str(path), skip=form.skip, at_once=False)
    malformed: list[tuple[int, int]] = []
    for number, line in enumerate(read[first - 1 :], start=first):
        cells = line.split("\t")
        if len(cells) != len(header):
            malformed.append((number, len(cells)))
            continue
        *texts, label = (cells[place] for place in places)
        try:
            rows.append((*texts, _label(spec, label)))
        except ValueError as error:
            rejects.add(f"{path}:{number}", *error.args)
    rejects.settle(len(rows))
    if malformed:
        _report(malformed, len(read) - first + 1, len(header), path)
    columns = dict(zip(spec.fields, map(list, zip(*rows, strict=True)), strict=True))
    return Dataset.from_dict(columns, features=spec.features)


def _label(spec: _Spec, cell: str) -> int | float:
    """Turn a label cell, a name or an index or a score, into the value of the column `label`.

    Raises:
        ValueError: It is none; says the reason and the remedy.
    """
    if spec.labels is None:
        try:
            score = float(cell)
        except ValueError:
            score = -1.0
        if not 0.0 <= score <= MAX_SCORE:  # also true of NaN
            raise ValueError(
                f"score {cell!r} is not a number from 0 to {MAX_SCORE:g}",
                "correct or remove the line",
            )
        return score
    if cell in spec.labels:
        return spec.labels.index(cell)
    indices = [str(index) for index in range(len(spec.labels))]
    if cell in indices:
        return indices.index(cell)
    raise ValueError(
        f"label {cell!r} is none of {', '.join((*spec.labels, *indices))}",
        "correct or remove the line (test files have no labels)",
    )


def _report(malformed: list[tuple[int, int]], total: int, width: int, path: Path) -> None:
    """Log rows with a wrong number of fields: QQP has a few. Raise `TaskError` if 1 in 100."""
    number, found = malformed[0]
    if 100 * len(malformed) >= total:
        raise TaskError(
            f"{path}:{number}: {found} tab-separated fields where {width} are needed, and so in "
            f"{len(malformed)} of {total} rows; give the file in GLUE's own layout."
        )
    logger.warning(
        "%s: skipped %d of %d rows for their number of fields, the first at line %d",
        path,
        len(malformed),
        total,
        number,
    )


GLUE = tuple(
    Classification(
        f"glue/{spec.name}",
        load=partial(_load, spec),
        labels=spec.labels,
        measures=spec.metrics,
        pair=len(spec.tsv) == 3,
    )
    for spec in _SPECS
)
