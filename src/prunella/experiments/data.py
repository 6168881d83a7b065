"""From settings to a task, its rows, and what a model is given of them."""

from __future__ import annotations

import os
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset, IterableDataset

from prunella import tasks
from prunella.errors import UsageError, unknown
from prunella.experiments.config import RunConfig
from prunella.experiments.encoding import Split, encode, fingerprint, spelled, stream
from prunella.tasks import Classification, Multilabel, Reader, Task, conversations
from prunella.tasks.base import Rows
from prunella.tasks.form import PLAIN, Form

SAMPLE_SEED = 0  # of --max-train-samples, which no run's seed changes
HELD_OUT = 1000  # rows of a stream
ROWS = Rows(origins=True)  # predictions say of which rows they are

# Settings that say where the data's columns are, and the tasks they are for.
_TABLES = ("classification", "regression", "multilabel")
_LANGUAGE = ("lm/causal", "lm/masked")
_CHAT = ("lm/causal", "chat")
_OF_TASKS = {
    "text_column": (*_TABLES, *_LANGUAGE, "chat", "ner/columns"),
    "pair_column": _TABLES,
    "label_column": (*_TABLES, "ner/columns"),
    "scheme": ("ner/columns",),
    "source_column": ("text2text",),
    "target_column": ("text2text",),
    "streaming": ("text2text", *_LANGUAGE, "chat"),
    "train_on": _CHAT,
    "label_separator": ("multilabel",),
    "positive_class": ("classification",),
    "separator": (*_TABLES, "text2text", *_LANGUAGE),
    "decimal": ("classification", "regression"),
}
# Settings of a task, where it has the field.
_FIELDS = {
    "stride": "stride",
    "no_answer_threshold": "threshold",
    "prefix": "prefix",
    "max_target_length": "target_length",
    "train_on": "train_on",
    "label_threshold": "label_threshold",
}
_DECODING = ("beams", "max_new_tokens", "length_penalty", "no_repeat_ngram")


def task(config: RunConfig, asked: Rows = ROWS) -> Task:
    """The task that is named, with its settings; files of the user's own are read at once.

    Args:
        asked: what is asked of the rows of such files.

    Raises:
        UsageError: there is no such task, a setting does not belong to it, or its data is bad.
    """
    if config.task not in (*tasks.TASKS, *tasks.OWN):
        raise UsageError(unknown("task", config.task, (*tasks.TASKS, *tasks.OWN)))
    for name, names in _OF_TASKS.items():
        unlabelled = config.distill_data is not None and name in ("text_column", "pair_column")
        if getattr(config, name) and config.task not in names and not unlabelled:
            raise _misplaced(config, name, f"is for {', '.join(names)}")
    found = _own(config, asked) if config.task in tasks.OWN else _public(config)
    single = isinstance(found, Classification) and found.labels is not None
    if config.class_weights is not None and not single:
        raise _misplaced(config, "class_weights", "is for tasks of one class a row")
    if config.metric is not None and config.metric not in found.metrics:
        raise UsageError(unknown("metric", config.metric, found.metrics))
    _check_drop(config, found)
    return set_up(config, found)


def _check_drop(config: RunConfig, task: Task) -> None:
    """Raise UsageError where any model would be inside the limit."""
    drop, top = config.max_drop, task.top
    if drop is not None and drop >= top:
        example = f"; for {drop:g} points give {drop / 100:g}" if top == 1 and drop < 100 else ""
        raise UsageError(
            f"--max-drop {drop:g} is no limit for {headline(config, task)}, which runs to {top:g}: "
            f"any model would be inside; give less than {top:g}{example}"
        )


def set_up(config: RunConfig, task: Task) -> Task:
    """The task with the settings that were given."""
    known = {field.name for field in fields(task)}
    if not getattr(task, "impossible", False):  # a question always has an answer
        known.discard("threshold")
    given = {name: getattr(config, name) for name in (*_FIELDS, *_DECODING)}
    given = {name: value for name, value in given.items() if value is not None}
    for name in given:
        if _FIELDS.get(name, "decoding") not in known:
            raise _misplaced(config, name, "does not apply")
    changes: dict[str, Any] = {_FIELDS[n]: value for n, value in given.items() if n in _FIELDS}
    if search := {name: given[name] for name in _DECODING if name in given}:
        decoding: Any = getattr(task, "decoding", None)
        changes["decoding"] = replace(decoding, **search)
    return replace(task, **changes)


def _misplaced(config: RunConfig, name: str, why: str) -> UsageError:
    flag = f"--{name.replace('_', '-')}"
    return UsageError(f"{flag} {why}, and the task is {config.task}; leave it out")


