"""Models that were fine-tuned before: what they say of other rows, and how well they do."""

from __future__ import annotations

import csv
import io
import json
import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from prunella import tasks
from prunella.errors import UsageError, unknown
from prunella.experiments import data, models
from prunella.experiments.config import RunConfig
from prunella.experiments.encoding import Split, encode, fingerprint
from prunella.experiments.evaluation import records, told
from prunella.experiments.rehearsal import check_length
from prunella.runtime import checkpoint
from prunella.runtime.files import whole
from prunella.runtime.folder import described, fetched
from prunella.tasks import Classification, Multilabel, Reader, Record, Task
from prunella.tasks.base import Rows
from prunella.tasks.generation import Generation
from prunella.tasks.lm import Language
from prunella.tasks.tagging import Tagging
from prunella.tasks.unlabelled import Columns, unlabelled

logger = logging.getLogger("prunella")

_UNNAMED = re.compile(r"LABEL_\d+")  # what Transformers calls classes that have no names


@dataclass(frozen=True)
class Finished:
    """A model with the head that it was fine-tuned with, and the task that it does.

    Attributes:
        config: What is asked: the task, where its data is and how it is read.
    """

    config: RunConfig
    task: Task
    model: PreTrainedModel = field(repr=False)
    tokenizer: PreTrainedTokenizerBase = field(repr=False)
    reader: Reader = field(repr=False)

    @classmethod
    def of(
        cls, config: RunConfig, engine: Literal["sparse", "dense"], *, labelled: bool, whole: bool
    ) -> Finished:
        """Load a model.

        Args:
            config: ``model`` names it: a folder, or a model on the hub.
            engine: See `prunella.load`.
            labelled: Whether the task's data is read, which has labels.
            whole: Whether a file of the user's own is judged as a whole.

        Raises:
            UsageError: There is no such model or task, the one does not do the other, or the
                task's data is bad.
        """
        folder = fetched(models.locate(config.origin), whole=True)
        known, architecture = described(folder)
        names = _named(known)
        if labelled:
            task = data.task(config, Rows(names, whole, origins=True))
        else:
            task = data.set_up(config, _without_data(config, names))
        _check_head(config, task, known, architecture)
        model = checkpoint.load(folder, engine)
        if engine == "dense" and torch.accelerator.is_available():
            model.to(torch.accelerator.current_accelerator())
        _order_classes(config, task, model)
        tokenizer = models.tokenizer(folder, model)
        return cls(config, task, model, tokenizer, models.reader(config, task, model, tokenizer))

    def answers(self, rows: Dataset, name: str) -> list[Record]:
        """A record for every row; `name` is what the rows are called."""
        features, _ = encode(rows, self.task, self.reader, training=False, name=name)
        check_length(self.config, self.model, self.tokenizer, max(features["length"]))
        return self._records(rows, features, name)

    # --- with labels -------------------------------------------------------------------------

    def evaluate(self, split: str | None) -> tuple[dict[str, Any], Iterator[dict[str, Any]]]:
        """Metrics of a split, or of all of dev; and what the model says, row by row.

        Raises:
            UsageError: There is no such split.
        """
        parts = self._parts(split)
        found = {name: self.answers(rows, name) for name, rows in parts.items()}
        about = {
            "model": self.config.origin,
            "task": self.task.about() | {"max_length": self.reader.max_length},
            "data": {name: fingerprint(rows) for name, rows in parts.items()},
            "metrics": {name: self.task.score(part) for name, part in found.items()},
        }
        lines = (
            {"split": name} | row
            for name, rows in parts.items()
            for row in told(rows if self.task.by_row else None, found[name], self._texts)
        )
        return about, lines

    def _parts(self, split: str | None) -> dict[str, Dataset]:
        """The splits that are judged, by name."""
        given = self.config.data
        loaded = self.task.load(None if given is None else Path(given).expanduser())
        parts: dict[str, Any] = {"train": loaded.train, **loaded.dev}
        if loaded.test is not None:
            parts["test"] = loaded.test
        if split is None:
            return dict(loaded.dev)
        if split == "holdout":
            return {split: data.apart(loaded.train, self.config, self.task)[1]}
        if not isinstance(parts.get(split), Dataset):
            known = ", ".join(["holdout", *parts])
            raise UsageError(f"--split {split} is none of {known}; name one of these")
        return {split: parts[split]}

    # --- without -----------------------------------------------------------------------------

    def predict(self, file: Path) -> Iterator[dict[str, Any]]:
        """What the model says of each row of a file: where the row is, the prediction, and its
        probabilities or scores; the text, too, if so wished.

        Raises:
            UsageError: The file cannot be read.
        """
        config = self.config
        columns = Columns(config.text_column, config.pair_column, config.source_column)
        rows = unlabelled(self.task, file, columns, data.form_of(config))
        answer = self.answers if self.task.by_row else self._of_texts
        found = answer(rows, file.name)
        said = [self.task.prediction(record) for record in found]
        return told(rows, said, self._texts)

    def _of_texts(self, rows: Dataset, name: str) -> list[Record]:
        """Of running text a record for every row, read by itself, instead of for every block."""
        features, _ = encode(rows, self.task, self.reader, training=False, name=name, alone=True)
        found = [{"nll": 0.0, "tokens": 0} for _ in rows]
        for row, record in zip(features["row"], self._records(rows, features, name), strict=True):
            for name, value in record.items():
                found[row][name] += value
        return found

    def _records(self, rows: Dataset, features: Dataset, name: str) -> list[Record]:
        if cut := sum(features["cut"]):
            logger.warning("%s: %d of %d too long and cut off", name, cut, len(features))
        return records(
            self.model,
            self.tokenizer,
            self.task,
            Split(rows, features),
            batch_size=4 * self.config.batch_size,
            bf16=self.config.precision == "bf16",
        )

    @property
    def _texts(self) -> tuple[str, ...]:
        """Columns that are told beside what the model says of them."""
        return self.task.inputs if self.config.with_text else ()


