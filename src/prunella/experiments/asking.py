"""What ``prunella evaluate`` and ``prunella predict`` are asked: settings of a run that say where
data is and how it is read, taken over from the run that wrote the model, and a few of their own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, make_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, cast, get_type_hints

import tyro

from prunella.errors import UsageError
from prunella.experiments.config import LISTS, RunConfig, flags
from prunella.runfiles import YAML

# Settings of a run that say where rows are, how they are read, and how texts are written.
FORM = ("separator", "encoding", "decimal", "skip_bad_rows")  # how files are written
READING = (
    *FORM,
    *("task", "data", "text_column", "pair_column", "label_column"),
    *("label_separator", "label_threshold", "positive_class"),
    *("source_column", "target_column", "scheme", "train_on", "holdout_seed"),
    *("max_length", "truncate", "stride", "no_answer_threshold", "prefix"),
    *("beams", "max_new_tokens", "length_penalty", "no_repeat_ngram"),
    *("batch_size", "precision", "with_text"),
)
OF_LABELS = (
    *("data", "label_column", "label_separator", "positive_class", "decimal", "target_column"),
    *("scheme", "train_on", "holdout_seed"),
)
OF_ASKING = {"with_text"}  # not taken over from the run

_HIDDEN = (tyro.conf.Fixed, tyro.conf.Suppress)
Asked = TypeVar("Asked", bound=RunConfig)


@dataclass(frozen=True)
class Evaluation(RunConfig):
    """How well a fine-tuned model does, on any rows with labels.

    Of a folder that prunella prune wrote, the task and how it is read are known:

      prunella evaluate out --data NEW

    How files are written (--separator, --encoding, --decimal, --skip-bad-rows) is known of the
    run's own data alone. A file of your own that is given is judged as a whole, and of all else the
    dev set; without --data it is the run's own. Any other checkpoint needs a --task as well."""

    model: tyro.conf.Positional[str | None] = None
    """A checkpoint folder, sparse or dense, or a hub name; --model MODEL is the same."""

    split: str | None = None
    """What to judge: dev (by default, all parts of it), train, holdout (cut from train) or test."""

    engine: Literal["sparse", "dense"] = "sparse"
    """sparse multiplies with the non-zero weights alone, on the CPU; dense is Transformers' own
    model, on an accelerator if there is one."""

    json: Path | None = None
    """Write the metrics to this file too."""

    predictions: Path | None = None
    """Write what the model says of every row to this file, JSON lines or, where its suffix is .csv,
    a table."""

    overwrite: bool = False
    """Replace the file of predictions."""


@dataclass(frozen=True)
class Prediction(RunConfig):
    """What a fine-tuned model says of rows without labels.

    The file is a table (CSV, TSV, JSON lines, Parquet) or text with a line a row; for tags also
    with a word a line, for questions also SQuAD's JSON:

      prunella predict out new.csv --output predictions.jsonl

    Every row has its file, line, prediction, and probabilities or scores where there are such; of
    lm/* the prediction is the text's perplexity."""

    model: tyro.conf.Positional[str | None] = None
    """A checkpoint folder, sparse or dense, or a hub name; --model MODEL is the same."""

    file: tyro.conf.Positional[Path | None] = None
    """The rows to say something of."""

    output: str | None = None
    """Write to this file instead, JSON lines or, where its suffix is .csv, a table."""

    overwrite: bool = False
    """Replace the output."""

    engine: Literal["sparse", "dense"] = "sparse"
    """sparse multiplies with the non-zero weights alone, on the CPU; dense is Transformers' own
    model, on an accelerator if there is one."""


def ask(kind: type[Asked], name: str, arguments: Sequence[str]) -> tuple[Asked, bool]:
    """What was asked, settings of the run that wrote the model included; and whether data was
    named.

    Raises:
        UsageError: No model was named, or nothing says what its task is.
    """
    given = {part.split("=")[0].removeprefix("--").replace("-", "_") for part in arguments}
    model = _parse(kind, name, arguments).model
    if model is None:
        raise UsageError(f"name the model: prunella {name} MODEL, a checkpoint folder or hub name")
    path = Path(model).expanduser() / YAML
    if not path.is_file() and "task" not in given:
        raise UsageError(
            f"{model} was not written by prunella prune, which would say what its task is; name it "
            "by --task"
        )
    others = {each.name for each in fields(RunConfig)} - _read(kind) | OF_ASKING
    if kind is Prediction or "data" in given:  # other files, which may be written in another way
        others |= {*FORM}
    taken = flags(path, others | given & {*LISTS}) if path.is_file() else []
    return _parse(kind, name, [*taken, *arguments]), "data" in given


def _read(kind: type[RunConfig]) -> set[str]:
    return {*READING} - ({*OF_LABELS} if kind is Prediction else set())


def _parse(kind: type[Asked], name: str, arguments: Sequence[str]) -> Asked:
    options = (tyro.conf.DisallowNone, tyro.conf.UseAppendAction)
    return tyro.cli(_shown(kind), args=list(arguments), prog=f"prunella {name}", config=options)


def _shown(kind: type[Asked]) -> type[Asked]:
    """The same settings, without those that only a training has."""
    hints, annotated = get_type_hints(RunConfig), cast(Any, Annotated)
    known = {*_read(kind), *kind.__annotations__}
    hidden = [
        (f.name, annotated[hints[f.name], *_HIDDEN], field(default=f.default))
        for f in fields(RunConfig)
        if f.name not in known
    ]
    about = {"__doc__": kind.__doc__, "__module__": kind.__module__}
    return make_dataclass(kind.__name__, hidden, bases=(kind,), frozen=True, namespace=about)