def form_of(config: RunConfig) -> Form:
    """How the user's files are to be read."""
    decimal = config.decimal or "."
    return Form(config.separator, config.encoding, decimal, config.skip_bad_rows)


def _public(config: RunConfig) -> Task:
    """A task that is known by name; its files may be read in another way than they should be."""
    found, form = tasks.get(config.task), form_of(config)
    load: Any = found.load
    if config.test_data is not None:
        if config.task == "demo":
            raise _misplaced(config, "test_data", "is for tasks on files")
        load = partial(load, test=_test(config))
    if form == PLAIN:
        return replace(found, load=load)
    if config.task == "demo" or config.task.startswith("d2t/"):
        flag = "encoding" if config.encoding else "skip_bad_rows"
        raise _misplaced(config, flag, "is for files of your own, of glue, qa and ner")
    return replace(found, load=partial(load, form=form))  # of these families takes a form, too


def _test(config: RunConfig) -> Path | None:
    """The file for test that was asked for."""
    return None if config.test_data is None else Path(config.test_data).expanduser()


def _own(config: RunConfig, asked: Rows) -> Task:
    """A task on the user's own data."""
    if config.data is None and config.task not in _LANGUAGE:
        raise UsageError(
            f"the task {config.task} is on data of your own; give a file, or a folder with train "
            "and dev files, by --data"
        )
    data, form, test = os.path.expanduser(config.data or ""), form_of(config), _test(config)
    if config.task in (*_CHAT, "lm/masked", "text2text") and config.data is not None:
        holds = conversations.are_in(data, config.text_column, form)
        if config.task == "chat" or (holds and config.task == "lm/causal"):
            return tasks.chat(
                data,
                name=config.task,
                column=config.text_column,
                streaming=config.streaming,
                form=form,
                test=test,
                asked=asked,
            )
        if holds and not config.source_column:
            raise UsageError(
                f"{config.data} holds conversations, which {config.task} does not read; give "
                "--task chat"
            )
    if config.task in _LANGUAGE:
        return tasks.language(
            "lm/causal" if config.task == "lm/causal" else "lm/masked",
            data or None,
            column=config.text_column or "text",
            streaming=config.streaming,
            form=form,
            test=test,
            asked=asked,
        )
    if config.task == "text2text":
        return tasks.text2text(
            data,
            source=config.source_column or "source",
            target=config.target_column or "target",
            streaming=config.streaming,
            form=form,
            test=test,
            asked=asked,
        )
    if config.task == "ner/columns":
        return tasks.columns(
            data,
            word=config.text_column,
            tag=config.label_column,
            scheme=config.scheme,
            form=form,
            test=test,
            asked=asked,
        )
    kind: Any = config.task
    return tasks.table(
        kind,
        data,
        text=config.text_column or "text",
        pair=config.pair_column,
        label=config.label_column or "label",
        separator=config.label_separator,
        positive=config.positive_class,
        form=form,
        test=test,
        asked=asked,
    )


def headline(config: RunConfig, task: Task) -> str:
    """The metric that choices are made by."""
    return config.metric or task.metrics[0]