# --- does the model do the task? -------------------------------------------------------------


def _named(config: Any) -> tuple[str, ...] | None:
    """The names of a model's classes in the order of their indices; None where they have none."""
    names = {int(index): str(name) for index, name in (config.id2label or {}).items()}
    found = tuple(names[index] for index in sorted(names))
    return None if all(map(_UNNAMED.fullmatch, found)) else found


def _without_data(config: RunConfig, names: tuple[str, ...] | None) -> Task:
    """The task of a config, whose own data is not read."""
    name = config.task
    if name not in (*tasks.TASKS, *tasks.OWN):
        raise UsageError(unknown("task", name, (*tasks.TASKS, *tasks.OWN)))
    if name in tasks.TASKS:
        return tasks.get(name)
    if name == "chat":
        raise UsageError(
            "predict does not carry on conversations; have the model answer by its generate, given "
            "tokenizer.apply_chat_template(messages, add_generation_prompt=True), or judge answers "
            "by prunella evaluate"
        )
    if name in ("classification", "multilabel", "ner/columns") and names is None:
        raise UsageError(
            f"the model {config.origin} does not name its classes (id2label in its config.json), "
            f"so nothing can be said in words; name them there, or give a model of {name} that "
            "prunella prune wrote"
        )
    match name:
        case "classification" | "regression":
            labels = names if name == "classification" else None
            pair = config.pair_column is not None
            return Classification(name, load=_no_data, labels=labels, measures=(), pair=pair)
        case "multilabel":
            pair = config.pair_column is not None
            return Multilabel(name, load=_no_data, labels=names or (), pair=pair)
        case "ner/columns":
            return Tagging(name, load=_no_data, labels=names or ())
        case "text2text":
            return Generation(name, load=_no_data, measures=())
    return Language(name, load=_no_data, masked=name == "lm/masked")


def _no_data(_: Path | None) -> Any:
    raise AssertionError("predictions need no labelled data")


def _check_head(config: RunConfig, task: Task, known: Any, architecture: Any) -> None:
    """Raise UsageError where a model was fine-tuned for another kind of task, or other classes."""
    found = task.architecture(known)._model_mapping[type(known)]
    wanted = found if isinstance(found, tuple | list) else (found,)
    if architecture not in wanted:
        raise UsageError(
            f"the model {config.origin} is a {architecture.__name__}, and {task.name} needs a "
            f"{wanted[0].__name__}; give a model that was fine-tuned for it, or another --task"
        )
    outputs = 1 if task.numeric else len(task.classes or ())
    if outputs and known.num_labels != outputs:
        raise UsageError(
            f"the model {config.origin} has {known.num_labels} outputs, and {task.name} {outputs}; "
            "give a model of that task, or another --task"
        )


def _order_classes(config: RunConfig, task: Task, model: PreTrainedModel) -> None:
    """Have a model name its classes in the task's order.

    Raises:
        UsageError: They have other names; those that have none are taken in the order they are in.
    """
    ours, theirs = task.classes, _named(model.config)
    if ours is None or theirs is None or ours == theirs:
        return
    if sorted(ours) != sorted(theirs):
        raise UsageError(
            f"the classes of the model {config.origin} are {_some(theirs)}, and {task.name} has "
            f"{_some(ours)}; give a model of that task, or correct id2label in its config.json"
        )
    columns = [theirs.index(name) for name in ours]

    def reorder(_: Any, __: Any, outputs: Any) -> Any:
        outputs.logits = outputs.logits[..., columns]
        return outputs

    model.register_forward_hook(reorder)


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return ", ".join(names[:8]) + more


# --- files -----------------------------------------------------------------------------------


def check_place(file: Path, overwrite: bool) -> None:
    """Raise UsageError where a file cannot be written, or would replace another unasked."""
    if file.is_dir():
        raise UsageError(f"{file} is a folder; name a file")
    if file.exists() and not overwrite:
        raise UsageError(f"there is a {file} already; name another file, or add --overwrite")


def write(lines: Iterable[Mapping[str, Any]], file: Path) -> None:
    """Write rows to a file that is whole or not there.

    Raises:
        Unsaved: It cannot be written.
    """
    text = written(lines, file.suffix)
    with whole(file) as new:
        new.write_text(text, encoding="utf-8")


def written(lines: Iterable[Mapping[str, Any]], suffix: str = "") -> str:
    """Rows as JSON lines or, for ``.csv``, as a table, whose cells hold JSON where they are no
    text and no number."""
    if suffix.lower() != ".csv":
        return "".join(f"{json.dumps(line, ensure_ascii=False)}\n" for line in lines)
    rows = list(lines)
    file = io.StringIO()
    names = list(dict.fromkeys(name for row in rows for name in row))
    table = csv.DictWriter(file, names, lineterminator="\n")
    table.writeheader()
    table.writerows({name: _cell(value) for name, value in row.items()} for row in rows)
    return file.getvalue()


def _cell(value: Any) -> Any:
    if value is None or isinstance(value, str | int | float):
        return value
    return json.dumps(value, ensure_ascii=False)