@dataclass(frozen=True)
class Data:
    """A task's rows, encoded for one model.

    Attributes:
        reader: how texts became tokens.
        train: what is trained on.
        splits: what is judged, by name: `train` (a part of it, to see over-fitting), `holdout` (cut
            from train), `dev` and further ones of that kind, and `test` where there is one.
        unlabelled: what is distilled on besides.
        about: rows and SHA-256 of each split, before it was encoded; of a stream, that of its
            first rows.
        overlap: how many rows of holdout, dev and test share text with what is trained on (see
            `tasks.overlap.shared`), of a stream with its first rows; and how many training rows
            were `left_out`, for they share some with the holdout.
        spelled: how many rows of a split spell special tokens in their texts.
    """

    reader: Reader
    train: Dataset | IterableDataset
    splits: dict[str, Split]
    unlabelled: Dataset | None
    about: dict[str, dict[str, Any]]
    overlap: dict[str, Any]
    spelled: dict[str, int]

    @classmethod
    def read(cls, config: RunConfig, task: Task, reader: Reader) -> Data:
        """Read and encode it.

        Raises:
            UsageError: it cannot be read, or has too few rows.
        """
        loaded = task.load(None if config.data is None else Path(config.data).expanduser())
        rows, holdout, left_out = apart(loaded.train, config, task)
        about: dict[str, dict[str, Any]] = {}
        train: Dataset | IterableDataset
        if isinstance(rows, Dataset):
            train, about["train"] = encode(rows, task, reader, training=True, name="train")
            sample = rows.select(range(min(len(rows), len(holdout))))
        else:
            train = stream(rows, task, reader, config.seed)
            sample = _taken(rows, len(holdout))
            about["train"] = fingerprint(sample) | {"rows": None}
        reported = loaded.dev if loaded.test is None else loaded.dev | {"test": loaded.test}
        judged = {"holdout": holdout, **reported}
        counted = rows if isinstance(rows, Dataset) else sample
        overlap = {"left_out": left_out, **tasks.shared(counted, judged, task.texts)}
        splits = {}
        for name, part in {"train": sample, **judged}.items():
            features, known = encode(part, task, reader, training=False, name=name)
            splits[name] = Split(part, features)
            about.setdefault(name, known)
        unlabelled = None
        if config.distill_data is not None:
            part = _unlabelled(config, task, config.distill_data)
            unlabelled, about["unlabelled"] = encode(
                part, task, reader, training=True, name="unlabelled"
            )
        parts = {"train": rows, **reported}
        counts = {
            name: spelled(part, reader.tokenizer)
            for name, part in parts.items()
            if isinstance(part, Dataset)
        }
        return cls(reader, train, splits, unlabelled, about, overlap, counts)

    @property
    def dev(self) -> dict[str, Split]:
        """The splits for dev."""
        return {name: part for name, part in self.splits.items() if name.startswith("dev")}

    @property
    def reported(self) -> dict[str, Split]:
        """The splits that are reported: those for dev, and test."""
        return self.dev | {n: part for n, part in self.splits.items() if n == "test"}

    @property
    def examples(self) -> int:
        """What an epoch of training has; 0 where that is not known."""
        return len(self.train) if isinstance(self.train, Dataset) else 0

    @property
    def longest(self) -> int:
        """Tokens of the longest input."""
        parts = [split.features for split in self.splits.values()]
        parts += [part for part in (self.train, self.unlabelled) if isinstance(part, Dataset)]
        return max(max(part["length"]) for part in parts)

    def left_out(self) -> dict[str, tuple[int, int]]:
        """For each split with rows that made no input, how many, and of how many."""
        parts = {name: (len(split.rows), split.features) for name, split in self.splits.items()}
        if isinstance(self.train, Dataset):
            parts["train"] = (self.about["train"]["rows"], self.train)
        counts = {name: (rows - len({*part["row"]}), rows) for name, (rows, part) in parts.items()}
        return {name: count for name, count in counts.items() if count[0]}

    def cut(self) -> dict[str, tuple[int, int]]:
        """For each split with inputs that had to be cut, how many, and of how many."""
        parts = {name: split.features for name, split in self.splits.items()}
        if isinstance(self.train, Dataset):
            parts["train"] = self.train
        counts = {name: (sum(part["cut"]), len(part)) for name, part in parts.items()}
        return {name: count for name, count in counts.items() if count[0]}


def apart(
    train: Dataset | IterableDataset, config: RunConfig, task: Task
) -> tuple[Dataset | IterableDataset, Dataset, int]:
    """Training rows, as many as are wanted, the holdout, and how many rows are in neither."""
    wanted = config.max_train_samples
    if isinstance(train, Dataset):
        rest, holdout = tasks.cut_holdout(
            train,
            config.holdout_seed,
            apart=task.apart,
            ordered=task.ordered,
            texts=task.texts,
        )
        left_out = len(train) - len(rest) - len(holdout)
        if wanted is not None and wanted < len(rest):
            # Running text is taken from its beginning, for each row goes on from the one before.
            random = np.random.RandomState(SAMPLE_SEED)
            kept = range(wanted) if task.ordered else random.permutation(len(rest))[:wanted]
            rest = rest.select(kept)
        return rest, holdout, left_out
    head = _taken(train, HELD_OUT + 1)
    if len(head) <= HELD_OUT:
        raise UsageError(
            f"the first {HELD_OUT} rows of a stream are held out, and this one has no more; read "
            "it whole, without --streaming"
        )
    rows = train.skip(HELD_OUT)
    rows = rows if wanted is None else rows.take(wanted)
    return rows, head.select(range(HELD_OUT)), 0


def _taken(rows: IterableDataset, size: int) -> Dataset:
    """The first rows of a stream."""
    return Dataset.from_list(list(rows.take(size)), features=rows.features)


def _unlabelled(config: RunConfig, task: Task, file: str) -> Dataset:
    if not isinstance(task, Classification | Multilabel):
        raise UsageError(
            f"--distill-data is for tasks that classify or grade texts, and {config.task} does "
            "not; leave it out"
        )
    columns = [config.text_column or "text"] + [config.pair_column or "pair"] * task.pair
    return tasks.texts(Path(file).expanduser(), columns, form_of(config))
